//! Rules and groups as people write them. Plain data, without the kernel. Pure.

mod check;
mod flow;
mod group;
mod health_check;
mod owner;
mod prefix;
mod rule;
mod selection;
mod target;

pub use check::RuleError;
pub(crate) use check::{
    check_action, check_distinct, check_families, check_gateway, check_mss, check_name, check_on_down,
    check_reply_to, check_weight, is_name,
};
pub use flow::{FlowError, FlowSpec, Missing, Protocol};
pub use group::{GROUP_MAX, GROUP_NAME_MAX, Group, GroupSpec};
pub use health_check::{ASKED_MAX, Asked, HealthCheck, HealthCheckSpec, INTERVAL_MAX, INTERVAL_MIN};
pub(crate) use health_check::{ROUNDS_MAX, short};
pub use owner::{Owner, OwnerError};
pub(crate) use prefix::zoned;
pub use prefix::{Family, Prefix, PrefixError};
pub(crate) use rule::Action;
pub use rule::{RULE_NAME_MAX, Rule, RuleSpec, Selector};
pub use selection::{Selectable, Selection, SortBy};
pub(crate) use target::moved_members;
pub use target::{
    Device, Learned, MSS_MAX, MSS_MIN, Member, MemberSpec, Mss, NextHop, NextHopSpec, OnDown, Target,
    TargetSpec, UnknownKind, WEIGHT_MAX,
};

/// What is wrong and what to do, in one sentence.
pub(crate) fn in_one_sentence(wrong: impl std::fmt::Display, help: Option<String>) -> String {
    match help {
        Some(help) => format!("{wrong}; {help}"),
        None => wrong.to_string(),
    }
}
