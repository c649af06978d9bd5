//! The tables of `byway show`.

use std::{borrow::Borrow, io};

use byway::{
    Attachment, AttachmentCounters, Count, GroupStatus, Listing, NextHop, NextHopSpec, NextHopState,
    NextHopStatus, Role, RuleStatus, Selection, SortBy, Status,
};

use super::{
    Reader, Screen,
    cells::{Since, dev, each, rate, via},
    columns::Columns,
    count,
    rules::{self, Totals},
    screen::Parts,
    thousands,
};
use crate::error::Error;

/// Attachments, then rules, then a line for each trouble.
pub(crate) fn listing(
    status: &Status,
    rows: &[&RuleStatus],
    since: Option<&Since<'_>>,
    reader: Reader,
) -> Result<String, Error> {
    let mut text = Vec::new();
    let rules = || rows.iter().copied().map(Ok);
    write(&status.attachments, &status.next_hops, rules, status.rules.len(), since, reader, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes the same without holding all of it in memory.
pub(crate) fn write_listing(listing: &Listing, reader: Reader, to: &mut impl io::Write) -> Result<(), Error> {
    let Listing { attachments, next_hops, .. } = listing;
    write(attachments, next_hops, || listing.rules(), listing.rule_count(), None, reader, to)
}

fn write<I, R>(
    attachments: &[Attachment],
    next_hops: &[NextHopStatus],
    rules: impl Fn() -> I,
    all: usize,
    since: Option<&Since<'_>>,
    reader: Reader,
    to: &mut impl io::Write,
) -> Result<(), Error>
where
    I: Iterator<Item = byway::Result<R>>,
    R: Borrow<RuleStatus>,
{
    let has_rules = rules().next().is_some();
    if attachments.is_empty() && !has_rules {
        let hint = match next_hops {
            [] => "no rules, attached to nothing; `byway add from PREFIX via ADDR dev IF` adds a rule",
            // They belong to groups that no rule uses.
            _ => "no rules, attached to nothing; there are groups, which `byway group show` lists",
        };
        return to.write_all(hint.as_bytes()).map_err(Error::Print);
    }
    write!(to, "{}\n\n", attachment_table(attachments, reader)).map_err(Error::Print)?;
    rules::write(rules, all, since, reader, to)?;
    for (nth, trouble) in troubles(attachments, next_hops, has_rules).iter().enumerate() {
        write!(to, "{}{trouble}", if nth == 0 { "\n\n" } else { "\n" }).map_err(Error::Print)?;
    }
    Ok(())
}

fn troubles(attachments: &[Attachment], next_hops: &[NextHopStatus], has_rules: bool) -> Vec<String> {
    let of_attachments = attachments.iter().filter_map(Attachment::trouble);
    let of_next_hops = next_hops.iter().filter_map(trouble_of_next_hop);
    of_attachments.chain(of_next_hops).chain(nothing_watched(attachments, has_rules)).collect()
}

/// The rules of a listing alone.
pub(crate) fn write_rules(listing: &Listing, reader: Reader, to: &mut impl io::Write) -> Result<(), Error> {
    rules::write(|| listing.rules(), listing.rule_count(), None, reader, to)
}

/// Some rules alone, of so many.
pub(crate) fn rules(
    rows: &[&RuleStatus],
    all: usize,
    since: Option<&Since<'_>>,
    reader: Reader,
) -> Result<String, Error> {
    let mut text = Vec::new();
    rules::write(|| rows.iter().copied().map(Ok), all, since, reader, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The same as fits on a screen, and with the rest of a listing unless the rules are to stand alone.
pub(crate) fn rules_on(
    screen: Screen,
    status: &Status,
    rows: &[&RuleStatus],
    since: Option<&Since<'_>>,
    selection: &Selection,
    is_alone: bool,
) -> String {
    let all = status.rules.len();
    let foot = move |shown| match shown < rows.len() {
        true => Some(not_all(rows.len(), all, shown, "rule", selection)),
        false => Totals::of(rows).said(all, Reader::Person),
    };
    screen.show(Parts {
        head: (!is_alone).then(|| attachment_table(&status.attachments, Reader::Person)),
        columns: rules::columns(since, Reader::Person),
        rows,
        foot: Box::new(foot),
        troubles: match is_alone {
            true => Vec::new(),
            false => troubles(&status.attachments, &status.next_hops, true),
        },
    })
}

/// `10,000 rules, these are the 20 busiest`
fn not_all(rows: usize, all: usize, shown: usize, noun: &str, selection: &Selection) -> String {
    let these = match selection.sort {
        Some(SortBy::Rate) => format!("these are the {shown} busiest"),
        Some(sort) => format!("these are the {shown} with the most {sort}"),
        None => format!("these are the first {shown}"),
    };
    format!("{}, {these}", Reader::Person.count_of(rows, all, noun))
}

/// Next hops of so many, what they are in all, then a line for each trouble.
pub(crate) fn next_hops(
    rows: &[&NextHopStatus],
    all: usize,
    since: Option<&Since<'_>>,
    reader: Reader,
) -> String {
    if rows.is_empty() {
        return "no next hops: no rule or group has one".to_owned();
    }
    let troubles: Vec<String> = rows.iter().filter_map(|it| trouble_of_next_hop(it)).collect();
    let table = next_hop_columns(since, reader).table(rows);
    let parts = [Some(table), next_hops_in_all(rows, all, reader), Some(troubles.join("\n"))];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// The same as fits on a screen.
pub(crate) fn next_hops_on(
    screen: Screen,
    rows: &[&NextHopStatus],
    all: usize,
    since: Option<&Since<'_>>,
    selection: &Selection,
) -> String {
    if rows.is_empty() {
        return next_hops(rows, all, since, Reader::Person);
    }
    let foot = move |shown| match shown < rows.len() {
        true => Some(not_all(rows.len(), all, shown, "next hop", selection)),
        false => next_hops_in_all(rows, all, Reader::Person),
    };
    screen.show(Parts {
        head: None,
        columns: next_hop_columns(since, Reader::Person),
        rows,
        foot: Box::new(foot),
        troubles: rows.iter().filter_map(|it| trouble_of_next_hop(it)).collect(),
    })
}

fn next_hops_in_all(rows: &[&NextHopStatus], all: usize, reader: Reader) -> Option<String> {
    if rows.len() == all && all < 2 {
        return None;
    }
    let departed = rows.iter().fold(0_u64, |sum, it| sum.saturating_add(it.departed.packets));
    let lost = rows.iter().fold(0_u64, |sum, it| sum.saturating_add(it.lost()));
    let mut said = reader.count_of(rows.len(), all, "next hop");
    said += &format!(", {}", reader.count(departed, "departed packet"));
    if lost > 0 {
        said += &format!(", {} not arrived", reader.number(lost));
    }
    Some(said)
}

fn next_hop_columns<'a>(since: Option<&'a Since<'_>>, reader: Reader) -> Columns<'a, NextHopStatus> {
    let mut columns = Columns::<NextHopStatus>::new(reader);
    columns
        .text("VIA", |it, to| via(&it.next_hop, to))
        .text("DEV", |it, to| dev(&it.next_hop, to))
        .text("STATE", |it, to| to.write_str(state(it)))
        .number("MTU", |it, to| it.mtu.map_or(Ok(()), |mtu| write!(to, "{mtu}")))
        .count("RULES", |it| Some(it.rules as u64))
        .text("GROUPS", |it, to| to.write_str(&it.groups.join(", ")))
        .only_where(|it| !it.groups.is_empty())
        .text("HEALTH CHECK", |it, to| it.health_check.as_ref().map_or(Ok(()), |check| write!(to, "{check}")))
        .only_where(|it| it.health_check.is_some())
        .count("DEPARTED", |it| Some(it.departed.packets))
        .count("ARRIVED", |it| Some(it.arrived.packets));
    if let Some(since) = since {
        columns.count("ARRIVED/s", |it| {
            let before = since.status.next_hops.iter().find(|before| before.next_hop == it.next_hop)?;
            Some(rate(it.arrived.packets, before.arrived.packets, since.seconds))
        });
    }
    columns
        .count("FAILED OVER", |it| Some(it.failed_over.packets))
        .count("CLAMPED", |it| Some(it.clamped.packets))
        .only_where(|it| it.clamped.packets > 0)
        .count("ICMP SENT", |it| Some(it.icmp_sent.packets))
        .only_where(|it| it.icmp_sent.packets > 0)
        .count("TOO BIG", |it| Some(it.too_big_dropped.packets))
        .only_where(|it| it.too_big_dropped.packets > 0);
    columns
}

/// What each attachment has seen, a column each, and why it left some alone.
pub(crate) fn attachments(attachments: &[Attachment], since: Option<&Since<'_>>, reader: Reader) -> String {
    let counted = |attachments: &[Attachment]| -> Vec<(String, AttachmentCounters)> {
        let there = attachments.iter().filter(|it| !is_waiting(it));
        let counted = there.filter_map(|it| Some((it.device.name.clone(), it.counters?)));
        counted.collect()
    };
    let now = counted(attachments);
    if now.is_empty() {
        let waiting: Vec<String> = attachments.iter().filter_map(Attachment::trouble).collect();
        let nothing = || "no attachments; `byway attach` attaches".to_owned();
        return if waiting.is_empty() { nothing() } else { waiting.join("\n") };
    }
    let mut columns = Columns::<Class>::new(reader);
    columns.text("PACKETS", |(name, _), to| to.write_str(name));
    for (name, seen) in now {
        columns.count(&name, move |(_, of)| Some(of(&seen).packets));
        let before = since.and_then(|since| {
            let before = counted(&since.status.attachments).into_iter().find(|(before, _)| *before == name);
            before.map(|(_, before)| (before, since.seconds))
        });
        if let Some((before, seconds)) = before {
            columns.count(&format!("{name}/s"), move |(_, of)| {
                Some(rate(of(&seen).packets, of(&before).packets, seconds))
            });
        }
    }
    columns.table(&CLASSES)
}

type Class = (&'static str, fn(&AttachmentCounters) -> Count);
const CLASSES: [Class; 9] = [
    ("seen", |seen| seen.seen),
    ("matched by no rule", |seen| seen.not_matched),
    ("neither IPv4 nor IPv6", |seen| seen.not_ip),
    ("multicast", |seen| seen.multicast),
    ("broadcast", |seen| seen.broadcast),
    ("link-local", |seen| seen.link_local),
    ("neighbour discovery", |seen| seen.neighbour_discovery),
    ("with a VLAN tag", |seen| seen.tagged),
    ("malformed", |seen| seen.malformed),
];

/// Groups of so many, and what they are in all.
pub(crate) fn groups(rows: &[&GroupStatus], all: usize, reader: Reader) -> String {
    if rows.is_empty() {
        return "no groups; `byway group add NAME nexthop via ADDR dev IF nexthop ...` adds one".to_owned();
    }
    let mut columns = Columns::<GroupStatus>::new(reader);
    columns
        .text("GROUP", |it, to| to.write_str(&it.group.name))
        .text("VIA", |it, to| each(&it.group.members, to, |member, to| via(&member.next_hop, to)))
        .text("DEV", |it, to| each(&it.group.members, to, |member, to| dev(&member.next_hop, to)))
        .number("WEIGHT", |it, to| {
            each(&it.group.members, to, |member, to| match member.is_backup {
                true => to.write_str("backup"),
                false => write!(to, "{}", member.weight),
            })
        })
        .text("ON-DOWN", |it, to| write!(to, "{}", it.group.on_down))
        .text("OWNER", |it, to| write!(to, "{}", it.group.owner))
        .count("RULES", |it| Some(it.rules as u64));
    let table = columns.table(rows);
    if rows.len() == all && all < 2 {
        return table;
    }
    let rules = rows.iter().map(|it| it.rules as u64).sum();
    let (of, rules) = (reader.count_of(rows.len(), all, "group"), reader.count(rules, "rule"));
    format!("{table}\n\n{of}, used by {rules}")
}

fn attachment_table(attachments: &[Attachment], reader: Reader) -> String {
    if attachments.is_empty() {
        return "attached to nothing".to_owned();
    }
    let mut columns = Columns::<Attachment>::new(reader);
    columns
        .text("DEV", |it, to| {
            let name = &it.device.name;
            if it.by_route { write!(to, "({name})") } else { to.write_str(name) }
        })
        .text("ROLE", |it, to| write!(to, "{}", it.role))
        .text(
            "HOOK",
            |it, to| if is_waiting(it) { to.write_str("waiting") } else { write!(to, "{}", it.hook) },
        );
    columns.table(attachments)
}

fn state(status: &NextHopStatus) -> &'static str {
    match status.state {
        NextHopState::Down => "down",
        NextHopState::DeviceGone => "device gone",
        NextHopState::Waiting => "waiting",
        _ if status.device_down => "device down",
        _ if status.no_carrier => "no carrier",
        NextHopState::Unhealthy => "unhealthy",
        NextHopState::Silent => "no answer",
        NextHopState::Up => "up",
        // A state that only a later library knows.
        _ => "?",
    }
}

/// Whether it waits for its device.
fn is_waiting(attachment: &Attachment) -> bool {
    attachment.device.index == 0
}

pub(crate) fn trouble_of_next_hop(status: &NextHopStatus) -> Option<String> {
    let NextHopStatus { next_hop, departed, arrived, .. } = status;
    let device = &next_hop.device.name;
    let who = next_hop.gateway.map_or_else(|| "the destination".to_owned(), |gateway| gateway.to_string());
    let lost = status.lost();
    let losses =
        || format!("{} of {} did not arrive", thousands(lost), count(departed.packets, "departed packet"));
    let device_trouble = match status {
        NextHopStatus { device_down: true, .. } => {
            Some(format!("{device} is down, so nothing gets to {who}"))
        }
        NextHopStatus { no_carrier: true, .. } => {
            Some(format!("{device} has no carrier, so nothing gets to {who}"))
        }
        _ => None,
    };
    match status.state {
        NextHopState::Down => {
            let named = match next_hop.learned {
                Some(_) => NextHopSpec::from(next_hop),
                None => NextHopSpec::from(&NextHop::new(next_hop.gateway, next_hop.device.clone())),
            };
            Some(format!("{next_hop} is out of service; `byway nexthop up {named}` puts it back"))
        }
        NextHopState::DeviceGone => Some(format!(
            "{next_hop}: the device is gone; byway's next change uses a new device of that name, or give its rules and groups \
             another next hop"
        )),
        NextHopState::Waiting if next_hop.by_route => {
            Some(format!("{who} waits for a route to it; byway's next change looks for one again"))
        }
        NextHopState::Waiting if next_hop.learned.is_some() => Some(format!(
            "{next_hop} waits until the host has learned the gateway; byway's next change looks for it again"
        )),
        NextHopState::Waiting => {
            Some(format!("{next_hop} waits for its device; byway's next change looks for it again"))
        }
        NextHopState::Unhealthy => Some(match &status.health_check {
            Some(check) => format!("{next_hop} fails its health check ({check}), so no packets go there"),
            None => format!("{next_hop} fails its health check, so no packets go there"),
        }),
        NextHopState::Silent => {
            let why = device_trouble.unwrap_or_else(|| format!("{who} does not answer on {device}"));
            Some(if lost > 0 { format!("{}: {why}", losses()) } else { why })
        }
        _ if device_trouble.is_some() => device_trouble,
        _ if lost > 0 && arrived.packets == 0 => {
            Some(format!("{}: does {who} answer on {device}?", losses()))
        }
        _ => (lost > 0).then(|| format!("{} at {who} on {device}", losses())),
    }
}

fn nothing_watched(attachments: &[Attachment], has_rules: bool) -> Option<String> {
    let watched = attachments.iter().any(|attachment| attachment.role == Role::Departure);
    (!watched && has_rules)
        .then(|| "there are no attachments, so the rules do nothing; `byway attach` attaches".to_owned())
}

#[cfg(test)]
mod tests {
    use byway::{Device, Hook, Member, OnDown, Owner, Rule, Target};

    use super::*;

    fn device(name: &str, index: u32) -> Device {
        Device { name: name.into(), index }
    }

    fn attachment(name: &str, index: u32, role: Role) -> Attachment {
        let mut counters = AttachmentCounters::default();
        counters.seen = packets(100);
        counters.not_matched = packets(96);
        counters.multicast = packets(4);
        let mut attachment = Attachment::new(device(name, index), role, Hook::Tcx);
        attachment.counters = (role == Role::Departure).then_some(counters);
        attachment
    }

    fn packets(packets: u64) -> Count {
        Count { packets, bytes: packets * 100 }
    }

    fn next_hop(gateway: &str) -> NextHop {
        NextHop::new(Some(gateway.parse().unwrap()), device("eth1", 3))
    }

    fn rule(source: &str, departed: u64, arrived: u64, name: Option<&str>) -> RuleStatus {
        let mut rule = Rule::new(source.parse().unwrap(), Target::NextHop(next_hop("10.111.221.21")));
        (rule.owner, rule.name) = (Owner::CLI, name.map(str::to_owned));
        let mut status = RuleStatus::new(rule);
        (status.departed, status.arrived) = (packets(departed), packets(arrived));
        status
    }

    fn of_next_hop(gateway: &str, state: NextHopState, departed: u64, arrived: u64) -> NextHopStatus {
        let mut status = NextHopStatus::new(next_hop(gateway), state);
        (status.mtu, status.rules) = (Some(1500), 1);
        (status.departed, status.arrived) = (packets(departed), packets(arrived));
        status
    }

    fn status(rules: Vec<RuleStatus>, next_hops: Vec<NextHopStatus>) -> Status {
        let attachments = vec![attachment("eth0", 2, Role::Departure), attachment("eth1", 3, Role::Arrival)];
        let mut status = Status::default();
        (status.attachments, status.rules, status.next_hops) = (attachments, rules, next_hops);
        status
    }

    /// What `byway show` shows.
    fn shown(status: &Status, since: Option<&Since<'_>>, reader: Reader) -> String {
        listing(status, &status.rules.iter().collect::<Vec<_>>(), since, reader).unwrap()
    }

    #[test]
    fn a_listing_is_read_at_a_glance() {
        let rules =
            vec![rule("192.168.1.5", 1_204, 1_201, None), rule("192.168.2.0/24", 0, 0, Some("office"))];
        let status = status(rules, vec![of_next_hop("10.111.221.21", NextHopState::Up, 1_204, 1_201)]);
        let expected = "\
DEV   ROLE       HOOK
eth0  departure  tcx
eth1  arrival    tcx

FROM            VIA            DEV   OWNER  PACKETS    BYTES  ARRIVED  NAME
192.168.1.5     10.111.221.21  eth1  cli      1,204  120,400    1,201
192.168.2.0/24  10.111.221.21  eth1  cli          0        0        0  office

2 rules, 1,204 packets, 120,400 bytes, 3 not arrived

3 of 1,204 departed packets did not arrive at 10.111.221.21 on eth1";
        assert_eq!(shown(&status, None, Reader::Person), expected);
        let program = shown(&status, None, Reader::Program);
        let expected = "\
FROM            TO  VIA            DEV   ON-DOWN  OWNER  PACKETS   BYTES  ARRIVED  NO-NEXT-HOP  CLAMPED  ICMP-SENT  TOO-BIG  MSS   NAME
192.168.1.5     -   10.111.221.21  eth1  pass     cli       1204  120400     1201            0        0          0        0  auto  -
192.168.2.0/24  -   10.111.221.21  eth1  pass     cli          0       0        0            0        0          0        0  auto  office

2 rules, 1204 packets, 120400 bytes, 3 not arrived";
        assert!(program.contains(expected), "{program}");
        let some = super::rules(&[&status.rules[0]], 2, None, Reader::Person).unwrap();
        assert!(some.ends_with("\n\n1 of 2 rules, 1,204 packets, 120,400 bytes, 3 not arrived"), "{some}");
        let one = super::rules(&[&status.rules[0]], 1, None, Reader::Person).unwrap();
        assert_eq!(one.lines().count(), 2, "{one}");
    }

    #[test]
    fn verdicts_groups_and_destinations_have_their_place() {
        let mut exception = rule("192.168.1.7", 0, 0, None);
        exception.rule.target = Target::Pass;
        exception.rule.destination = Some("10.0.0.0/8".parse().unwrap());
        exception.passed = packets(12);
        let mut several = rule("192.168.1.8", 8, 8, None);
        let member = |gateway, weight| Member::new(next_hop(gateway), weight);
        several.rule.target = Target::NextHops(vec![member("10.111.221.21", 1), member("10.111.221.22", 3)]);
        several.rule.on_down = OnDown::Drop;
        several.no_next_hop = packets(2);
        let mut group = rule("192.168.1.9", 0, 0, None);
        group.rule.target = Target::Group("uplinks".into());
        let mut other = rule("192.168.1.10", 0, 0, None);
        other.rule.target = Target::Other { kind: 200, index: 4 };
        let status = status(vec![exception, several, group, other], vec![]);
        let person = shown(&status, None, Reader::Person);
        let expected = "\
FROM          TO          VIA                     DEV   ON-DOWN  OWNER  PACKETS  BYTES  ARRIVED  NO NEXT HOP
192.168.1.7   10.0.0.0/8  pass                                   cli         12  1,200                     0
192.168.1.8               10.111.221.21           eth1  drop     cli         10  1,000        8            2
                          10.111.221.22 weight 3  eth1
192.168.1.9               group uplinks                          cli          0      0        0            0
192.168.1.10              kind 200                               cli                                       0";
        assert_eq!(person.split("\n\n").nth(1), Some(expected), "{person}");
        // For a program, each row is a line with a word in each column.
        let program = shown(&status, None, Reader::Program);
        let rows: Vec<usize> = program
            .split("\n\n")
            .nth(1)
            .unwrap()
            .lines()
            .map(|line| line.split_whitespace().count())
            .collect();
        assert_eq!(rows, [15; 5], "{program}");
        for cell in ["10.111.221.21,10.111.221.22-weight-3", "eth1,eth1", "group-uplinks", "kind-200"] {
            assert!(program.split_whitespace().any(|word| word == cell), "{program}");
        }
    }

    #[test]
    fn what_is_lost_is_said_in_words() {
        let mut all = [
            of_next_hop("10.111.221.21", NextHopState::Silent, 1_204, 0),
            of_next_hop("10.111.221.22", NextHopState::Down, 7, 7),
            of_next_hop("10.111.221.23", NextHopState::Up, 1, 0),
            of_next_hop("10.111.221.24", NextHopState::Silent, 5, 5),
            of_next_hop("10.111.221.25", NextHopState::Up, 5, 5),
        ];
        all[4].no_carrier = true;
        let expected = "\
VIA            DEV   STATE        MTU  RULES  DEPARTED  ARRIVED  FAILED OVER
10.111.221.21  eth1  no answer   1500      1     1,204        0            0
10.111.221.22  eth1  down        1500      1         7        7            0
10.111.221.23  eth1  up          1500      1         1        0            0
10.111.221.24  eth1  no answer   1500      1         5        5            0
10.111.221.25  eth1  no carrier  1500      1         5        5            0

5 next hops, 1,222 departed packets, 1,205 not arrived

1,204 of 1,204 departed packets did not arrive: 10.111.221.21 does not answer on eth1
via 10.111.221.22 dev eth1 is out of service; `byway nexthop up via 10.111.221.22 dev eth1` puts it back
1 of 1 departed packet did not arrive: does 10.111.221.23 answer on eth1?
10.111.221.24 does not answer on eth1
eth1 has no carrier, so nothing gets to 10.111.221.25";
        let rows: Vec<&NextHopStatus> = all.iter().collect();
        assert_eq!(next_hops(&rows, 5, None, Reader::Person), expected);
        assert!(
            next_hops(&rows[1..2], 5, None, Reader::Person)
                .contains("\n\n1 of 5 next hops, 7 departed packets\n\n")
        );
        assert!(next_hops(&rows, 5, None, Reader::Program).contains("  no-answer   1500"));
    }

    #[test]
    fn a_second_look_has_rates() {
        let before = status(vec![rule("192.168.1.5", 1_000, 1_000, None)], vec![]);
        let now = status(vec![rule("192.168.1.5", 4_000, 4_000, None)], vec![]);
        let since = Since { status: &before, seconds: 2.0 };
        let expected = "\
FROM         VIA            DEV   OWNER  PACKETS    BYTES  PACKETS/s  BYTES/s  ARRIVED
192.168.1.5  10.111.221.21  eth1  cli      4,000  400,000      1,500  150,000    4,000";
        assert_eq!(shown(&now, Some(&since), Reader::Person).split("\n\n").nth(1), Some(expected));
    }

    #[test]
    fn attachments_say_what_they_left_alone() {
        let shown = attachments(&status(vec![], vec![]).attachments, None, Reader::Person);
        let head = "\
PACKETS                eth0
seen                    100
matched by no rule       96
neither IPv4 nor IPv6     0
multicast                 4";
        assert!(shown.starts_with(head), "{shown}");
    }

    #[test]
    fn rules_without_an_attachment_are_pointed_out() {
        let alone = {
            let mut status = Status::default();
            status.rules = vec![rule("192.168.1.5", 0, 0, None)];
            status
        };
        let text = shown(&alone, None, Reader::Person);
        assert!(text.starts_with("attached to nothing\n\nFROM"), "{text}");
        assert!(text.ends_with("`byway attach` attaches"), "{text}");
        let none = shown(&Status::default(), None, Reader::Person);
        assert!(none.starts_with("no rules, attached to nothing"));
    }

    #[test]
    fn a_screen_has_the_busiest() {
        let mut all: Vec<RuleStatus> = (0..10_000_u32)
            .map(|nth| rule(&format!("10.9.{}.{}", nth >> 8, nth & 255), 0, 0, None))
            .collect();
        let before = status(all.clone(), vec![]);
        (all[77].departed, all[77].arrived) = (packets(1_500), packets(1_500));
        let now = status(all, vec![of_next_hop("10.111.221.21", NextHopState::Up, 1, 0)]);
        let since = Since { status: &before, seconds: 1.0 };
        let selection: Selection = "sort by rate".parse().unwrap();
        let rows = selection.rules(&now, Some(&before));
        let screen = Screen { rows: 24, columns: 80 };
        let text = rules_on(screen, &now, &rows, Some(&since), &selection, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 23, "{text}");
        assert!(lines[4].starts_with("FROM") && lines[5].starts_with("10.9.0.77"), "{text}");
        assert!(lines[4].contains("PACKETS/s") && lines[5].contains("1,500"), "{text}");
        assert!(text.contains("\n\n10,000 rules, these are the 14 busiest\n\n1 of 1 departed"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        let selection: Selection = "sort by bytes head 100".parse().unwrap();
        let rows = selection.rules(&now, None);
        let text = rules_on(screen, &now, &rows, None, &selection, true);
        assert!(text.ends_with("\n\n100 of 10,000 rules, these are the 20 with the most bytes"), "{text}");
    }
}
