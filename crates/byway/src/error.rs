//! Errors, in words for a person: what is wrong, and separately what to do.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use byway_abi::reply::{MAX_DEVICE_SETS, MAX_REPLY_DEVICES};
use thiserror::Error;

use crate::model::{
    FlowError, FlowSpec, Group, HealthCheckSpec, Learned, NextHop, NextHopSpec, PrefixError, Rule, RuleError,
    Selector, in_one_sentence,
};

/// Why Byway did not do what was asked. Nothing has changed then, except where [`Error::NotUndone`] says so.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is not a prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A rule is wrong in itself.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The words for a flow are wrong, or not enough.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// There is already a rule for exactly these packets.
    #[error("there is already a rule for these packets ({0})")]
    RuleExists(Box<Rule>),
    /// Another owner has a different rule for exactly these packets.
    #[error("there is already a rule for these packets ({0}), which belongs to {owner}", owner = .0.owner)]
    RuleOfAnother(Box<Rule>),
    /// Another owner has a different group of this name.
    #[error("there is already a group of that name ({0}), which belongs to {owner}", owner = .0.owner)]
    GroupOfAnother(Group),
    /// Another owner has a different health check of the next hop.
    #[error("there is already a health check of that next hop ({0}), which belongs to {owner}", owner = .0.check.owner)]
    HealthCheckOfAnother(Box<HealthCheckSpec>),
    /// A health check cannot ask anybody.
    #[error("the health check of {next_hop} asks nobody: {why}")]
    CannotCheck {
        /// The next hop.
        next_hop: Box<NextHop>,
        /// Why it cannot, in words.
        why: String,
    },
    /// Another version of Byway has made the rule for exactly these packets. This one does not know its kind.
    #[error(
        "the rule for these packets ({0}) is of a kind that this byway does not know, so it stays as it is"
    )]
    UnknownKind(Box<Rule>),
    /// A rule of a kind that this version does not know may lead to the group.
    #[error("the rule {rule} may lead to the group {name}: this byway does not know its kind")]
    GroupMayBeInUse {
        /// The group.
        name: String,
        /// The rule.
        rule: Box<Rule>,
    },
    /// Another Byway has a program on a device, with pins that this one cannot see.
    #[error("{0} carries a program of another byway, whose BPF file system this one cannot see")]
    AnotherByway(String),
    /// A newer version of Byway has put a program on a device, and this one does not know it.
    #[error("{0} has a program of a newer byway, which this one does not know")]
    UnknownProgram(String),
    /// There is no rule for exactly these packets.
    #[error("there is no rule {0}")]
    NoSuchRule(Selector),
    /// The flow is not in the table of flows.
    #[error("no request of the flow `{0}` is known")]
    NoSuchFlow(FlowSpec),
    /// The tables are full.
    #[error("the rule {selector} does not fit: the tables are full ({limit} rules)")]
    TablesFull {
        /// The rule that did not fit.
        selector: Selector,
        /// How many rules fit.
        limit: u32,
    },
    /// The rules need too many destinations.
    #[error(
        "the rules need {wanted} destinations, counting those that each source inherits from wider ones, and there is room for {limit}"
    )]
    TooManyDestinations {
        /// How many they need.
        wanted: usize,
        /// How many fit.
        limit: u32,
    },
    /// The rules name too many devices after `reply-to`, or too many different lists of them.
    #[error(
        "the rules name {devices} devices after `reply-to`, in {lists} different lists; there is room for {MAX_REPLY_DEVICES} in {MAX_DEVICE_SETS}"
    )]
    TooManyReplyDevices {
        /// How many devices all lists have together.
        devices: usize,
        /// How many different lists there are.
        lists: usize,
    },
    /// There are too many next hops.
    #[error("the change needs too many next hops: there is room for {limit}, counting those that it removes")]
    TooManyNextHops {
        /// How many there may be.
        limit: u32,
    },
    /// Too many devices would carry programs.
    #[error("byway would have programs on {wanted} devices, and there is room for {limit}")]
    TooManyDevices {
        /// How many devices there would be.
        wanted: usize,
        /// How many there may be.
        limit: u32,
    },
    /// There are too many attachments.
    #[error("the change needs too many attachments: there is room for {limit}")]
    TooManyAttachments {
        /// How many there may be.
        limit: u32,
    },
    /// There are too many groups.
    #[error(
        "the change needs too many groups: there is room for {limit}, and a rule with several next hops of its own takes one"
    )]
    TooManyGroups {
        /// How many there may be.
        limit: u32,
    },
    /// There is a group of this name.
    #[error("there is already a group of that name ({0})")]
    GroupExists(Group),
    /// An apply waits to be confirmed.
    #[error("the last apply is still waiting to be confirmed")]
    Unconfirmed,
    /// The last apply no longer waits to be confirmed. The text says why.
    #[error("no apply is waiting to be confirmed: {0}")]
    TakenBack(String),
    /// The time to confirm an apply is over, and it has not been rolled back yet.
    #[error("it is too late to confirm that apply: its time is over")]
    TooLateToConfirm,
    /// No apply has changed anything here since the host started, or the last one has been rolled back already.
    #[error(
        "there is nothing to go back to: no apply has changed anything since the host started or the last rollback"
    )]
    NothingToRollBack,
    /// There is nothing to roll back, although a note said that an apply waits to be confirmed. The note has been removed.
    #[error(
        "there is nothing to go back to, so the note of an apply that waits to be confirmed is removed, and what is in force stays"
    )]
    NoteRemoved,
    /// The note of an apply that waits to be confirmed is not as Byway writes it: something else has written to it.
    #[error("cannot tell whether an apply waits to be confirmed: {} is damaged: {what}", .path.display())]
    DamagedNote {
        /// The note.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The copy of the state before the last apply is not as Byway writes it: something else has written to it.
    #[error("cannot undo the last apply: its copy of the earlier state, {}, is damaged: {what}", .path.display())]
    DamagedCopy {
        /// The copy.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is no group of this name.
    #[error("there is no group `{0}`")]
    NoSuchGroup(String),
    /// Rules use the group.
    #[error("the group {name} is in use by {}", in_use(*.rules, .first))]
    GroupInUse {
        /// The group.
        name: String,
        /// How many rules use it.
        rules: usize,
        /// One of them.
        first: Selector,
    },
    /// No rule or group uses this next hop.
    #[error("no rule or group uses the next hop {0}")]
    NoSuchNextHop(NextHopSpec),
    /// The next hop exists on several devices.
    #[error("the next hop {spec} exists on {}", .devices.join(" and "))]
    AmbiguousNextHop {
        /// The next hop in the request.
        spec: NextHopSpec,
        /// The devices.
        devices: Vec<String>,
    },
    /// No device has this name.
    #[error("there is no device `{0}` in this network namespace")]
    NoSuchDevice(String),
    /// The gateway is not a neighbour on the device.
    #[error("the gateway {gateway} is not on-link on {device}: no connected route of {device} covers it")]
    NotOnLink {
        /// The gateway.
        gateway: IpAddr,
        /// The device's name.
        device: String,
    },
    /// No device was named, and no connected route covers the gateway.
    #[error("no device leads straight to the gateway {0}: no connected route covers it")]
    NoDeviceForGateway(IpAddr),
    /// The host has learned no gateway on the device.
    #[error("no gateway is known on {device} yet: it has no default route of `proto {learned}`")]
    NothingLearned {
        /// From whom it is to learn it.
        learned: Learned,
        /// The device.
        device: String,
    },
    /// The gateway is one of the host's own addresses.
    #[error("the gateway {0} is an address of this host")]
    GatewayIsLocal(IpAddr),
    /// A link-local gateway is ambiguous without its device.
    #[error("the gateway {0} is link-local and exists on every link")]
    LinkLocalGateway(IpAddr),
    /// `lo` can be neither an attachment nor a next hop's device.
    #[error("{0} is the loopback device, which no packet leaves by")]
    Loopback(String),
    /// A port of a bridge, bond or team.
    #[error("what comes in by {device} comes in by {master}, which {device} is a port of")]
    ComesInBy {
        /// The port.
        device: String,
        /// The bridge, bond or team.
        master: String,
    },
    /// Nothing carries a default route.
    #[error("there is no default route, so there is no interface to attach to")]
    NoDefaultRoute,
    /// The device's packets begin with neither an Ethernet nor an IP header.
    #[error("cannot attach to {0}: its packets begin with neither an Ethernet nor an IP header")]
    UnknownHeader(String),
    /// The device carries no departure program.
    #[error("byway is not attached to {0}")]
    NotAttached(String),
    /// The clsact qdisc cannot be added.
    #[error("cannot attach to {0}: it has an `ingress` qdisc, which leaves no room for an egress hook")]
    IngressQdisc(String),
    /// Another byway is changing this network namespace, and this one has waited for long enough.
    #[error("another byway is changing this network namespace, and did not end within {} s: {holder}", .waited.as_secs())]
    Locked {
        /// The other process, in words.
        holder: String,
        /// How long this one has waited.
        waited: Duration,
    },
    /// Another process follows devices and routes in this network namespace.
    #[error("an agent runs in this network namespace already: {holder}")]
    AgentRuns {
        /// That process, in words.
        holder: String,
    },
    /// A capability is missing.
    #[error("byway needs the capability {0}")]
    Privilege(&'static str),
    /// No BPF file system is mounted, and this process may not mount one.
    #[error("no BPF file system is mounted at {path}, and this process may not mount one", path = .0.display())]
    NoBpffs(PathBuf),
    /// The pins belong to another user.
    #[error("{path} belongs to another user", path = .0.display())]
    NotOurs(PathBuf),
    /// The next hop's device is stacked on an attachment, so packets would come back to the attachment.
    #[error(
        "{upper} sends its packets through {lower}, where an attachment would redirect them again and again"
    )]
    Stacked {
        /// The next hop's device.
        upper: String,
        /// The attachment.
        lower: String,
    },
    /// The device is down, so it has no connected routes.
    #[error("{device} is down, so the gateway {gateway} cannot be on-link there")]
    DeviceDown {
        /// The gateway.
        gateway: IpAddr,
        /// The device's name.
        device: String,
    },
    /// The process runs under `ip netns exec`.
    #[error(
        "`ip netns exec` hides the BPF file system, and what is pinned here would be lost when this command ends"
    )]
    BpffsHidden(String),
    /// The pins have a schema that this Byway cannot take over.
    #[error("the pins in {path} have schema {found}, and this byway uses schema {known}", path = .path.display())]
    Schema {
        /// Where they are.
        path: PathBuf,
        /// Their schema.
        found: u32,
        /// [`byway_abi::SCHEMA`].
        known: u32,
    },
    /// The pins have an older schema, and no change has taken them over yet.
    #[error("an older byway made the pins in {path}, with schema {found}, and this byway uses schema {known}", path = .path.display())]
    OlderSchema {
        /// Where they are.
        path: PathBuf,
        /// Their schema.
        found: u32,
        /// [`byway_abi::SCHEMA`].
        known: u32,
    },
    /// A pinned map has invalid content: something other than Byway has written to it.
    #[error("the map {map} in {path} is damaged: {what}", path = .path.display())]
    Damaged {
        /// The folder of the pins.
        path: PathBuf,
        /// The map's name.
        map: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Something other than Byway has removed a pin.
    #[error("the pin {} is missing", .folder.join(.name).display())]
    MissingPin {
        /// The folder of the pins.
        folder: PathBuf,
        /// The pin's name there.
        name: String,
    },
    /// The network namespace does not exist.
    #[error("there is no network namespace `{0}`")]
    NoSuchNamespace(String),
    /// The handle was opened in another network namespace than the calling thread is in now.
    #[error("this handle was opened in another network namespace, and works only there")]
    OtherNamespace,
    /// The kernel is too old for something.
    #[error("this kernel cannot run byway: it has no {feature}, which came with Linux {since}")]
    Unsupported {
        /// What it lacks.
        feature: &'static str,
        /// The first version of Linux that has it.
        since: &'static str,
    },
    /// The state in the kernel is inconsistent: a bug, or something other than Byway has written to it.
    #[error("cannot {action}: {what}")]
    Inconsistent {
        /// What was tried.
        action: String,
        /// What is inconsistent.
        what: &'static str,
    },
    /// A resource is in use. The same request may work later.
    #[error("cannot {action}: {what}")]
    Busy {
        /// What was tried.
        action: &'static str,
        /// What is in use.
        what: &'static str,
    },
    /// A call to the kernel failed.
    #[error("cannot {action}: {source}{}", reason(&**.source))]
    Kernel {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A step failed, and so did undoing the steps before it.
    #[error("{failure}; and it could not be undone: {undo}")]
    NotUndone {
        /// What failed first.
        failure: Box<Error>,
        /// What failed then.
        undo: Box<Error>,
    },
}

/// What kind an [`enum@Error`] is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense, on any host.
    Invalid,
    /// The request cannot be fulfilled as this host is now: a device is down or missing, a table is full. It may work later.
    Refused,
    /// Something that the request names does not exist: a rule, a group, a next hop, an attachment, an apply.
    NotFound,
    /// There is already a rule or a group in that place.
    Exists,
    /// The process may not do that.
    Privilege,
    /// Another process is in the way. The same request may work in a moment.
    Busy,
    /// The state in the kernel, or beside it, is not as Byway wrote it. A person has to look.
    Damaged,
    /// The request was fine, and carrying it out has failed.
    Failed,
}

impl Error {
    /// Returns what kind of error this is, for a program that decides by it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Prefix(_)
            | Self::Rule(_)
            | Self::Flow(_)
            | Self::AmbiguousNextHop { .. }
            | Self::LinkLocalGateway(_)
            | Self::Loopback(_)
            | Self::OtherNamespace => ErrorKind::Invalid,
            Self::UnknownKind(_)
            | Self::GroupMayBeInUse { .. }
            | Self::AnotherByway(_)
            | Self::UnknownProgram(_)
            | Self::TablesFull { .. }
            | Self::TooManyDestinations { .. }
            | Self::TooManyReplyDevices { .. }
            | Self::TooManyNextHops { .. }
            | Self::TooManyDevices { .. }
            | Self::TooManyAttachments { .. }
            | Self::TooManyGroups { .. }
            | Self::Unconfirmed
            | Self::TooLateToConfirm
            | Self::GroupInUse { .. }
            | Self::NoSuchDevice(_)
            | Self::NotOnLink { .. }
            | Self::NoDeviceForGateway(_)
            | Self::NothingLearned { .. }
            | Self::GatewayIsLocal(_)
            | Self::NoDefaultRoute
            | Self::ComesInBy { .. }
            | Self::UnknownHeader(_)
            | Self::IngressQdisc(_)
            | Self::Stacked { .. }
            | Self::CannotCheck { .. }
            | Self::DeviceDown { .. }
            | Self::BpffsHidden(_)
            | Self::Schema { .. }
            | Self::OlderSchema { .. }
            | Self::NoSuchNamespace(_)
            | Self::Unsupported { .. } => ErrorKind::Refused,
            Self::NoSuchRule(_)
            | Self::NoSuchFlow(_)
            | Self::NoSuchGroup(_)
            | Self::NoSuchNextHop(_)
            | Self::NotAttached(_)
            | Self::TakenBack(_)
            | Self::NoteRemoved
            | Self::NothingToRollBack => ErrorKind::NotFound,
            Self::RuleExists(_)
            | Self::RuleOfAnother(_)
            | Self::GroupExists(_)
            | Self::GroupOfAnother(_)
            | Self::HealthCheckOfAnother(_) => ErrorKind::Exists,
            Self::Privilege(_) | Self::NotOurs(_) | Self::NoBpffs(_) => ErrorKind::Privilege,
            Self::Busy { .. } | Self::Locked { .. } | Self::AgentRuns { .. } => ErrorKind::Busy,
            Self::Inconsistent { .. }
            | Self::DamagedNote { .. }
            | Self::DamagedCopy { .. }
            | Self::MissingPin { .. }
            | Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Kernel { .. } | Self::NotUndone { .. } => ErrorKind::Failed,
        }
    }

    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::RuleExists(_) | Self::GroupExists(_) => "use `replace` to change it",
            Self::RuleOfAnother(_) => "delete it first",
            Self::GroupOfAnother(_) => "delete it first, or take another name",
            Self::HealthCheckOfAnother(_) => "ask for the same, or leave it to that owner",
            Self::AnotherByway(device) => {
                return Some(format!(
                    "run byway where that BPF file system is mounted, or take the program off first: `tc filter del dev {device} egress pref 2842` removes a filter, and a tcx link goes with its pins"
                ));
            }
            Self::CannotCheck { .. } => {
                "the check goes on once it can; until then the next hop is as without it"
            }
            Self::UnknownProgram(_) => "use the byway that put it there, or take it off with that one first",
            Self::TablesFull { .. } => "delete some, or use shorter prefixes",
            Self::TooManyDestinations { .. } => "use `to` in fewer rules",
            Self::TooManyReplyDevices { .. } => "name fewer, or leave them out",
            Self::TooManyNextHops { .. } => "delete rules or groups first",
            Self::TooManyDevices { .. } => {
                "have fewer devices; a rule with `reply-to` needs each one of the network namespace"
            }
            Self::TooManyAttachments { .. } => "detach from others first",
            Self::TooManyGroups { .. } => "let rules share a group",
            Self::Unconfirmed => "confirm it, or roll it back",
            Self::TooLateToConfirm => "roll it back, and apply again",
            Self::DamagedNote { .. } => {
                "confirm the last apply to keep what is in force, or roll it back; either removes the note"
            }
            Self::DamagedCopy { .. } => {
                "nothing has changed; if the apply waits to be confirmed, confirming keeps it; the next apply replaces the copy"
            }
            Self::Locked { .. } => "wait for it to end, or end it",
            Self::AgentRuns { .. } => "one is enough; end it first to start another",
            Self::GroupInUse { rules: 1, .. } => "delete that rule first, or give it another target",
            Self::GroupInUse { .. } => "delete those rules first, or give them another target",
            Self::UnknownKind(_) => "change or delete it with the byway that has made it",
            Self::GroupMayBeInUse { .. } => "delete that rule first, with the byway that has made it",
            Self::AmbiguousNextHop { .. } => "name one with `dev`",
            Self::NoSuchDevice(_) => "`ip link` lists them",
            Self::NotOnLink { .. } => {
                "check the address and the device, or add a route: `ip route add ADDR dev IF scope link`"
            }
            Self::NoDeviceForGateway(_) => {
                "check the address, name the device with `dev`, or add a route: `ip route add ADDR dev IF scope link`"
            }
            Self::NothingLearned { .. } => {
                "look at `ip route show table all`; where the client that sets the route does not say `proto`, name the gateway"
            }
            Self::GatewayIsLocal(_) => "name the address of the next router",
            Self::LinkLocalGateway(_) => "name the device with `dev`",
            Self::Loopback(_) => "name another device",
            Self::NoDefaultRoute => "name the interface to attach to",
            Self::ComesInBy { master, .. } => return Some(format!("name {master}")),
            Self::UnknownHeader(_) => {
                "attach to the device that its packets finally leave by, or to one above it"
            }
            Self::IngressQdisc(device) => {
                return Some(format!(
                    "replace it: `tc qdisc del dev {device} ingress; tc qdisc add dev {device} clsact`"
                ));
            }
            Self::Privilege(_) => "run it as root, or give it that capability",
            Self::NoBpffs(path) => {
                return Some(format!("mount it as root: `mount -t bpf bpf {}`", path.display()));
            }
            Self::NotOurs(_) => "run byway as that user, or as root",
            Self::Stacked { lower, .. } => {
                return Some(format!("use {lower} for the next hop, or do not attach to {lower}"));
            }
            Self::DeviceDown { device, .. } => {
                return Some(format!("bring it up: `ip link set {device} up`"));
            }
            Self::BpffsHidden(namespace) => {
                return Some(format!("run it outside instead, and enter {namespace} from there"));
            }
            Self::Schema { .. } => "use the byway that made them, or flush and detach with it first",
            Self::OlderSchema { .. } => "the next change takes them over with all rules and counters",
            Self::Damaged { path, .. } | Self::MissingPin { folder: path, .. } => {
                return Some(format!(
                    "remove the pins with `rm -r {}`, and add the rules again",
                    path.display()
                ));
            }
            Self::NoSuchNamespace(_) => {
                "`ip netns list` lists the named ones, and a path like /proc/PID/ns/net works too"
            }
            Self::OtherNamespace => "open one in each namespace, on a thread that stays there",
            Self::Busy { .. } => "try again later",
            Self::NotUndone { .. } => "byway's next change tidies up what is left",
            Self::Prefix(error) => return error.help(),
            Self::Rule(error) => return error.help(),
            Self::Flow(error) => return error.help(),
            Self::NoSuchRule(_)
            | Self::NoSuchFlow(_)
            | Self::TakenBack(_)
            | Self::NoteRemoved
            | Self::NothingToRollBack
            | Self::NoSuchGroup(_)
            | Self::NoSuchNextHop(_)
            | Self::NotAttached(_)
            | Self::Unsupported { .. }
            | Self::Inconsistent { .. } => return None,
            Self::Kernel { .. } => match self.errno()? {
                libc::EMFILE => "allow more open files: `ulimit -n`, or LimitNOFILE= of a unit",
                libc::ENFILE => "allow more open files on the whole system: `sysctl fs.file-max`",
                libc::EROFS => "make the file system writable: `mount -o remount,rw` with its path",
                // What Byway needs of capabilities it has looked for before.
                libc::EPERM => "see whether a seccomp profile or a security module forbids bpf(2) here",
                _ => return None,
            },
        };
        Some(help.to_owned())
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }

    /// Returns the kernel's error number, as in errno(3), if the error came from the kernel.
    pub fn errno(&self) -> Option<i32> {
        let first: &(dyn std::error::Error + 'static) = match self {
            Self::Kernel { source, .. } => &**source,
            Self::NotUndone { failure, .. } => return failure.errno(),
            _ => return None,
        };
        errno(first)
    }

    /// Opening a pin failed. Byway makes nearly all its pins at once, so if one is missing, something else has removed it.
    pub(crate) fn opening_pin(folder: &Path, name: &str, error: Self) -> Self {
        match error.errno() {
            Some(libc::ENOENT) => Self::MissingPin { folder: folder.to_owned(), name: name.to_owned() },
            _ => error,
        }
    }

    /// The state in the kernel is inconsistent. `action` reads after "cannot".
    pub(crate) fn inconsistent(action: impl Into<String>, what: &'static str) -> Self {
        Self::Inconsistent { action: action.into(), what }
    }

    /// A failed call to the kernel. `action` reads after "cannot".
    pub(crate) fn kernel(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Kernel { action: action.into(), source: source.into() }
    }

    /// A failed call to the kernel that reports an [`io::Error`], which itself names a missing privilege.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |error| Self::kernel(action, error)
    }
}

/// What the functions of this library return.
pub type Result<T> = std::result::Result<T, Error>;

/// The first error of the kernel among the causes of an error.
fn errno(first: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(first), |error| error.source()).find_map(|error| {
        let io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        io.or_else(|| error.downcast_ref::<nix::Error>().map(|errno| *errno as i32))
    })
}

/// What the kernel said, if the error itself does not say it: errors of aya name only the call.
fn reason(source: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let Some(errno) = errno(source) else { return String::new() };
    let said = io::Error::from_raw_os_error(errno).to_string();
    let words = said.split(" (os error").next().unwrap_or_default();
    if source.to_string().contains(words) { String::new() } else { format!(": {said}") }
}

/// What uses a group.
fn in_use(rules: usize, first: &Selector) -> String {
    match rules {
        1 => format!("the rule {first}"),
        rules => format!("{rules} rules, such as {first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_is_found_below_what_was_tried() {
        let refused = || Error::kernel("try it", io::Error::from_raw_os_error(libc::EBUSY));
        assert_eq!(refused().errno(), Some(libc::EBUSY));
        assert_eq!(Error::kernel("try it", nix::Error::ENOMEM).errno(), Some(libc::ENOMEM));
        let undo = Box::new(Error::kernel("undo it", "no reason"));
        assert_eq!(undo.errno(), None);
        assert_eq!(Error::NotUndone { failure: Box::new(refused()), undo }.errno(), Some(libc::EBUSY));
    }

    /// The errors of aya name the call and nothing else.
    #[test]
    fn the_kernels_word_is_in_the_sentence_once() {
        let of_aya = |errno| aya::sys::SyscallError {
            call: "BPF_OBJ_GET",
            io_error: io::Error::from_raw_os_error(errno),
        };
        assert_eq!(
            Error::kernel("open the map META", of_aya(libc::EROFS)).sentence(),
            "cannot open the map META: `BPF_OBJ_GET` failed: Read-only file system (os error 30); make the file system writable: `mount -o remount,rw` with its path"
        );
        let refused = Error::kernel("load it", of_aya(libc::EPERM)).sentence();
        assert!(refused.contains("Operation not permitted (os error 1); see whether a seccomp"), "{refused}");
        let once = [
            Error::kernel("try it", nix::Error::EBUSY),
            Error::io("try it")(io::Error::from_raw_os_error(libc::EBUSY)),
        ];
        for error in once {
            assert_eq!(error.to_string().matches("resource busy").count(), 1, "{error}");
        }
    }

    #[test]
    fn what_is_wrong_and_what_to_do_are_two_things() {
        let error = Error::NoSuchDevice("eth7".into());
        assert_eq!(error.to_string(), "there is no device `eth7` in this network namespace");
        assert_eq!(error.help().unwrap(), "`ip link` lists them");
        assert_eq!(
            error.sentence(),
            "there is no device `eth7` in this network namespace; `ip link` lists them"
        );
    }
}
