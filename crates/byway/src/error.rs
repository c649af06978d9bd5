//! What can go wrong, each as one sentence for a person: what was asked, what is wrong, what to do.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::model::{Group, NextHopSpec, PrefixError, Rule, RuleError, Selector};

/// Why Byway did not do what was asked. Nothing has changed then, except where [`Error::NotUndone`] says so.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A rule is wrong in itself.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// There is a rule for the very same packets.
    #[error("there is a rule for that already ({0}); use `replace` to change it")]
    RuleExists(Box<Rule>),
    /// Another owner has a rule for the very same packets that says something else.
    #[error("there is a rule for that already ({0}), which belongs to {owner}; delete it first: `byway del {selector}`", owner = .0.owner, selector = .0.selector())]
    RuleOfAnother(Box<Rule>),
    /// Another owner has a group of this name that is another one.
    #[error("there is a group of that name already ({0}), which belongs to {owner}; delete it first, `byway group del {name}`, or take another name", owner = .0.owner, name = .0.name)]
    GroupOfAnother(Group),
    /// Another Byway has a program on a device, with pins that this one does not see.
    #[error(
        "{0} has a program of another Byway, whose BPF file system this one does not see; run byway there, or take the program off first: `tc filter del dev {0} egress prio 2842` does so where it is a filter, and a link goes with its pins"
    )]
    AnotherByway(String),
    /// There is no rule for exactly these packets.
    #[error("there is no rule {0}; `byway show` lists the rules")]
    NoSuchRule(Selector),
    /// The tables are full.
    #[error(
        "the rule {selector} does not fit: the tables are full, at {limit} rules; delete some, or use shorter prefixes"
    )]
    TablesFull {
        /// The rule that did not fit.
        selector: Selector,
        /// How many rules fit.
        limit: u32,
    },
    /// The rules tell too many destinations apart.
    #[error(
        "the rules would tell {wanted} destinations apart, counting those that each source has from the ones around it, and {limit} fit; say `to` in fewer rules, or for shorter sources"
    )]
    TooManyDestinations {
        /// How many they would.
        wanted: usize,
        /// How many fit.
        limit: u32,
    },
    /// There are too many next hops.
    #[error(
        "there is room for {limit} next hops, those included that are to go; delete rules or groups first"
    )]
    TooManyNextHops {
        /// How many there may be.
        limit: u32,
    },
    /// There are too many attachments.
    #[error(
        "there is room to count for {limit} attachments; detach from others first: `byway detach dev NAME`"
    )]
    TooManyAttachments {
        /// How many there may be.
        limit: u32,
    },
    /// There are too many groups.
    #[error(
        "there is room for {limit} groups, and a rule with several next hops of its own has one; let rules share a group: `byway group add`"
    )]
    TooManyGroups {
        /// How many there may be.
        limit: u32,
    },
    /// There is a group of this name.
    #[error("there is a group of that name already ({0}); use `replace` to change it")]
    GroupExists(Group),
    /// An apply waits to be confirmed.
    #[error(
        "the last apply waits to be confirmed; do so with `byway confirm`, or roll it back with `byway rollback`"
    )]
    Unconfirmed,
    /// The last apply waits no longer to be confirmed, and why.
    #[error("no apply waits to be confirmed; of the last one: {0}")]
    TakenBack(String),
    /// The time to confirm an apply is over, and nobody has taken it back.
    #[error("the time to confirm that apply is over; roll it back with `byway rollback`, and apply again")]
    TooLateToConfirm,
    /// No apply has changed anything here since the host started, or the last one has been taken back already.
    #[error(
        "there is nothing to go back to: no apply has changed anything since the host started or the last rollback"
    )]
    NothingToRollBack,
    /// There is no group of this name.
    #[error("there is no group `{0}`; `byway group show` lists them, and `byway group add` makes one")]
    NoSuchGroup(String),
    /// Rules lead to the group.
    #[error("the group {name} is in use by {}", in_use(*.rules, .first))]
    GroupInUse {
        /// The group.
        name: String,
        /// How many rules lead to it.
        rules: usize,
        /// One of them.
        first: Selector,
    },
    /// No rule and no group has this next hop.
    #[error("no rule and no group has the next hop {0}; `byway show nexthops` lists them")]
    NoSuchNextHop(NextHopSpec),
    /// The next hop is there on several devices.
    #[error("the next hop {spec} is there on {}; name one with `dev`", .devices.join(" and "))]
    AmbiguousNextHop {
        /// What was asked for.
        spec: NextHopSpec,
        /// The devices.
        devices: Vec<String>,
    },
    /// No device has this name.
    #[error("there is no device `{0}` in this network namespace; `ip link` lists them")]
    NoSuchDevice(String),
    /// The gateway is no neighbour on the device.
    #[error(
        "the gateway {gateway} is not on-link on {device}: no connected route of {device} covers it; check the address and the device, or add a route to it with `scope link`"
    )]
    NotOnLink {
        /// The gateway.
        gateway: IpAddr,
        /// The device's name.
        device: String,
    },
    /// No device was named, and the routing table knows the gateway on no attached network.
    #[error(
        "no device leads straight to the gateway {0}: no connected route covers it; name the device with `dev`, or check the address"
    )]
    NoDeviceForGateway(IpAddr),
    /// The gateway is one of the host's own addresses.
    #[error("the gateway {0} is an address of this host; name the address of the next router")]
    GatewayIsLocal(IpAddr),
    /// A link-local gateway means nothing without its device.
    #[error("the gateway {0} is link-local and exists on every link; name the device with `dev`")]
    LinkLocalGateway(IpAddr),
    /// `lo` is neither a way out nor a next hop.
    #[error("{0} is the loopback device, which no packet leaves by; name another device")]
    Loopback(String),
    /// Nothing carries a default route.
    #[error(
        "there is no default route, so there is no default-gateway interface to attach to; name the interface to watch with `byway attach dev IF`"
    )]
    NoDefaultRoute,
    /// The device's packets begin with neither an Ethernet nor an IP header.
    #[error(
        "cannot attach to {0}: its packets begin with a header that is neither Ethernet's nor IP's; attach to the device that its traffic leaves by in the end, or to one above it"
    )]
    UnknownHeader(String),
    /// The device carries no departure program.
    #[error("byway is not attached to {0}; `byway show` lists the attachments")]
    NotAttached(String),
    /// The clsact qdisc cannot be added.
    #[error(
        "cannot attach to {0}: it has an `ingress` qdisc, which leaves no room for an egress hook; replace it: `tc qdisc del dev {0} ingress; tc qdisc add dev {0} clsact`"
    )]
    IngressQdisc(String),
    /// Another Byway has changed something in this network namespace all the time.
    #[error("another byway has been changing this network namespace for {}: {holder}; wait until it has ended, or end it", secs(.waited))]
    Busy {
        /// Which process that is, in words.
        holder: String,
        /// How long this one has waited.
        waited: Duration,
    },
    /// A capability is missing.
    #[error("byway needs the capability {0}; run it as root, or give it that capability")]
    Privilege(&'static str),
    /// No BPF file system is mounted, and this process may not mount one.
    #[error("no BPF file system is mounted at {path}, and this process may not mount one; mount it as root: `mount -t bpf bpf {path}`", path = .0.display())]
    NoBpffs(PathBuf),
    /// Another user has made the pins.
    #[error("{path} belongs to another user; run byway as that user, or as root", path = .0.display())]
    NotOurs(PathBuf),
    /// A packet would come back to an attachment from the device below the next hop's.
    #[error(
        "{upper} sends its packets through {lower}, where byway is to watch departures: they would be redirected again without end; use {lower} itself, or do not attach to it"
    )]
    Stacked {
        /// The next hop's device.
        upper: String,
        /// The attachment.
        lower: String,
    },
    /// The device is down, so that it has no connected routes.
    #[error(
        "{device} is down, so that the gateway {gateway} cannot be on-link there; bring it up: `ip link set {device} up`"
    )]
    DeviceDown {
        /// The gateway.
        gateway: IpAddr,
        /// The device's name.
        device: String,
    },
    /// The process runs under `ip netns exec`.
    #[error(
        "`ip netns exec` hides the BPF file system, and what is pinned here would be lost when this command ends; run it outside instead: `byway --netns {0} ...`"
    )]
    BpffsHidden(String),
    /// The pins are of another version of Byway.
    #[error("the pins in {path} have schema {found}, and this byway knows schema {known}; use the byway that made them, or flush and detach with it first", path = .path.display())]
    Schema {
        /// Where they are.
        path: PathBuf,
        /// Their version.
        found: u32,
        /// [`byway_abi::SCHEMA`].
        known: u32,
    },
    /// The pins are of an older version of Byway, and are not taken over yet.
    #[error("the pins in {path} are an older byway's, of schema {found}, and this byway works with schema {known}; the next change takes them over with all rules and counters, as `byway apply` or `byway attach` does", path = .path.display())]
    OlderSchema {
        /// Where they are.
        path: PathBuf,
        /// Their version.
        found: u32,
        /// [`byway_abi::SCHEMA`].
        known: u32,
    },
    /// What is in a pinned map makes no sense: something else than Byway has written there.
    #[error("the map {map} in {path} is damaged: {what}; remove what is pinned, `rm -r {path}`, and add the rules again, for example with `byway apply`", path = .path.display())]
    Damaged {
        /// The folder of the pins.
        path: PathBuf,
        /// The map's name.
        map: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The network namespace does not exist.
    #[error(
        "there is no network namespace `{0}`; `ip netns list` lists the named ones, and a path like /proc/PID/ns/net works too"
    )]
    NoSuchNamespace(String),
    /// The kernel cannot do what Byway is built on.
    #[error("this kernel cannot run byway: {0}")]
    KernelLacks(String),
    /// A call to the kernel failed.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A step failed, and so did taking back the steps before it.
    #[error("{failure}; and it could not be undone: {undo}; the next change by byway tidies what is left")]
    NotUndone {
        /// What failed first.
        failure: Box<Error>,
        /// What failed then.
        undo: Box<Error>,
    },
}

impl Error {
    /// Whether the request is at fault (exit code 2) and not its execution (exit code 1).
    pub fn is_bad_request(&self) -> bool {
        !matches!(
            self,
            Self::Kernel { .. } | Self::NotUndone { .. } | Self::Damaged { .. } | Self::Busy { .. }
        )
    }

    /// A failed call to the kernel. `action` reads after "cannot".
    pub(crate) fn kernel(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Kernel { action: action.into(), source: source.into() }
    }

    /// The same for calls that report an [`io::Error`], which name a missing privilege themselves.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |error| Self::kernel(action, error)
    }
}

/// What the functions of this library return.
pub type Result<T> = std::result::Result<T, Error>;

/// By whom a group is in use, and what to do.
fn in_use(rules: usize, first: &Selector) -> String {
    match rules {
        1 => format!("the rule {first}; delete it or give it another target first"),
        rules => {
            format!("{rules} rules, first by the rule {first}; delete them or give them another target first")
        }
    }
}

fn secs(time: &Duration) -> String {
    format!("{} s", time.as_secs())
}
