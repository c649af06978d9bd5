//! What the tests on the kernel share.

pub(crate) mod backend;
pub(crate) mod departure;
pub(crate) mod devices;
pub(crate) mod foreign;
pub(crate) mod matrix;
pub(crate) mod narrow;
pub(crate) mod packet;
pub(crate) mod proven;
pub(crate) mod random;
pub(crate) mod replies;
pub(crate) mod routers;
pub(crate) mod sockets;
pub(crate) mod tun;

pub(crate) use matrix::{FAMILIES, any_hook, hooks, hooks_and_addresses, hooks_and_families};

use std::{net::IpAddr, time::Duration};

use byway::{Byway, Hook, NextHopSpec, RuleSpec, RuleStatus, TargetSpec};
use byway_lab::{Node, wait_until};
use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL, Netlink,
    packet::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        tc::{TcAttribute, TcHandle, TcMessage},
    },
};

/// Long enough for an answer that comes, on the slowest machine: an emulated one that has less than half a processor, where one
/// load of the programs takes seconds. No test waits for it but one that fails.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// Long enough to be sure that none comes. Every test that expects none sees one come afterwards or before.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// Says that this kernel lacks what a test needs. That is a failure where the kernel is one that has everything
/// (`BYWAY_ALL_DEVICES=1`).
pub(crate) fn lacking(what: &str) {
    assert!(std::env::var("BYWAY_ALL_DEVICES").as_deref() != Ok("1"), "this kernel has no {what}");
    println!("this kernel has no {what}: nothing is tested");
}

/// The same where this kernel is older than what it lacks, which is then nothing to wonder at.
pub(crate) fn lacking_before(what: &str, since: [u32; 2]) {
    if release() < since {
        println!("this kernel has no {what}, which came with {}.{}: nothing is tested", since[0], since[1]);
    } else {
        lacking(what);
    }
}

/// The first two numbers of the kernel's version.
pub(crate) fn release() -> [u32; 2] {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Calls Byway in a node, with a hook.
pub(crate) fn on<T: Send>(node: &Node, hook: Hook, call: impl FnOnce(&mut Byway) -> T + Send) -> T {
    node.run(|| call(&mut Byway::open().unwrap().with_hook(hook)))
}

/// A rule through a gateway on a device.
pub(crate) fn via(source: &str, gateway: IpAddr, device: &str) -> RuleSpec {
    RuleSpec::new(source.parse().unwrap(), NextHopSpec::via(gateway).dev(device))
}

/// A rule straight out of a device.
pub(crate) fn on_link(source: &str, device: &str) -> RuleSpec {
    RuleSpec::new(source.parse().unwrap(), TargetSpec::NextHop(NextHopSpec::Dev(device.into())))
}

/// The only rule there is.
pub(crate) fn the_rule(node: &Node) -> RuleStatus {
    let mut rules = rules(node);
    assert_eq!(rules.len(), 1, "{rules:?}");
    rules.remove(0)
}

/// The same, once all that departed has arrived: an acknowledgement may be on its way still when the answer is there.
pub(crate) fn all_arrived(node: &Node) -> RuleStatus {
    let mut status = the_rule(node);
    let arrived = wait_until(ANSWER, || {
        status = the_rule(node);
        status.departed == status.arrived
    });
    assert!(arrived, "{status:?}");
    status
}

pub(crate) fn rules(node: &Node) -> Vec<RuleStatus> {
    node.run(|| Byway::open().unwrap().rules().unwrap())
}

/// What Byway has pinned in this lab, all nodes together. A lab has a BPF file system of its own.
pub(crate) fn pins() -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/sys/fs/bpf/byway") else { return Vec::new() };
    folder.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

/// Puts a qdisc where clsact would sit (`tc qdisc add dev DEVICE ingress`).
pub(crate) fn add_ingress_qdisc(device: &str) {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(device, "ingress"));
    Netlink::open().unwrap().change(message, NLM_F_CREATE | NLM_F_EXCL).unwrap();
}

/// `tc qdisc add dev DEVICE clsact`
pub(crate) fn add_clsact_qdisc(device: &str) {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(device, "clsact"));
    Netlink::open().unwrap().change(message, NLM_F_CREATE | NLM_F_EXCL).unwrap();
}

/// `tc qdisc del dev DEVICE clsact`
pub(crate) fn delete_clsact_qdisc(device: &str) {
    let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(device, "clsact"));
    Netlink::open().unwrap().change(message, 0).unwrap();
}

fn qdisc(device: &str, kind: &str) -> TcMessage {
    let index = nix::net::if_::if_nametoindex(device).unwrap();
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::from(0xFFFF_FFF1); // TC_H_INGRESS, TC_H_CLSACT
    message.header.handle = TcHandle::from(0xFFFF_0000);
    message.attributes.push(TcAttribute::Kind(kind.into()));
    message
}

/// `ip link add NAME link LOWER type macvlan`
pub(crate) fn add_macvlan(name: &str, lower: &str) {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Link(nix::net::if_::if_nametoindex(lower).unwrap()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan)]),
    ];
    let message = RouteNetlinkMessage::NewLink(message);
    Netlink::open().unwrap().change(message, NLM_F_CREATE | NLM_F_EXCL).unwrap();
}

/// `ip link add NAME index INDEX type bridge`, up.
pub(crate) fn add_bridge(name: &str, index: u32) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    let message = RouteNetlinkMessage::NewLink(message);
    Netlink::open().unwrap().change(message, NLM_F_CREATE | NLM_F_EXCL).unwrap();
}
