//! The host's policy routing (ip-rule(8)) in Byway's words. Pure: what the kernel said comes in, text goes out.
//!
//! # What is the same, and what is not
//!
//! Linux takes the entries of `ip rule` by priority. The first decides whose table has a route to the destination that
//! is not thrown back (a `throw` route, `suppress_prefixlength`, `suppress_ifgroup`). Byway takes the rule with the
//! longest source, and among those the one with the longest destination. So the entries are not translated one by one.
//! `classes.rs` cuts all packets into cells that no entry and no route of the tables tells apart, asks for each what
//! Linux decides (`walk.rs`), and keeps the rules that are needed to say the same. Priorities, overlaps, throw routes,
//! routes that are more specific than a table's default, and jumps come out right that way, whatever they are.
//!
//! This is true of packets that leave by an attachment once the entries are gone: those that the main table sends out of
//! an interface with a default route. Byway never sees packets that main sends elsewhere. If Linux did something else with
//! such packets, a remark says so.
//!
//! Entries that ask for more than addresses (`without.rs`) are quoted in comments, and stay when the others go. The others
//! are imported as if these were not there. `differences.rs` finds out for each cell what becomes of packets at each step of
//! the move: of packets that meet such conditions, and of all packets without each device. It has a remark for each
//! difference. Further remarks have their own places:
//!
//! * `unreachable` and `prohibit` become `drop`, and no ICMP error is sent;
//! * the `src` of a route, which programs that bind to no address have used;
//! * routes with an encapsulation, a class of service or a source, and next hops on devices that are gone;
//! * what there is no room for (`room.rs`).
//!
//! The source that `ip rule` sees is the one before NAT, and the one that Byway sees is the one after it; the text says so
//! at its top.

mod classes;
mod comments;
mod differences;
mod groups;
pub(crate) mod policy;
mod remark;
mod room;
mod sections;
mod tables;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod walk;
mod without;

use std::collections::BTreeSet;

use self::{
    policy::{MAIN, Policy},
    sections::Section,
    tables::{Tables, is_ipv4},
    target::Main,
};
use crate::{
    config::{Attach, Config},
    model::{GroupSpec, Selector, TargetSpec},
};

/// The host's policy routing as a configuration.
///
/// Its text form, as [`Display`](std::fmt::Display) writes it, is a configuration file with comments on where its rules
/// come from, on what is not the same, and on what has no equivalent.
///
/// ```no_run
/// let imported = byway::import()?;
/// for sentence in &imported.too_much {
///     eprintln!("{sentence}");
/// }
/// std::fs::write("byway.toml", imported.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Entries of `ip rule` that the configuration replaces.
    pub imported: usize,
    /// Entries that decide for no packet: an earlier one decides, or their table has no route.
    pub left_out: usize,
    /// Entries that have no equivalent.
    pub without_equivalent: usize,
    /// Sentences about what there is no room for. If there are any, the configuration cannot be applied.
    pub too_much: Vec<String>,
    attach: bool,
    /// The families, as `ip` names them, in which nothing looks up main once the entries are gone.
    without_main: Vec<&'static str>,
    groups: Vec<GroupSpec>,
    sections: Vec<Section>,
    strict: BTreeSet<String>,
}

impl Imported {
    /// Returns the configuration without the comments.
    pub fn config(&self) -> Config {
        let mut config = Config {
            attach: self.attach.then_some(Attach::Auto),
            groups: self.groups.clone(),
            ..Config::default()
        };
        for rule in self.written() {
            let action = u32::try_from(config.actions.len()).unwrap_or(u32::MAX);
            config.actions.push(text::action(&rule.target, rule.on_down));
            config.rules.extend(rule.from.iter().map(|from| (Selector::new(*from, rule.to), action)));
        }
        config.groups.sort_by(|one, other| one.name.cmp(&other.name));
        config.rules.sort_by_key(|(selector, _)| *selector);
        config
    }

    fn written(&self) -> impl Iterator<Item = &sections::Written> {
        self.sections.iter().flat_map(|section| &section.rules).filter(|rule| !rule.is_commented_out)
    }

    fn targets(&self) -> impl Iterator<Item = &TargetSpec> {
        self.written().map(|rule| &rule.target)
    }
}

/// Writes in Byway's words what Linux does.
pub(crate) fn translate(policy: &Policy) -> Imported {
    let tables = Tables::of(policy);
    let main = Main::of(policy, &tables);
    let (mut sections, counted) = sections::sections(policy, &tables, &main);
    let groups = groups::groups(&mut sections, &policy.names);
    let mut imported = Imported {
        imported: counted.imported,
        left_out: counted.left_out,
        without_equivalent: counted.without_equivalent,
        too_much: Vec::new(),
        attach: !main.attachments.is_empty(),
        without_main: without_main(policy),
        groups,
        sections,
        strict: policy.strict.clone(),
    };
    imported.too_much = room::too_much(&imported.config());
    imported
}

/// The families whose initial entry for main has been taken away.
fn without_main(policy: &Policy) -> Vec<&'static str> {
    let families = [(true, "-4"), (false, "-6")].into_iter().filter(|(ipv4, _)| {
        let mut of_family = policy.rules.iter().filter(|rule| is_ipv4(&rule.source) == *ipv4).peekable();
        let is_there = of_family.peek().is_some();
        is_there && !of_family.any(|rule| rule.is_initial() && rule.action.table() == Some(MAIN))
    });
    families.map(|(_, option)| option).collect()
}
