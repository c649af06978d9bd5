//! A filter in the ingress or egress chain of a clsact qdisc (tc-bpf(8)): the hook of kernels before tcx.
//!
//! Byway recognises its filter by priority, handle and name, whichever build has added it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::programs::SchedClassifier;
use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE,
    packet::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};

use super::network::Network;
use crate::{
    error::{Error, Result},
    model::Device,
    policy::state::{Direction, Place, Role},
};

/// The priority of Byway's filter in a clsact chain: after those that an operator puts first, before those that the
/// kernel has numbered (49152 and down).
const PRIORITY: u16 = 2842;
/// The handle of Byway's filter, which tells it from others of the same priority.
const HANDLE: u32 = 0xB1A7;
/// `ETH_P_ALL` (include/uapi/linux/if_ether.h).
const ETH_P_ALL: u16 = 3;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`, and the same of egress (include/uapi/linux/pkt_sched.h).
const INGRESS: u32 = 0xFFFF_FFF2;
const EGRESS: u32 = 0xFFFF_FFF3;
/// `TC_H_CLSACT`, the parent of the clsact and ingress qdiscs.
const CLSACT: u32 = 0xFFFF_FFF1;
const CLSACT_HANDLE: u32 = 0xFFFF_0000;

/// The kernel's errors for a device, a qdisc or a filter that does not exist.
const GONE: [i32; 3] = [libc::ENODEV, libc::ENOENT, libc::EINVAL];

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| GONE.contains(&number))
}

fn parent(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => INGRESS,
        Direction::Egress => EGRESS,
    }
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Departure => "byway_departure",
        Role::Arrival => "byway_arrival",
        Role::Reception => "byway_reception",
    }
}

/// Returns which of Byway's programs Byway's filter at a place runs.
pub(super) fn role(network: &mut Network, place: Place) -> Result<Option<Role>> {
    Ok(filters(network, place)?.iter().find_map(|message| {
        let found = program_name(message).filter(|_| is_byways(message))?;
        Role::ALL.into_iter().find(|role| name(*role) == found)
    }))
}

/// Returns the identity of the program in Byway's filter at a place.
pub(super) fn program(network: &mut Network, place: Place) -> Result<Option<u32>> {
    Ok(filters(network, place)?.iter().filter(|message| is_byways(message)).find_map(|message| {
        bpf_options(message).find_map(|option| match option {
            TcFilterBpfOption::ProgId(id) => Some(*id),
            _ => None,
        })
    }))
}

/// Whether the filter has Byway's priority and handle.
fn is_byways(message: &TcMessage) -> bool {
    u32::from(message.header.handle) == HANDLE && message.header.info >> 16 == u32::from(PRIORITY)
}

fn program_name(message: &TcMessage) -> Option<&str> {
    bpf_options(message).find_map(|option| match option {
        TcFilterBpfOption::ProgName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn bpf_options(message: &TcMessage) -> impl Iterator<Item = &TcFilterBpfOption> {
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().filter_map(|option| match option {
        TcOption::Bpf(option) => Some(option),
        _ => None,
    })
}

/// Puts the program into Byway's filter. If the filter exists already, this replaces its program in one instant.
pub(super) fn set(
    network: &mut Network,
    device: &Device,
    role: Role,
    program: &SchedClassifier,
) -> Result<()> {
    let failed = format!("attach to {} with a clsact filter of priority {PRIORITY}", device.name);
    let fd = program.fd().map_err(|error| Error::kernel(failed.clone(), error))?.as_fd().as_raw_fd();
    let place = Place::of(device, role);
    // Keep somebody else's filter of the same priority and handle.
    let flags = if self::role(network, place)?.is_some() { NLM_F_REPLACE } else { NLM_F_EXCL };
    let mut message = filter_message(place);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(fd as u32)),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name(role).to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    network
        .netlink()
        .change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | flags)
        .map_err(Error::io(failed))
}

/// Removes Byway's filter of one direction. A missing one is not an error.
pub(super) fn remove(network: &mut Network, device: &Device, direction: Direction) -> Result<()> {
    let place = Place { ifindex: device.index, direction };
    if role(network, place)?.is_none() {
        return Ok(());
    }
    match network.netlink().change(RouteNetlinkMessage::DelTrafficFilter(filter_message(place)), 0) {
        Err(error) if !is_gone(&error) => {
            Err(Error::kernel(format!("remove byway's filter from {}", device.name), error))
        }
        _ => Ok(()),
    }
}

/// Whether the device has a clsact qdisc.
///
/// # Errors
///
/// [`Error::IngressQdisc`] if it has an ingress qdisc instead.
pub(super) fn has_qdisc(network: &mut Network, device: &Device) -> Result<bool> {
    match qdiscs(network)?.get(&device.index).map(String::as_str) {
        Some("clsact") => Ok(true),
        Some(_) => Err(Error::IngressQdisc(device.name.clone())),
        None => Ok(false),
    }
}

/// Returns the devices with a clsact qdisc, by ifindex.
pub(super) fn devices(network: &mut Network) -> Result<BTreeSet<u32>> {
    Ok(qdiscs(network)?
        .into_iter()
        .filter(|(_, kind)| kind == "clsact")
        .map(|(ifindex, _)| ifindex)
        .collect())
}

/// Returns the kinds of the clsact and ingress qdiscs, by ifindex.
fn qdiscs(network: &mut Network) -> Result<BTreeMap<u32, String>> {
    // The kernel lists those of all devices, whichever is asked for (`tc_dump_qdisc`, net/sched/sch_api.c).
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers = network.netlink().dump(request).map_err(Error::io("list the qdiscs"))?;
    let kinds = answers.into_iter().filter_map(|answer| {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { return None };
        if u32::from(message.header.parent) != CLSACT {
            return None;
        }
        let kind = message.attributes.into_iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind),
            _ => None,
        })?;
        Some((message.header.index as u32, kind))
    });
    Ok(kinds.collect())
}

pub(super) fn add_qdisc(network: &mut Network, device: &Device) -> Result<()> {
    network
        .netlink()
        .change(
            RouteNetlinkMessage::NewQueueDiscipline(qdisc_message(device.index)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(Error::io(format!("add a clsact qdisc to {}", device.name)))
}

/// Removes the qdisc, unless it has a filter in either direction, Byway's or another's. A missing one is not an error.
pub(super) fn remove_qdisc_if_empty(network: &mut Network, device: &Device) -> Result<()> {
    for direction in Direction::ALL {
        if !filters(network, Place { ifindex: device.index, direction })?.is_empty() {
            return Ok(());
        }
    }
    match network.netlink().change(RouteNetlinkMessage::DelQueueDiscipline(qdisc_message(device.index)), 0) {
        Err(error) if !is_gone(&error) => {
            Err(Error::kernel(format!("remove the clsact qdisc from {}", device.name), error))
        }
        _ => Ok(()),
    }
}

fn filter_message(place: Place) -> TcMessage {
    let mut message = TcMessage::with_index(place.ifindex as i32);
    message.header.parent = TcHandle::from(parent(place.direction));
    message.header.handle = TcHandle::from(HANDLE);
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

fn qdisc_message(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::from(CLSACT);
    message.header.handle = TcHandle::from(CLSACT_HANDLE);
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// Returns the filters of one side of the qdisc; none if there is no such device or qdisc.
fn filters(network: &mut Network, place: Place) -> Result<Vec<TcMessage>> {
    let mut request = TcMessage::with_index(place.ifindex as i32);
    request.header.parent = TcHandle::from(parent(place.direction));
    match network.netlink().dump(RouteNetlinkMessage::GetTrafficFilter(request)) {
        Ok(answers) => Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
                _ => None,
            })
            .collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::kernel("list the filters of a device", error)),
    }
}
