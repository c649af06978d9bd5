//! The text: comments within the width of a page, and the configuration between them.

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Formatter, Write as _},
};

use super::{
    Imported,
    sections::{Section, Written},
    target,
};
use crate::{
    config::{ActionSpec, write},
    model::{Mss, OnDown, TargetSpec},
};

/// The width of comments.
const WIDTH: usize = 100;
/// The longest quotation that is not broken, even if its line gets longer than others.
const QUOTED: usize = 125;

const HEADER: &[&str] = &[
    "The policy routing of this network namespace, as Byway found it: entries of `ip rule`, IPv4 and IPv6, \
     and the routes of their tables, as rules of Byway. Comments quote the entries as `ip rule` prints them. A comment \
     that begins with `Differs` says where Byway does something else.",
    "",
    "What to do: read the comments, check the configuration, look at what it would change, and apply it. Only then remove the old entries of \
     `ip rule`, and whatever creates them. While both are in force, the entries decide first: a packet that they send \
     out of another interface, which is not an attachment, never reaches Byway.",
    "",
    "These differences apply to all rules, and are not repeated below. Differs: packets reach Byway only while main \
     has a default route by an attachment. Differs: multicast, broadcast and link-local packets are left to main. \
     Differs: the next hops stay as they are now when routes change or go while their device stays, and when a gateway \
     is silent, `on-down` decides, where Linux goes on sending. If one of these matters, keep the entry.",
    "",
    "Byway takes the rule with the most specific source, then with the most specific destination; there are no \
     priorities. It sees a packet when it leaves, with the source after NAT, unlike `ip rule`. It acts only on packets \
     that leave by an attachment: here, an interface that carries a default route of the main table.",
];

impl Display for Imported {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        HEADER.iter().try_for_each(|line| comment(line, f))?;
        if let Some(line) = self.strict_line() {
            writeln!(f, "#")?;
            comment(&line, f)?;
        }
        for family in &self.without_main {
            writeln!(f, "#")?;
            comment(
                &format!(
                    "Before the entries go: no initial entry looks up main. Without one nothing leaves any more, and so \
                     nothing reaches Byway: `ip {family} rule add lookup main priority 32766`."
                ),
                f,
            )?;
        }
        for line in &self.too_much {
            writeln!(f, "#")?;
            comment(&format!("Too much: {line}. Until then this cannot be applied."), f)?;
        }
        writeln!(f)?;
        match self.attach {
            true => writeln!(f, "attach = \"auto\"")?,
            false => comment(
                "There is no default route in the main table, and so no interface to attach to: say `attach = \"auto\"` \
                 here once there is one. Until then no packet leaves where Byway would see it.",
                f,
            )?,
        }
        for group in &self.groups {
            writeln!(f)?;
            write::write_group(group, f)?;
        }
        if self.sections.is_empty() {
            writeln!(f)?;
            comment(
                "Nothing to import: `ip rule` has the three entries that are always there, and no others.",
                f,
            )?;
        }
        for (place, section) in self.sections.iter().enumerate() {
            if !section.is_ipv4 && (place == 0 || self.sections[place - 1].is_ipv4) {
                writeln!(f)?;
                comment("IPv6: what `ip -6 rule` prints.", f)?;
            }
            write_section(section, f)?;
        }
        Ok(())
    }
}

impl Imported {
    /// What to do if the kernel would drop requests once the entries are gone.
    fn strict_line(&self) -> Option<String> {
        let next_hops = self.targets().flat_map(target::next_hops).filter_map(|next_hop| next_hop.device());
        let members = self.groups.iter().flat_map(|group| &group.members);
        let devices: BTreeSet<&str> = next_hops
            .chain(members.filter_map(|member| member.next_hop.device()))
            .filter(|device| self.strict.contains(*device))
            .collect();
        let commands: Vec<String> = devices
            .iter()
            .map(|device| format!("`sysctl -w net.ipv4.conf.{}.rp_filter=2`", device.replace('.', "/")))
            .collect();
        let names: Vec<&str> = devices.into_iter().collect();
        (!names.is_empty()).then(|| {
            format!(
                "Before the entries go: rp_filter is strict on {}. Without the entries the kernel looks for the senders \
                 of requests by main's routes, and drops what comes in there: {}.",
                names.join(" and "),
                commands.join(", ")
            )
        })
    }
}

fn write_section(section: &Section, f: &mut Formatter<'_>) -> fmt::Result {
    if !section.comment.is_empty() {
        writeln!(f)?;
        section.comment.iter().try_for_each(|line| comment(line, f))?;
    }
    section.rules.iter().try_for_each(|rule| write_rule(rule, f))
}

fn write_rule(rule: &Written, f: &mut Formatter<'_>) -> fmt::Result {
    let action = action(&rule.target, rule.on_down);
    if rule.is_commented_out {
        let mut text = String::new();
        write::write_rule(&rule.from, rule.to, &action, &mut text)?;
        return text.lines().try_for_each(|line| writeln!(f, "# {line}"));
    }
    writeln!(f)?;
    rule.comment.iter().try_for_each(|line| comment(line, f))?;
    write::write_rule(&rule.from, rule.to, &action, f)
}

/// The action of a rule with this target and `on-down`, and defaults otherwise.
pub(crate) fn action(target: &TargetSpec, on_down: OnDown) -> ActionSpec {
    ActionSpec {
        reply_to: false,
        reply_to_dev: BTreeSet::new(),
        target: target.clone(),
        on_down,
        mss: Mss::Auto,
        name: None,
    }
}

/// One paragraph.
fn comment(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    let mut line = String::from("#");
    for word in words(text) {
        if line.len() > 1 && line.len() + 1 + word.len() > WIDTH {
            writeln!(f, "{line}")?;
            line = String::from("#");
        }
        write!(line, " {word}")?;
    }
    writeln!(f, "{line}")
}

/// The words of a text. A quotation counts as one word, so that it can be copied and searched for.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::<String>::new();
    let mut is_quoted = false;
    for word in text.split_whitespace() {
        // Nothing that the kernel or a file has named may begin a line of its own.
        let clean: String = word.chars().filter(|letter| !letter.is_control()).collect();
        match words.last_mut().filter(|quoted| is_quoted && quoted.len() + clean.len() < QUOTED) {
            Some(quoted) => {
                quoted.push(' ');
                quoted.push_str(&clean);
            }
            None => words.push(clean),
        }
        is_quoted ^= word.matches('`').count() % 2 == 1;
    }
    words
}
