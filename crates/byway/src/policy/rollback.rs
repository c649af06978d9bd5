//! The state before an apply, as far as it can be restored: other owners may have taken names since.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Attach, Config},
    model::{Group, GroupSpec, MemberSpec, OnDown, Owner, TargetSpec},
    policy::{snapshot::Host, state::Desired},
};

/// The configuration's part of the state before an apply, and what else is needed to restore it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The rules, groups and attachments before the apply.
    pub(crate) config: Config,
    /// The attachments after the apply, by name.
    pub(crate) attached: BTreeSet<String>,
    /// The devices on which the routing table found those gateways whose device the configuration did not name.
    pub(crate) found: BTreeMap<IpAddr, String>,
    /// Whether the attachments were the devices that carry a default route.
    pub(crate) is_auto: bool,
}

impl Saved {
    /// Returns the configuration that restores it from the current state.
    ///
    /// If another owner has taken the name of a group, its rules get the next hops of the group themselves. Of the
    /// attachments, this restores those that the apply removed, and removes those that it added.
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
        // Those that follow the default route may be others by now than those that the apply has added.
        let added = |name: &&String| desired.is_auto || attached.contains(*name);
        let kept = now.iter().filter(|name| before.contains(*name) || !added(name));
        let back = before.iter().filter(|name| desired.is_auto || !attached.contains(*name));
        let back = back.filter(|name| host.attachable(name).is_ok() || !host.has(name));
        config.attach =
            Some(Attach::Devices(kept.chain(back).cloned().collect::<BTreeSet<_>>().into_iter().collect()));
        config
    }
}

/// Whether a different group of another owner has this name.
fn is_another(group: &Group, spec: &GroupSpec) -> bool {
    group.owner != Owner::CONFIG && GroupSpec::from(group).owner(spec.owner) != *spec
}
