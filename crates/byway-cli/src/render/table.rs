//! The tables of `byway show`.

use byway::{
    Attachment, Count, GroupStatus, Member, Mss, NextHop, NextHopState, NextHopStatus, OnDown, RuleStatus,
    Seen, Status, Target, Watch,
};
use comfy_table::{CellAlignment, Table, presets};

use super::{count, thousands};

/// An earlier look, for rates.
pub(crate) struct Since<'a> {
    pub(crate) status: &'a Status,
    pub(crate) seconds: f64,
}

/// Attachments, then rules, then what is not well, in lines.
pub(crate) fn listing(status: &Status, since: Option<&Since<'_>>) -> String {
    let Status { attachments: watched, rules, next_hops, .. } = status;
    if watched.is_empty() && rules.is_empty() {
        return "no rules, attached to nothing; `byway add from PREFIX via ADDR dev IF` adds a rule"
            .to_owned();
    }
    let troubles: Vec<String> = watched
        .iter()
        .filter_map(trouble_of_attachment)
        .chain(next_hops.iter().filter_map(trouble_of_next_hop))
        .chain(nothing_watched(watched, rules))
        .collect();
    let parts = [attachment_table(watched), rule_table(rules, since), troubles.join("\n")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Next hops, then what is not well with them, in lines.
pub(crate) fn next_hops(status: &Status, since: Option<&Since<'_>>) -> String {
    let Status { next_hops, .. } = status;
    if next_hops.is_empty() {
        return "no next hops; rules and groups have them".to_owned();
    }
    let mut columns = Columns::default();
    columns.text("VIA", next_hops.iter().map(|it| via(&it.next_hop)));
    columns.text("DEV", next_hops.iter().map(|it| it.next_hop.device.name.clone()));
    columns.text("STATE", next_hops.iter().map(|it| state(it).to_owned()));
    columns.number("MTU", next_hops.iter().map(|it| it.mtu.map_or_else(String::new, |mtu| mtu.to_string())));
    columns.number("RULES", next_hops.iter().map(|it| thousands(it.rules as u64)));
    if next_hops.iter().any(|it| !it.groups.is_empty()) {
        columns.text("GROUPS", next_hops.iter().map(|it| it.groups.join(", ")));
    }
    let before = |it: &NextHopStatus| {
        let since = since?;
        let before = since.status.next_hops.iter().find(|before| before.next_hop == it.next_hop)?;
        Some((before, since.seconds))
    };
    columns.number("DEPARTED", next_hops.iter().map(|it| thousands(it.departed.packets)));
    columns.number("ARRIVED", next_hops.iter().map(|it| thousands(it.arrived.packets)));
    if since.is_some() {
        let rate = |it: &NextHopStatus| {
            before(it).map(|(before, seconds)| rate(it.arrived.packets, before.arrived.packets, seconds))
        };
        columns.number("ARRIVED/s", next_hops.iter().map(|it| rate(it).unwrap_or_default()));
    }
    columns.number("SKIPPED", next_hops.iter().map(|it| thousands(it.skipped.packets)));
    let seldom: [Seldom<NextHopStatus>; 3] =
        [("CLAMPED", |it| it.clamped), ("ANSWERED", |it| it.answered), ("REFUSED", |it| it.refused)];
    for (header, of) in seldom {
        if next_hops.iter().any(|it| of(it).packets > 0) {
            columns.number(header, next_hops.iter().map(|it| thousands(of(it).packets)));
        }
    }
    let troubles: Vec<String> = next_hops.iter().filter_map(trouble_of_next_hop).collect();
    let parts = [columns.table(), troubles.join("\n")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// What left by each attachment, a column each, and why it was left alone.
pub(crate) fn attachments(status: &Status, since: Option<&Since<'_>>) -> String {
    let counted = |attachments: &[Attachment]| -> Vec<(String, Seen)> {
        let counted = attachments.iter().filter_map(|it| Some((it.device.name.clone(), it.counted?)));
        counted.collect()
    };
    let now = counted(&status.attachments);
    if now.is_empty() {
        return "no interface is watched for departures; `byway attach` attaches".to_owned();
    }
    let mut columns = Columns::default();
    columns.text("PACKETS", CLASSES.iter().map(|(name, _)| (*name).to_owned()));
    for (name, seen) in &now {
        columns.number(name, CLASSES.iter().map(|(_, of)| thousands(of(seen).packets)));
        let before = since.and_then(|since| {
            let before = counted(&since.status.attachments).into_iter().find(|(before, _)| before == name);
            before.map(|(_, before)| (before, since.seconds))
        });
        if let Some((before, seconds)) = before {
            let rate = |of: &fn(&Seen) -> Count| rate(of(seen).packets, of(&before).packets, seconds);
            columns.number(&format!("{name}/s"), CLASSES.iter().map(|(_, of)| rate(of)));
        }
    }
    columns.table()
}

/// A column that is there only where there is something to see.
type Seldom<T> = (&'static str, fn(&T) -> Count);

type Class = (&'static str, fn(&Seen) -> Count);
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

/// The groups that have a name.
pub(crate) fn groups(groups: &[GroupStatus]) -> String {
    if groups.is_empty() {
        return "no groups; `byway group add NAME nexthop via ADDR dev IF nexthop ...` makes one".to_owned();
    }
    let mut columns = Columns::default();
    columns.text("GROUP", groups.iter().map(|it| it.group.name.clone()));
    columns.text("VIA", groups.iter().map(|it| each(&it.group.members, |member| via(&member.next_hop))));
    columns.text(
        "DEV",
        groups.iter().map(|it| each(&it.group.members, |member| member.next_hop.device.name.clone())),
    );
    columns.number(
        "WEIGHT",
        groups.iter().map(|it| each(&it.group.members, |member| member.weight.to_string())),
    );
    columns.text("ON-DOWN", groups.iter().map(|it| it.group.on_down.to_string()));
    columns.text("OWNER", groups.iter().map(|it| it.group.owner.to_string()));
    columns.number("RULES", groups.iter().map(|it| thousands(it.rules as u64)));
    columns.table()
}

/// A table that is put together column by column.
#[derive(Default)]
struct Columns(Vec<(String, CellAlignment, Vec<String>)>);

impl Columns {
    fn text(&mut self, header: &str, cells: impl Iterator<Item = String>) {
        self.0.push((header.to_owned(), CellAlignment::Left, cells.collect()));
    }

    fn number(&mut self, header: &str, cells: impl Iterator<Item = String>) {
        self.0.push((header.to_owned(), CellAlignment::Right, cells.collect()));
    }

    /// The table without what pads its right edge.
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(self.0.iter().map(|(header, ..)| header));
        let rows = self.0.iter().map(|(.., cells)| cells.len()).max().unwrap_or(0);
        for row in 0..rows {
            table.add_row(self.0.iter().map(|(.., cells)| cells.get(row).map_or("", String::as_str)));
        }
        for (column, (_, alignment, _)) in table.column_iter_mut().zip(&self.0) {
            column.set_padding((0, 2));
            column.set_cell_alignment(*alignment);
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

fn attachment_table(attachments: &[Attachment]) -> String {
    if attachments.is_empty() {
        return "attached to nothing".to_owned();
    }
    let watches = |attachment: &Attachment| match attachment.watches {
        Watch::Departures => "departures".to_owned(),
        Watch::Arrivals => "arrivals".to_owned(),
    };
    let mut columns = Columns::default();
    columns.text("DEV", attachments.iter().map(|it| it.device.name.clone()));
    columns.text("WATCHED FOR", attachments.iter().map(watches));
    columns.text("HOOK", attachments.iter().map(|it| it.hook.to_string()));
    columns.table()
}

fn rule_table(rules: &[RuleStatus], since: Option<&Since<'_>>) -> String {
    if rules.is_empty() {
        return "no rules".to_owned();
    }
    let mut columns = Columns::default();
    columns.text("FROM", rules.iter().map(|it| it.rule.source.to_string()));
    if rules.iter().any(|it| it.rule.destination.is_some()) {
        let to = |it: &RuleStatus| it.rule.destination.map_or_else(String::new, |to| to.to_string());
        columns.text("TO", rules.iter().map(to));
    }
    columns.text("VIA", rules.iter().map(|it| target(&it.rule.target)));
    let device = |it: &RuleStatus| {
        it.rule.target.next_hops().map(|next_hop| next_hop.device.name.clone()).collect::<Vec<_>>().join("\n")
    };
    columns.text("DEV", rules.iter().map(device));
    if rules.iter().any(|it| it.rule.on_down != OnDown::Pass) {
        let leads_out = |it: &RuleStatus| it.rule.target.next_hops().next().is_some();
        let on_down =
            |it: &RuleStatus| if leads_out(it) { it.rule.on_down.to_string() } else { String::new() };
        columns.text("ON-DOWN", rules.iter().map(on_down));
    }
    columns.text("OWNER", rules.iter().map(|it| it.rule.owner.to_string()));
    columns.number("PACKETS", rules.iter().map(|it| thousands(met(it).packets)));
    columns.number("BYTES", rules.iter().map(|it| thousands(met(it).bytes)));
    if let Some(since) = since {
        let before: std::collections::BTreeMap<_, _> =
            since.status.rules.iter().map(|it| (it.rule.selector(), met(it))).collect();
        let of = |it: &RuleStatus, of: fn(Count) -> u64| {
            let before = before.get(&it.rule.selector())?;
            Some(rate(of(met(it)), of(*before), since.seconds))
        };
        columns.number("PACKETS/s", rules.iter().map(|it| of(it, |count| count.packets).unwrap_or_default()));
        columns.number("BYTES/s", rules.iter().map(|it| of(it, |count| count.bytes).unwrap_or_default()));
    }
    let arrived = |it: &RuleStatus| {
        if matches!(it.rule.target, Target::Pass | Target::Drop) {
            String::new()
        } else {
            thousands(it.arrived.packets)
        }
    };
    columns.number("ARRIVED", rules.iter().map(arrived));
    // What is seldom has a column only where there is something to see.
    let seldom: [Seldom<RuleStatus>; 4] = [
        ("DOWN", |it| it.down),
        ("CLAMPED", |it| it.clamped),
        ("ANSWERED", |it| it.answered),
        ("REFUSED", |it| it.refused),
    ];
    for (header, of) in seldom {
        if rules.iter().any(|it| of(it).packets > 0) {
            columns.number(header, rules.iter().map(|it| thousands(of(it).packets)));
        }
    }
    if rules.iter().any(|it| it.rule.mss != Mss::Auto) {
        columns.text("MSS", rules.iter().map(|it| it.rule.mss.to_string()));
    }
    if rules.iter().any(|it| it.rule.name.is_some()) {
        columns.text("NAME", rules.iter().map(|it| it.rule.name.clone().unwrap_or_default()));
    }
    columns.table()
}

/// What a rule has met, whatever became of it.
fn met(status: &RuleStatus) -> Count {
    let all = [status.departed, status.passed, status.dropped, status.down, status.answered, status.refused];
    Count {
        packets: all.iter().fold(0, |sum, count| sum.saturating_add(count.packets)),
        bytes: all.iter().fold(0, |sum, count| sum.saturating_add(count.bytes)),
    }
}

fn rate(now: u64, before: u64, seconds: f64) -> String {
    // A rule that was replaced has begun anew.
    thousands((now.saturating_sub(before) as f64 / seconds).round() as u64)
}

fn via(next_hop: &NextHop) -> String {
    next_hop.gateway.map_or_else(|| "on-link".to_owned(), |gateway| gateway.to_string())
}

fn target(target: &Target) -> String {
    match target {
        Target::NextHop(next_hop) => via(next_hop),
        Target::NextHops(members) => each(members, |member| match member.weight {
            1 => via(&member.next_hop),
            weight => format!("{} weight {weight}", via(&member.next_hop)),
        }),
        other => other.to_string(),
    }
}

/// A line for each member.
fn each(members: &[Member], line: impl Fn(&Member) -> String) -> String {
    members.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn state(status: &NextHopStatus) -> &'static str {
    match status.state {
        NextHopState::Down => "down",
        NextHopState::DeviceGone => "device gone",
        _ if status.device_down => "device down",
        NextHopState::Silent => "no answer",
        NextHopState::Up => "up",
    }
}

fn trouble_of_attachment(attachment: &Attachment) -> Option<String> {
    let name = &attachment.device.name;
    if attachment.device_gone {
        return Some(format!("{name}: the device is gone; byway's next change forgets it"));
    }
    (!attachment.is_there)
        .then(|| format!("{name}: somebody has taken byway's program off; byway's next change puts it back"))
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
            Some(format!("{next_hop} is out of service; `byway nexthop up {next_hop}` puts it back"))
        }
        NextHopState::DeviceGone => {
            Some(format!("{next_hop}: the device is gone; give the rules and groups that lead there another"))
        }
        NextHopState::Silent if status.device_down => {
            Some(format!("{} at {who}: {device} is down", losses()))
        }
        NextHopState::Silent => Some(format!("{}: {who} does not answer on {device}", losses())),
        NextHopState::Up if status.device_down => {
            Some(format!("{device} is down, so that nothing gets to {who} there"))
        }
        NextHopState::Up if lost > 0 && arrived.packets == 0 => {
            Some(format!("{}: does {who} answer on {device}?", losses()))
        }
        NextHopState::Up => (lost > 0).then(|| format!("{} at {who} on {device}", losses())),
    }
}

fn nothing_watched(attachments: &[Attachment], rules: &[RuleStatus]) -> Option<String> {
    let watched = attachments.iter().any(|attachment| attachment.watches == Watch::Departures);
    (!watched && !rules.is_empty()).then(|| {
        "no interface is watched for departures, so that no rule does anything; `byway attach` attaches"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use byway::{Device, Hook, Owner, Rule};

    use super::*;

    fn device(name: &str, index: u32) -> Device {
        Device { name: name.into(), index }
    }

    fn attachment(name: &str, index: u32, watches: Watch) -> Attachment {
        let seen =
            Seen { seen: packets(100), not_matched: packets(96), multicast: packets(4), ..Seen::default() };
        Attachment {
            device: device(name, index),
            watches,
            hook: Hook::Tcx,
            is_there: true,
            device_gone: false,
            counted: (watches == Watch::Departures).then_some(seen),
        }
    }

    fn packets(packets: u64) -> Count {
        Count { packets, bytes: packets * 100 }
    }

    fn next_hop(gateway: &str) -> NextHop {
        NextHop { gateway: Some(gateway.parse().unwrap()), device: device("eth1", 3) }
    }

    fn rule(source: &str, departed: u64, arrived: u64, name: Option<&str>) -> RuleStatus {
        RuleStatus {
            rule: Rule {
                source: source.parse().unwrap(),
                destination: None,
                target: Target::NextHop(next_hop("10.111.221.21")),
                on_down: OnDown::Pass,
                mss: Mss::Auto,
                owner: Owner::Cli,
                name: name.map(str::to_owned),
            },
            departed: packets(departed),
            arrived: packets(arrived),
            passed: packets(0),
            dropped: packets(0),
            down: packets(0),
            clamped: packets(0),
            answered: packets(0),
            refused: packets(0),
            device_gone: false,
        }
    }

    fn of_next_hop(gateway: &str, state: NextHopState, departed: u64, arrived: u64) -> NextHopStatus {
        NextHopStatus {
            next_hop: next_hop(gateway),
            state,
            device_down: false,
            mtu: Some(1500),
            rules: 1,
            groups: vec![],
            departed: packets(departed),
            arrived: packets(arrived),
            skipped: packets(0),
            clamped: packets(0),
            answered: packets(0),
            refused: packets(0),
        }
    }

    fn status(rules: Vec<RuleStatus>, next_hops: Vec<NextHopStatus>) -> Status {
        let attachments =
            vec![attachment("eth0", 2, Watch::Departures), attachment("eth1", 3, Watch::Arrivals)];
        Status { attachments, rules, groups: vec![], next_hops }
    }

    #[test]
    fn a_listing_is_read_at_a_glance() {
        let rules =
            vec![rule("192.168.1.5", 1_204, 1_201, None), rule("192.168.2.0/24", 0, 0, Some("office"))];
        let shown = status(rules, vec![of_next_hop("10.111.221.21", NextHopState::Up, 1_204, 1_201)]);
        let expected = "\
DEV   WATCHED FOR  HOOK
eth0  departures   tcx
eth1  arrivals     tcx

FROM            VIA            DEV   OWNER  PACKETS    BYTES  ARRIVED  NAME
192.168.1.5     10.111.221.21  eth1  cli      1,204  120,400    1,201
192.168.2.0/24  10.111.221.21  eth1  cli          0        0        0  office

3 of 1,204 departed packets did not arrive at 10.111.221.21 on eth1";
        assert_eq!(listing(&shown, None), expected);
    }

    #[test]
    fn verdicts_groups_and_destinations_have_their_place() {
        let mut exception = rule("192.168.1.7", 0, 0, None);
        exception.rule.target = Target::Pass;
        exception.rule.destination = Some("10.0.0.0/8".parse().unwrap());
        exception.passed = packets(12);
        let mut several = rule("192.168.1.8", 8, 8, None);
        let member = |gateway, weight| Member { next_hop: next_hop(gateway), weight };
        several.rule.target = Target::NextHops(vec![member("10.111.221.21", 1), member("10.111.221.22", 3)]);
        several.rule.on_down = OnDown::Drop;
        several.down = packets(2);
        let mut group = rule("192.168.1.9", 0, 0, None);
        group.rule.target = Target::Group("uplinks".into());
        let shown = listing(&status(vec![exception, several, group], vec![]), None);
        let expected = "\
FROM         TO          VIA                     DEV   ON-DOWN  OWNER  PACKETS  BYTES  ARRIVED  DOWN
192.168.1.7  10.0.0.0/8  pass                                   cli         12  1,200              0
192.168.1.8              10.111.221.21           eth1  drop     cli         10  1,000        8     2
                         10.111.221.22 weight 3  eth1
192.168.1.9              group uplinks                          cli          0      0        0     0";
        assert_eq!(shown.split("\n\n").nth(1), Some(expected), "{shown}");
    }

    #[test]
    fn what_is_lost_is_said_in_words() {
        let all = vec![
            of_next_hop("10.111.221.21", NextHopState::Silent, 1_204, 0),
            of_next_hop("10.111.221.22", NextHopState::Down, 7, 7),
            of_next_hop("10.111.221.23", NextHopState::Up, 1, 0),
        ];
        let expected = "\
VIA            DEV   STATE       MTU  RULES  DEPARTED  ARRIVED  SKIPPED
10.111.221.21  eth1  no answer  1500      1     1,204        0        0
10.111.221.22  eth1  down       1500      1         7        7        0
10.111.221.23  eth1  up         1500      1         1        0        0

1,204 of 1,204 departed packets did not arrive: 10.111.221.21 does not answer on eth1
via 10.111.221.22 dev eth1 is out of service; `byway nexthop up via 10.111.221.22 dev eth1` puts it back
1 of 1 departed packet did not arrive: does 10.111.221.23 answer on eth1?";
        assert_eq!(next_hops(&status(vec![], all), None), expected);
    }

    #[test]
    fn a_second_look_has_rates() {
        let before = status(vec![rule("192.168.1.5", 1_000, 1_000, None)], vec![]);
        let now = status(vec![rule("192.168.1.5", 4_000, 4_000, None)], vec![]);
        let since = Since { status: &before, seconds: 2.0 };
        let expected = "\
FROM         VIA            DEV   OWNER  PACKETS    BYTES  PACKETS/s  BYTES/s  ARRIVED
192.168.1.5  10.111.221.21  eth1  cli      4,000  400,000      1,500  150,000    4,000";
        assert_eq!(listing(&now, Some(&since)).split("\n\n").nth(1), Some(expected));
    }

    #[test]
    fn attachments_say_what_they_left_alone() {
        let shown = attachments(&status(vec![], vec![]), None);
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
        let alone = Status { rules: vec![rule("192.168.1.5", 0, 0, None)], ..Status::default() };
        let shown = listing(&alone, None);
        assert!(shown.starts_with("attached to nothing\n\nFROM"), "{shown}");
        assert!(shown.ends_with("`byway attach` attaches"), "{shown}");
        assert!(listing(&Status::default(), None).starts_with("no rules, attached to nothing"));
    }
}
