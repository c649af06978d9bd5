//! Sets of next hops that several rules share become groups. A rule's own set would be one for each source.

use std::collections::{BTreeSet, HashMap};

use super::{policy::TableNames, sections::Section};
use crate::model::{GROUP_NAME_MAX, GroupSpec, MemberSpec, OnDown, Owner, TargetSpec, is_name};

/// Makes a group of each set of next hops that several rules have, and makes the rules name it.
pub(crate) fn groups(sections: &mut [Section], names: &TableNames) -> Vec<GroupSpec> {
    let mut uses = HashMap::<(Vec<MemberSpec>, OnDown), usize>::new();
    let rules = || sections.iter().flat_map(|section| &section.rules).filter(|rule| !rule.is_commented_out);
    for rule in rules() {
        if let TargetSpec::NextHops(members) = &rule.target {
            *uses.entry((members.clone(), rule.on_down)).or_default() += rule.from.len();
        }
    }
    let (mut groups, mut taken) = (Vec::<GroupSpec>::new(), BTreeSet::new());
    for rule in sections.iter_mut().flat_map(|section| &mut section.rules) {
        let TargetSpec::NextHops(members) = &rule.target else { continue };
        let on_down = rule.on_down;
        if uses.get(&(members.clone(), on_down)).is_none_or(|uses| *uses < 2) {
            continue;
        }
        let name = match groups.iter().find(|group| (&group.members, group.on_down) == (members, on_down)) {
            Some(group) => group.name.clone(),
            None => {
                let name = free_name(rule.table.unwrap_or_default(), names, &mut taken);
                let (members, owner) = (members.clone(), Owner::CONFIG);
                groups.push(GroupSpec { name: name.clone(), members, on_down, owner });
                name
            }
        };
        // A group has its own.
        (rule.target, rule.on_down) = (TargetSpec::Group(name), OnDown::Pass);
    }
    groups
}

/// The table's name if it suits a group, else `table-NUMBER`. From the second group on, a number follows.
fn free_name(table: u32, names: &TableNames, taken: &mut BTreeSet<String>) -> String {
    let name = names.name(table);
    let is_name = name.parse::<u32>().is_err() && is_name(&name, GROUP_NAME_MAX);
    let base = if is_name { name } else { format!("table-{table}") };
    let numbered = (2..).map(|number| format!("table-{table}-{number}"));
    let name = [base].into_iter().chain(numbered).find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(name.clone());
    name
}
