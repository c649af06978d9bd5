//! Whether what is written fits into Byway's tables.

use std::collections::HashSet;

use byway_abi::{MAX_DESTINATIONS, MAX_GROUPS, MAX_NEXT_HOPS, MAX_RULES};

use crate::{
    config::Config,
    model::{NextHopSpec, TargetSpec},
    policy::compile::{compile, destinations},
};

/// Sentences about what does not fit, with what to do.
pub(crate) fn too_much(config: &Config) -> Vec<String> {
    let members = config.groups.iter().flat_map(|group| &group.members).map(|member| &member.next_hop);
    let targets = config.actions.iter().flat_map(|action| super::target::next_hops(&action.target));
    let next_hops: HashSet<&NextHopSpec> = members.chain(targets).collect();
    let has_own_group =
        |action: &u32| matches!(config.actions[*action as usize].target, TargetSpec::NextHops(_));
    let own_groups = config.rules.iter().filter(|(_, action)| has_own_group(action)).count();
    let rules = config.rules.iter().map(|(selector, _)| (*selector, ())).collect();
    let counted = [
        (config.rules.len(), MAX_RULES, "rules", "import fewer entries, or say them for shorter prefixes"),
        (
            destinations(&compile(rules)),
            MAX_DESTINATIONS,
            "destinations to tell apart, counting those that each source has from the ones around it",
            "take rules with `to` out, or have fewer or shorter sources",
        ),
        (next_hops.len(), MAX_NEXT_HOPS - 1, "next hops", "take rules out"),
        (
            own_groups + config.groups.len(),
            MAX_GROUPS,
            "groups and rules with several next hops",
            "take rules out, or name one next hop",
        ),
    ];
    let too_much = counted.into_iter().filter(|(there, room, ..)| *there > *room as usize);
    too_much
        .map(|(there, room, what, to_do)| format!("there are {there} {what}, and {room} fit: {to_do}"))
        .collect()
}
