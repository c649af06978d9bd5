//! What was before an apply, as far as it can be again: devices may have gone since, and names been taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{ActionSpec, Attach, Config},
    model::{Group, GroupSpec, MemberSpec, Mss, NextHopSpec, OnDown, Owner, TargetSpec},
    policy::{plan::Desired, snapshot::Host},
};

/// The configuration's part of a state that an apply has ended, and what else it has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// What it said, and where it was attached.
    pub(crate) config: Config,
    /// Where the apply has attached to, or stayed attached, by name.
    pub(crate) attached: BTreeSet<String>,
    /// The devices where the routing table had found the gateways whose device the configuration did not name.
    pub(crate) found: BTreeMap<IpAddr, String>,
}

impl Saved {
    /// Returns the configuration to apply to go back to it, from what is now.
    ///
    /// Leaves out next hops whose device is gone. A rule of which none is left does what it says for the case that none is in
    /// service: other rules must not take over its packets by accident. Where the name of a group has been taken, its rules get
    /// its next hops for themselves. Puts those attachments back that the apply has taken off, and takes off those that it has
    /// put on.
    pub(crate) fn feasible(self, host: &Host, desired: &Desired) -> Config {
        let Self { mut config, attached, found } = self;
        let is_gone = |next_hop: &NextHopSpec| match next_hop {
            NextHopSpec::Via(gateway) => found.get(gateway).is_none_or(|name| !host.has(name)),
            NextHopSpec::ViaDev(_, name) | NextHopSpec::Dev(name) => !host.has(name),
        };
        let mut instead: BTreeMap<String, (Vec<MemberSpec>, OnDown)> = BTreeMap::new();
        config.groups.retain_mut(|group| {
            group.members.retain(|member| !is_gone(&member.next_hop));
            let is_taken = desired.groups.get(&group.name).is_some_and(|it| is_another(it, group));
            if is_taken || group.members.is_empty() {
                instead.insert(group.name.clone(), (std::mem::take(&mut group.members), group.on_down));
                return false;
            }
            true
        });
        for action in &mut config.actions {
            let left = match &mut action.target {
                TargetSpec::NextHop(next_hop) if is_gone(next_hop) => Vec::new(),
                TargetSpec::NextHops(members) => {
                    members.retain(|member| !is_gone(&member.next_hop));
                    std::mem::take(members)
                }
                TargetSpec::Group(name) => match instead.get(name) {
                    Some((members, on_down)) => {
                        action.on_down = *on_down;
                        members.clone()
                    }
                    None => continue,
                },
                _ => continue,
            };
            lead_to(action, left);
        }
        let Some(Attach::Devices(before)) = &config.attach else { return config };
        let before: BTreeSet<String> = before.iter().cloned().collect();
        let now: BTreeSet<String> = desired.attachments.values().map(|device| device.name.clone()).collect();
        let kept = now.iter().filter(|name| before.contains(*name) || !attached.contains(*name));
        let back = before.difference(&attached).filter(|name| host.attachable(name).is_ok());
        config.attach =
            Some(Attach::Devices(kept.chain(back).cloned().collect::<BTreeSet<_>>().into_iter().collect()));
        config
    }
}

/// Whether somebody else has a group by this name that says something else.
fn is_another(group: &Group, spec: &GroupSpec) -> bool {
    group.owner != Owner::CONFIG && GroupSpec::from(group).owner(spec.owner) != *spec
}

/// Gives a rule what is left of its next hops.
fn lead_to(action: &mut ActionSpec, left: Vec<MemberSpec>) {
    if !left.is_empty() {
        action.target = TargetSpec::NextHops(left);
        return;
    }
    action.target = match action.on_down {
        OnDown::Drop => TargetSpec::Drop,
        OnDown::Pass => TargetSpec::Pass,
    };
    (action.on_down, action.mss) = (OnDown::Pass, Mss::Auto);
}
