//! What `get` answers.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    model::{Device, FlowSpec, Missing, NextHop, Rule},
    show::{flows::ReplyFlow, status::NextHopState},
};

/// What Byway does with a packet that it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Sends it to a next hop.
    Redirect,
    /// Sends it back by the way that its flow came in by. If it is not known which flow that is, it may be no reply, and then the
    /// rule's target says what becomes of it.
    ReplyTo,
    /// Leaves it to normal routing.
    Pass,
    /// Drops it.
    Drop,
    /// It depends on the destination, which is not known.
    Depends,
}

/// Packets that Byway leaves to normal routing, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftAlone {
    /// To a multicast address.
    Multicast,
    /// From or to a link-local address.
    LinkLocal,
    /// To a broadcast address.
    Broadcast,
}

/// A next hop of the rule that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Way {
    /// The next hop.
    #[serde(flatten)]
    pub next_hop: NextHop,
    /// Its share of the flows, among several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Whether it is a backup of the others.
    #[serde(rename = "backup", skip_serializing_if = "std::ops::Not::not")]
    pub is_backup: bool,
    /// Whether packets get through.
    pub state: NextHopState,
    /// It has not answered the last probe yet. Packets go there only if they have no other way.
    pub is_doubtful: bool,
    /// Its device is down.
    pub device_down: bool,
    /// Its device is up, and has no carrier.
    pub no_carrier: bool,
    /// The MTU of its device in bytes. `None` if the device is gone.
    pub mtu: Option<u32>,
    /// The flow belongs to it, and goes there while it is in service.
    pub is_own: bool,
    /// The flow goes there now, or may: there are several such ways only if the decision [depends](Decision::depends_on) on
    /// something that is not known.
    pub is_taken: bool,
}

/// Where the routing tables send a packet, without Byway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Route {
    /// Out of a device.
    Leaves {
        /// The device.
        device: Device,
        /// The neighbour that would get the packet. Without one, the destination itself is the neighbour.
        gateway: Option<IpAddr>,
    },
    /// To this host itself.
    Local,
    /// Nowhere: there is no route, or one that refuses.
    NoRoute,
    /// The source is not an address of this host, so the packet comes in by some device, and it is not known which.
    SourceNotLocal,
    /// The kernel does not forward it from that device.
    NotForwarded,
    /// The destination is not known.
    Unknown,
}

/// What becomes of the packets of a flow, and why.
///
/// Byway redirects them if `action` is [`Action::Redirect`] and `seen_by` is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Decision {
    /// The flow.
    #[serde(flatten)]
    pub flow: FlowSpec,
    /// What Byway does with a packet that leaves by an attachment.
    pub action: Action,
    /// Why it does not look at the rules, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<LeftAlone>,
    /// The rule that decides.
    pub rule: Option<Rule>,
    /// Less specific rules for the same packets, the most specific one first. With [`Action::Depends`], all rules for the source:
    /// the first one that matches the destination decides.
    pub beaten: Vec<Rule>,
    /// The next hops of the rule.
    #[serde(rename = "nexthops")]
    pub ways: Vec<Way>,
    /// With [`Action::ReplyTo`], what is known about the flow. `None` if its packets are no replies of a known flow, or if it is
    /// not known which flow it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyFlow>,
    /// What the decision between several next hops, between rules, or between a reply and others depends on, and is not known.
    pub depends_on: Vec<Missing>,
    /// Where the packet would go without Byway.
    pub route: Route,
    /// The attachments that the packet leaves by. If there are none, Byway does not see it.
    pub seen_by: Vec<Device>,
    /// All attachments that carry Byway's program.
    pub attachments: Vec<Device>,
    /// Sentences about what may go wrong all the same.
    pub warnings: Vec<String>,
}

impl Way {
    /// Makes a next hop that no flow takes, with nothing known about its device.
    pub fn new(next_hop: NextHop, state: NextHopState) -> Self {
        Self {
            next_hop,
            weight: None,
            is_backup: false,
            state,
            is_doubtful: false,
            device_down: false,
            no_carrier: false,
            mtu: None,
            is_own: false,
            is_taken: false,
        }
    }
}

impl Decision {
    /// Makes the decision for a flow that no rule matches, with nothing known about its route.
    pub fn new(flow: FlowSpec) -> Self {
        Self {
            flow,
            action: Action::Pass,
            left_alone: None,
            rule: None,
            beaten: Vec::new(),
            ways: Vec::new(),
            reply: None,
            depends_on: Vec::new(),
            route: Route::Unknown,
            seen_by: Vec::new(),
            attachments: Vec::new(),
            warnings: Vec::new(),
        }
    }
}
