//! The tables of `byway show`.

use std::{
    borrow::Borrow,
    fmt::{self, Display},
    io,
};

use byway::{
    Attachment, AttachmentCounters, Count, GroupStatus, Listing, NextHop, NextHopSpec, NextHopState,
    NextHopStatus, Role, RuleStatus, Status,
};

use super::{columns::Columns, count, rules, rules::each, thousands};
use crate::error::Error;

/// An earlier look, for rates.
pub(crate) struct Since<'a> {
    pub(crate) status: &'a Status,
    pub(crate) seconds: f64,
}

/// Attachments, then rules, then a line for each trouble.
pub(crate) fn listing(status: &Status, since: Option<&Since<'_>>) -> Result<String, Error> {
    let mut text = Vec::new();
    let rules = || status.rules.iter().map(Ok);
    write(&status.attachments, &status.next_hops, rules, since, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes the same without holding all of it in memory.
pub(crate) fn write_listing(listing: &Listing, to: &mut impl io::Write) -> Result<(), Error> {
    write(&listing.attachments, &listing.next_hops, || listing.rules(), None, to)
}

fn write<I, R>(
    attachments: &[Attachment],
    next_hops: &[NextHopStatus],
    rules: impl Fn() -> I,
    since: Option<&Since<'_>>,
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
    write!(to, "{}\n\n", attachment_table(attachments)).map_err(Error::Print)?;
    rules::write(rules, since, to)?;
    let troubles = attachments
        .iter()
        .filter_map(trouble_of_attachment)
        .chain(next_hops.iter().filter_map(trouble_of_next_hop))
        .chain(nothing_watched(attachments, has_rules));
    for (nth, trouble) in troubles.enumerate() {
        write!(to, "{}{trouble}", if nth == 0 { "\n\n" } else { "\n" }).map_err(Error::Print)?;
    }
    Ok(())
}

/// One rule alone.
pub(crate) fn rule(status: &RuleStatus, since: Option<&Since<'_>>) -> Result<String, Error> {
    let mut text = Vec::new();
    rules::write(|| std::iter::once(Ok(status)), since, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Next hops, then a line for each trouble.
pub(crate) fn next_hops(next_hops: &[NextHopStatus], since: Option<&Since<'_>>) -> String {
    if next_hops.is_empty() {
        return "no next hops: no rule or group has one".to_owned();
    }
    let mut columns = Columns::<NextHopStatus>::new();
    columns
        .text("VIA", |it, to| via(&it.next_hop, to))
        .text("DEV", |it, to| dev(&it.next_hop, to))
        .text("STATE", |it, to| to.write_str(state(it)))
        .number("MTU", |it, to| it.mtu.map_or(Ok(()), |mtu| write!(to, "{mtu}")))
        .number("RULES", |it, to| write!(to, "{}", thousands(it.rules as u64)))
        .text("GROUPS", |it, to| to.write_str(&it.groups.join(", ")))
        .only_where(|it| !it.groups.is_empty())
        .number("DEPARTED", |it, to| write!(to, "{}", thousands(it.departed.packets)))
        .number("ARRIVED", |it, to| write!(to, "{}", thousands(it.arrived.packets)));
    if let Some(since) = since {
        columns.number("ARRIVED/s", |it, to| {
            match since.status.next_hops.iter().find(|before| before.next_hop == it.next_hop) {
                Some(before) => {
                    write!(to, "{}", rate(it.arrived.packets, before.arrived.packets, since.seconds))
                }
                None => Ok(()),
            }
        });
    }
    columns
        .number("FAILED OVER", |it, to| write!(to, "{}", thousands(it.failed_over.packets)))
        .number("CLAMPED", |it, to| write!(to, "{}", thousands(it.clamped.packets)))
        .only_where(|it| it.clamped.packets > 0)
        .number("ICMP SENT", |it, to| write!(to, "{}", thousands(it.icmp_sent.packets)))
        .only_where(|it| it.icmp_sent.packets > 0)
        .number("TOO BIG", |it, to| write!(to, "{}", thousands(it.too_big_dropped.packets)))
        .only_where(|it| it.too_big_dropped.packets > 0);
    let troubles: Vec<String> = next_hops.iter().filter_map(trouble_of_next_hop).collect();
    let parts = [columns.table(next_hops), troubles.join("\n")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// What left by each attachment, a column each, and why it was left alone.
pub(crate) fn attachments(attachments: &[Attachment], since: Option<&Since<'_>>) -> String {
    let counted = |attachments: &[Attachment]| -> Vec<(String, AttachmentCounters)> {
        let there = attachments.iter().filter(|it| !is_waiting(it));
        let counted = there.filter_map(|it| Some((it.device.name.clone(), it.counters?)));
        counted.collect()
    };
    let now = counted(attachments);
    if now.is_empty() {
        return "no attachments; `byway attach` attaches".to_owned();
    }
    let mut columns = Columns::<Class>::new();
    columns.text("PACKETS", |(name, _), to| to.write_str(name));
    for (name, seen) in now {
        columns.number(&name, move |(_, of), to| write!(to, "{}", thousands(of(&seen).packets)));
        let before = since.and_then(|since| {
            let before = counted(&since.status.attachments).into_iter().find(|(before, _)| *before == name);
            before.map(|(_, before)| (before, since.seconds))
        });
        if let Some((before, seconds)) = before {
            columns.number(&format!("{name}/s"), move |(_, of), to| {
                write!(to, "{}", rate(of(&seen).packets, of(&before).packets, seconds))
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

/// The named groups.
pub(crate) fn groups(groups: &[GroupStatus]) -> String {
    if groups.is_empty() {
        return "no groups; `byway group add NAME nexthop via ADDR dev IF nexthop ...` makes one".to_owned();
    }
    let mut columns = Columns::<GroupStatus>::new();
    columns
        .text("GROUP", |it, to| to.write_str(&it.group.name))
        .text("VIA", |it, to| each(&it.group.members, to, |member, to| via(&member.next_hop, to)))
        .text("DEV", |it, to| each(&it.group.members, to, |member, to| dev(&member.next_hop, to)))
        .number("WEIGHT", |it, to| each(&it.group.members, to, |member, to| write!(to, "{}", member.weight)))
        .text("ON-DOWN", |it, to| write!(to, "{}", it.group.on_down))
        .text("OWNER", |it, to| write!(to, "{}", it.group.owner))
        .number("RULES", |it, to| write!(to, "{}", thousands(it.rules as u64)));
    columns.table(groups)
}

fn attachment_table(attachments: &[Attachment]) -> String {
    if attachments.is_empty() {
        return "attached to nothing".to_owned();
    }
    let mut columns = Columns::<Attachment>::new();
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

pub(super) fn rate(now: u64, before: u64, seconds: f64) -> impl Display {
    // The counters of a replaced rule start again.
    thousands((now.saturating_sub(before) as f64 / seconds).round() as u64)
}

pub(super) fn via(next_hop: &NextHop, to: &mut dyn fmt::Write) -> fmt::Result {
    match next_hop.gateway {
        Some(gateway) => write!(to, "{gateway}"),
        None => to.write_str("on-link"),
    }
}

/// A device that nobody has named stands in brackets.
pub(super) fn dev(next_hop: &NextHop, to: &mut dyn fmt::Write) -> fmt::Result {
    match &next_hop.device.name {
        _ if next_hop.by_route && next_hop.is_waiting() => to.write_char('-'),
        name if next_hop.by_route => write!(to, "({name})"),
        name => to.write_str(name),
    }
}

fn state(status: &NextHopStatus) -> &'static str {
    match status.state {
        NextHopState::Down => "down",
        NextHopState::DeviceGone => "device gone",
        NextHopState::Waiting => "waiting",
        _ if status.device_down => "device down",
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

fn trouble_of_attachment(attachment: &Attachment) -> Option<String> {
    let name = &attachment.device.name;
    if attachment.device_gone {
        let why = if is_waiting(attachment) { "there is no such device yet" } else { "the device is gone" };
        return Some(format!("{name}: {why}; byway's next change looks for it again"));
    }
    (!attachment.is_installed)
        .then(|| format!("byway's program on {name} is missing (detached by someone else); byway's next change puts it back"))
}

fn trouble_of_next_hop(status: &NextHopStatus) -> Option<String> {
    let NextHopStatus { next_hop, departed, arrived, .. } = status;
    let device = &next_hop.device.name;
    let who = next_hop.gateway.map_or_else(|| "the destination".to_owned(), |gateway| gateway.to_string());
    let lost = departed.packets.saturating_sub(arrived.packets);
    let losses =
        || format!("{} of {} did not arrive", thousands(lost), count(departed.packets, "departed packet"));
    match status.state {
        NextHopState::Down => {
            let named = NextHopSpec::from(&NextHop::new(next_hop.gateway, next_hop.device.clone()));
            Some(format!("{next_hop} is out of service; `byway nexthop up {named}` puts it back"))
        }
        NextHopState::DeviceGone => Some(format!(
            "{next_hop}: the device is gone; byway's next change uses a new device of that name, or give its rules and groups \
             another next hop"
        )),
        NextHopState::Waiting if next_hop.by_route => {
            Some(format!("{who} waits for a route to it; byway's next change looks for one again"))
        }
        NextHopState::Waiting => {
            Some(format!("{next_hop} waits for its device; byway's next change looks for it again"))
        }
        NextHopState::Silent => {
            let why = if status.device_down {
                format!("{device} is down, so nothing gets to {who}")
            } else {
                format!("{who} does not answer on {device}")
            };
            Some(if lost > 0 { format!("{}: {why}", losses()) } else { why })
        }
        _ if status.device_down => Some(format!("{device} is down, so nothing gets to {who}")),
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

    #[test]
    fn a_listing_is_read_at_a_glance() {
        let rules =
            vec![rule("192.168.1.5", 1_204, 1_201, None), rule("192.168.2.0/24", 0, 0, Some("office"))];
        let shown = status(rules, vec![of_next_hop("10.111.221.21", NextHopState::Up, 1_204, 1_201)]);
        let expected = "\
DEV   ROLE       HOOK
eth0  departure  tcx
eth1  arrival    tcx

FROM            VIA            DEV   OWNER  PACKETS    BYTES  ARRIVED  NAME
192.168.1.5     10.111.221.21  eth1  cli      1,204  120,400    1,201
192.168.2.0/24  10.111.221.21  eth1  cli          0        0        0  office

3 of 1,204 departed packets did not arrive at 10.111.221.21 on eth1";
        assert_eq!(listing(&shown, None).unwrap(), expected);
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
        let shown = listing(&status(vec![exception, several, group, other], vec![]), None).unwrap();
        let expected = "\
FROM          TO          VIA                     DEV   ON-DOWN  OWNER  PACKETS  BYTES  ARRIVED  NO NEXT HOP
192.168.1.7   10.0.0.0/8  pass                                   cli         12  1,200                     0
192.168.1.8               10.111.221.21           eth1  drop     cli         10  1,000        8            2
                          10.111.221.22 weight 3  eth1
192.168.1.9               group uplinks                          cli          0      0        0            0
192.168.1.10              kind 200                               cli                                       0";
        assert_eq!(shown.split("\n\n").nth(1), Some(expected), "{shown}");
    }

    #[test]
    fn what_is_lost_is_said_in_words() {
        let all = vec![
            of_next_hop("10.111.221.21", NextHopState::Silent, 1_204, 0),
            of_next_hop("10.111.221.22", NextHopState::Down, 7, 7),
            of_next_hop("10.111.221.23", NextHopState::Up, 1, 0),
            of_next_hop("10.111.221.24", NextHopState::Silent, 5, 5),
        ];
        let expected = "\
VIA            DEV   STATE       MTU  RULES  DEPARTED  ARRIVED  FAILED OVER
10.111.221.21  eth1  no answer  1500      1     1,204        0            0
10.111.221.22  eth1  down       1500      1         7        7            0
10.111.221.23  eth1  up         1500      1         1        0            0
10.111.221.24  eth1  no answer  1500      1         5        5            0

1,204 of 1,204 departed packets did not arrive: 10.111.221.21 does not answer on eth1
via 10.111.221.22 dev eth1 is out of service; `byway nexthop up via 10.111.221.22 dev eth1` puts it back
1 of 1 departed packet did not arrive: does 10.111.221.23 answer on eth1?
10.111.221.24 does not answer on eth1";
        assert_eq!(next_hops(&all, None), expected);
    }

    #[test]
    fn a_second_look_has_rates() {
        let before = status(vec![rule("192.168.1.5", 1_000, 1_000, None)], vec![]);
        let now = status(vec![rule("192.168.1.5", 4_000, 4_000, None)], vec![]);
        let since = Since { status: &before, seconds: 2.0 };
        let expected = "\
FROM         VIA            DEV   OWNER  PACKETS    BYTES  PACKETS/s  BYTES/s  ARRIVED
192.168.1.5  10.111.221.21  eth1  cli      4,000  400,000      1,500  150,000    4,000";
        assert_eq!(listing(&now, Some(&since)).unwrap().split("\n\n").nth(1), Some(expected));
    }

    #[test]
    fn attachments_say_what_they_left_alone() {
        let shown = attachments(&status(vec![], vec![]).attachments, None);
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
        let shown = listing(&alone, None).unwrap();
        assert!(shown.starts_with("attached to nothing\n\nFROM"), "{shown}");
        assert!(shown.ends_with("`byway attach` attaches"), "{shown}");
        assert!(listing(&Status::default(), None).unwrap().starts_with("no rules, attached to nothing"));
    }
}
