//! Sends egress traffic to a next hop by its **source** address.
//!
//! An eBPF program on the egress of the interface with the default route looks a packet's source up and, on a match,
//! sends it out of another interface to another next hop. The routing tables stay as they are, and the kernel
//! keeps all state: rules stay in force when the program that added them has ended.
//!
//! Two calls do the main job. The first is optional: without an attachment, adding a rule attaches to the
//! interfaces that carry a default route.
//!
//! ```no_run
//! use byway::{Attach, Byway, NextHopSpec, RuleSpec};
//!
//! let mut byway = Byway::open()?;
//! byway.attach(&Attach::devices(["eth0"]))?;
//! let next_hop = NextHopSpec::via("10.111.221.21".parse()?).dev("eth1");
//! byway.add(&RuleSpec::new("192.168.1.5".parse()?, next_hop).name("web"))?;
//! // The same in the words of the command line.
//! byway.replace(&"from 192.168.1.5 via 10.111.221.21 dev eth1 name web".parse()?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Needs Linux 5.10 or later, and `CAP_NET_ADMIN`, `CAP_BPF` and `CAP_PERFMON`. It needs `CAP_SYS_ADMIN` to mount the BPF
//! file system and to enter another network namespace.
//!
//! # What a rule means
//!
//! * A rule acts on packets that leave by an attachment ([`Byway::attach`]), after the normal route and after NAT.
//! * Of all rules that match a packet, the one with the longest source decides, and of several with the same source the one
//!   with the longest destination. The order in which rules are added never matters.
//! * Each rule and each group has an [`Owner`]. [`Byway::apply`] replaces all rules and groups of one owner in one instant, and
//!   leaves those of others alone. [`Byway::add`] and its like change single rules.
//! * Rules, counters and attachments outlive the handle and the process, but neither a reboot nor the network namespace.
//!
//! # What a call does
//!
//! * A call that returns an error has changed no rule, group or attachment, unless the error is [`Error::NotUndone`].
//! * A handle belongs to the network namespace of the thread that opened it. It may move to another thread of that namespace;
//!   in another namespace, calls return [`Error::OtherNamespace`].
//! * Changes in a network namespace wait for each other, also for those of other processes: a minute at most, unless
//!   [`Byway::with_wait`] sets another limit. Reading does not wait, except for a change that is just making the pins.
//!
//! An [`Error`] says what is wrong and, separately, what to do. Its kind is for a program to act on:
//!
//! ```
//! let error = byway::Error::NoSuchDevice("eth7".into());
//! assert_eq!(error.to_string(), "there is no device `eth7` in this network namespace");
//! assert_eq!(error.help().as_deref(), Some("`ip link` lists them"));
//! assert_eq!(error.sentence(), format!("{error}; `ip link` lists them"));
//! assert_eq!(error.kind(), byway::ErrorKind::Refused);
//! ```

#![deny(unsafe_code)]

pub mod config;
mod error;
pub mod grammar;
mod handle;
mod import;
mod kernel;
mod model;
mod policy;
mod show;

/// The number of the form of all pins. A byway takes over those of an older one, and refuses those of a newer one.
pub use byway_abi::SCHEMA;
pub use config::{
    Attach,
    file_error::{FILE_MAX, FileError},
    files::{STDIN, STDIN_NAME, inspect_config, read_config, read_file},
};
pub use error::{Error, ErrorKind, Result};
pub use handle::{
    AgentLock, Byway, Checker, Edit, EditError, Edited, GatewayEvent, GatewayGuard, Leftovers, Unknown,
    Verdict, WayEvent, WayWatcher, import, lint_host,
};
pub use import::Imported;
pub use kernel::{
    events::{EventCounts, NetworkEvents},
    hook::Hook,
    namespace::enter_namespace,
};
pub use model::{
    ASKED_MAX, Asked, Device, Family, FlowError, FlowSpec, GROUP_MAX, GROUP_NAME_MAX, Group, GroupSpec,
    HealthCheck, HealthCheckSpec, INTERVAL_MAX, INTERVAL_MIN, Learned, MSS_MAX, MSS_MIN, Member, MemberSpec,
    Missing, Mss, NextHop, NextHopSpec, OnDown, Owner, OwnerError, Prefix, PrefixError, Protocol,
    RULE_NAME_MAX, Rule, RuleError, RuleSpec, Selectable, Selection, Selector, SortBy, Target, TargetSpec,
    UnknownKind, WEIGHT_MAX,
};
pub use policy::{
    changes::{Change, Changes, Counts, Waiting},
    followed::Followed,
    obstacles::Obstacle,
    state::Role,
};
pub use show::{
    flows::{FlowState, Flows, FlowsOfWay, LinkLayerAddress, ReplyFlow, ReplyWay, WayState},
    get::{Action, Decision, LeftAlone, Route, Way},
    listing::Listing,
    status::{
        Attachment, AttachmentCounters, Count, GroupStatus, MtuMismatch, NextHopState, NextHopStatus,
        RuleStatus, Status,
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_work_with_goes_from_thread_to_thread() {
        fn is_send<T: Send>() {}
        fn is_sync<T: Sync>() {}
        is_send::<Byway>();
        is_send::<Checker>();
        is_send::<GatewayGuard>();
        is_send::<WayWatcher>();
        is_send::<Changes>();
        is_send::<Status>();
        is_send::<Listing>();
        is_sync::<Listing>();
        is_send::<Imported>();
        is_send::<config::Config>();
        is_send::<Error>();
    }
}
