//! What has changed because devices or routes have.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    state::{Actual, Role},
    step::Step,
};
use crate::model::{Device, NextHop};

/// What [`Byway::follow`](crate::Byway::follow) has changed, because a device or a route has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Followed {
    /// The device is an attachment now: it carries a default route, or has come back, or its program was gone.
    Attached(Device),
    /// The device is no attachment any more: it carries no default route.
    Detached(Device),
    /// The next hop leaves by this device now, or has this gateway: it has come back, or the routing tables find the gateway
    /// there, or the host has learned another gateway.
    NextHop(NextHop),
    /// The MTU of the next hop's device is another one.
    Mtu(NextHop),
    /// Requests come in by this device, and `reply-to` sends their replies back.
    Receives(Device),
    /// The devices that rules name after `reply-to` are these now, by the names that they have there. One that does not exist
    /// has the index 0.
    ReplyDevices(BTreeMap<String, u32>),
}

impl Followed {
    /// Returns what these steps change that somebody wants to know.
    pub(crate) fn of(actual: &Actual, steps: &[Step]) -> Vec<Self> {
        let moved = actual.moved.values().cloned().map(Self::NextHop);
        moved.chain(steps.iter().filter_map(|step| Self::of_step(actual, step))).collect()
    }

    fn of_step(actual: &Actual, step: &Step) -> Option<Self> {
        Some(match step {
            Step::Attach(device, Role::Departure) | Step::ChangeRole(device, Role::Departure) => {
                Self::Attached(device.clone())
            }
            Step::Detach(device, Role::Departure) | Step::ChangeRole(device, Role::Arrival) => {
                Self::Detached(device.clone())
            }
            Step::Attach(device, Role::Reception) => Self::Receives(device.clone()),
            Step::Renew(next_hop) if actual.next_hops.get(next_hop).is_some_and(|slot| slot.is_gone) => {
                Self::NextHop(next_hop.clone())
            }
            Step::Renew(next_hop) => Self::Mtu(next_hop.clone()),
            Step::SetDevices(_, devices) => Self::ReplyDevices(devices.clone()),
            _ => return None,
        })
    }
}

impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached(device) => write!(f, "attached to {}", device.name),
            Self::Detached(device) => {
                write!(f, "detached from {}, which carries no default route now", device.name)
            }
            Self::NextHop(NextHop { gateway: Some(gateway), learned: Some(learned), device, .. }) => {
                write!(f, "the next hop via {learned} dev {} has the gateway {gateway} now", device.name)
            }
            Self::NextHop(next_hop) => {
                write!(f, "the next hop {next_hop} leaves by {} now", next_hop.device.name)
            }
            Self::Mtu(next_hop) => write!(f, "the MTU of {} is another one now", next_hop.device.name),
            Self::Receives(device) => write!(f, "replies to requests by {0} go back by {0}", device.name),
            Self::ReplyDevices(devices) => {
                let there: Vec<&str> =
                    devices.iter().filter(|(_, index)| **index != 0).map(|(name, _)| name.as_str()).collect();
                match there.is_empty() {
                    true => write!(f, "none of the devices after `reply-to` is there now"),
                    false => write!(
                        f,
                        "of the devices after `reply-to`, these are there now: {}",
                        there.join(", ")
                    ),
                }
            }
        }
    }
}
