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

pub use config::{
    Attach,
    file_error::{FILE_MAX, FileError},
    files::{STDIN, STDIN_NAME, inspect_config, read_config, read_file},
};
pub use error::{Error, ErrorKind, Result};
pub use handle::{Byway, Edit, EditError, Edited, Leftovers, Unknown, import, lint_host};
pub use import::Imported;
pub use kernel::{hook::Hook, namespace::enter_namespace};
pub use model::{
    Device, Family, FlowError, FlowSpec, GROUP_MAX, GROUP_NAME_MAX, Group, GroupSpec, MSS_MAX, MSS_MIN,
    Member, MemberSpec, Mss, NextHop, NextHopSpec, OnDown, Owner, OwnerError, Prefix, PrefixError, Protocol,
    RULE_NAME_MAX, Rule, RuleError, RuleSpec, Selectable, Selection, Selector, SortBy, Target, TargetSpec,
    UnknownKind, WEIGHT_MAX,
};
pub use policy::{
    changes::{Change, Changes, Counts, Waiting},
    obstacles::Obstacle,
    state::Role,
};
pub use show::{
    get::{Action, Decision, LeftAlone, Missing, Route, Way},
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
        is_send::<Changes>();
        is_send::<Status>();
        is_send::<Listing>();
        is_sync::<Listing>();
        is_send::<Imported>();
        is_send::<config::Config>();
        is_send::<Error>();
    }
}
