//! What was before an apply, as far as it can be again: names may have been taken since.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Attach, Config},
    model::{Group, GroupSpec, MemberSpec, OnDown, Owner, TargetSpec},
    policy::{snapshot::Host, state::Desired},
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
    /// The attachments were those devices that carry a default route.
    pub(crate) is_auto: bool,
}

impl Saved {
    /// Returns the configuration to apply to go back to it, from what is now.
    ///
    /// Where the name of a group has been taken, its rules get its next hops for themselves. Puts those attachments back that
    /// the apply has taken off, and takes off those that it has put on.
    pub(crate) fn feasible(self, host: &Host, desired: &Desired) -> Config {
        let Self { mut config, attached, .. } = self;
        let mut instead: BTreeMap<String, (Vec<MemberSpec>, OnDown)> = BTreeMap::new();
        config.groups.retain_mut(|group| {
            let is_taken = desired.groups.get(&group.name).is_some_and(|it| is_another(it, group));
            if is_taken {
                instead.insert(group.name.clone(), (std::mem::take(&mut group.members), group.on_down));
            }
            !is_taken
        });
        for action in &mut config.actions {
            let TargetSpec::Group(name) = &action.target else { continue };
            if let Some((members, on_down)) = instead.get(name) {
                (action.target, action.on_down) = (TargetSpec::NextHops(members.clone()), *on_down);
            }
        }
        let Some(Attach::Devices(before)) = &config.attach else { return config };
        let before: BTreeSet<String> = before.iter().cloned().collect();
        let now = desired.attachment_names();
        let kept = now.iter().filter(|name| before.contains(*name) || !attached.contains(*name));
        let back =
            before.difference(&attached).filter(|name| host.attachable(name).is_ok() || !host.has(name));
        config.attach =
            Some(Attach::Devices(kept.chain(back).cloned().collect::<BTreeSet<_>>().into_iter().collect()));
        config
    }
}

/// Whether somebody else has a group by this name that says something else.
fn is_another(group: &Group, spec: &GroupSpec) -> bool {
    group.owner != Owner::CONFIG && GroupSpec::from(group).owner(spec.owner) != *spec
}
