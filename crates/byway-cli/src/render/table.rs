//! The tables of `byway show`.

use byway::{Attachment, RuleStatus, Target, Watch};
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{count, thousands};

/// Attachments, then rules, then what is not well, in lines.
pub(crate) fn listing(attachments: &[Attachment], rules: &[RuleStatus]) -> String {
    if attachments.is_empty() && rules.is_empty() {
        return "no rules, attached to nothing; `byway add from PREFIX via ADDR dev IF` adds a rule"
            .to_owned();
    }
    let mut parts = vec![attachment_table(attachments), rule_table(rules)];
    let troubles: Vec<String> = attachments
        .iter()
        .filter_map(trouble_of_attachment)
        .chain(rules.iter().filter_map(trouble_of_rule))
        .chain(nothing_watched(attachments, rules))
        .collect();
    if !troubles.is_empty() {
        parts.push(troubles.join("\n"));
    }
    parts.join("\n\n")
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if right.contains(&column.index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table without what pads its right edge.
fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn attachment_table(attachments: &[Attachment]) -> String {
    let mut table = table(&["DEV", "WATCHED FOR", "HOOK"], &[]);
    for attachment in attachments {
        let watches = match attachment.watches {
            Watch::Departures => "departures",
            Watch::Arrivals => "arrivals",
        };
        table.add_row([attachment.device.name.as_str(), watches, &attachment.hook.to_string()]);
    }
    if attachments.is_empty() { "attached to nothing".to_owned() } else { text(&table) }
}

fn rule_table(rules: &[RuleStatus]) -> String {
    if rules.is_empty() {
        return "no rules".to_owned();
    }
    let named = rules.iter().any(|status| status.rule.name.is_some());
    let mut header = vec!["FROM", "VIA", "DEV", "OWNER", "PACKETS", "BYTES", "ARRIVED"];
    header.extend(named.then_some("NAME"));
    let mut table = table(&header, &[4, 5, 6]);
    for status in rules {
        let (via, device) = match &status.rule.target {
            Target::NextHop(next_hop) => (
                next_hop.gateway.map_or_else(|| "on-link".to_owned(), |gateway| gateway.to_string()),
                next_hop.device.name.as_str(),
            ),
            verdict => (verdict.to_string(), ""),
        };
        let is_next_hop = status.rule.target.next_hop().is_some();
        let met = [status.departed, status.passed, status.dropped];
        let mut row = vec![
            Cell::new(status.rule.source),
            Cell::new(via),
            Cell::new(device),
            Cell::new(status.rule.owner),
            Cell::new(thousands(met.iter().map(|count| count.packets).sum())),
            Cell::new(thousands(met.iter().map(|count| count.bytes).sum())),
            Cell::new(if is_next_hop { thousands(status.arrived.packets) } else { String::new() }),
        ];
        row.extend(named.then(|| Cell::new(status.rule.name.as_deref().unwrap_or(""))));
        table.add_row(row);
    }
    text(&table)
}

fn trouble_of_attachment(attachment: &Attachment) -> Option<String> {
    let name = &attachment.device.name;
    if attachment.device_gone {
        return Some(format!("{name}: the device is gone; byway's next change forgets it"));
    }
    (!attachment.is_there)
        .then(|| format!("{name}: somebody has taken byway's program off; byway's next change puts it back"))
}

fn trouble_of_rule(status: &RuleStatus) -> Option<String> {
    let RuleStatus { rule, departed, arrived, device_gone, .. } = status;
    let next_hop = rule.target.next_hop()?;
    let device = &next_hop.device.name;
    if *device_gone {
        return Some(format!("from {}: the device {device} is gone; packets are lost", rule.source));
    }
    let lost = departed.packets.saturating_sub(arrived.packets);
    let who = next_hop.gateway.map_or_else(|| "the destination".to_owned(), |gateway| gateway.to_string());
    (lost > 0).then(|| {
        format!(
            "from {}: {} of {} did not arrive; does {who} answer on {device}?",
            rule.source,
            thousands(lost),
            count(departed.packets, "redirected packet"),
        )
    })
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
    use byway::{Count, Device, Hook, NextHop, Owner, Rule};

    use super::*;

    fn device(name: &str, index: u32) -> Device {
        Device { name: name.into(), index }
    }

    fn attachment(name: &str, index: u32, watches: Watch) -> Attachment {
        Attachment {
            device: device(name, index),
            watches,
            hook: Hook::Tcx,
            is_there: true,
            device_gone: false,
        }
    }

    fn status(source: &str, departed: u64, arrived: u64, name: Option<&str>) -> RuleStatus {
        let count = |packets: u64| Count { packets, bytes: packets * 100 };
        RuleStatus {
            rule: Rule {
                source: source.parse().unwrap(),
                target: Target::NextHop(NextHop {
                    gateway: Some("10.111.221.21".parse().unwrap()),
                    device: device("eth1", 3),
                }),
                owner: Owner::Cli,
                name: name.map(str::to_owned),
            },
            departed: count(departed),
            arrived: count(arrived),
            passed: count(0),
            dropped: count(0),
            device_gone: false,
        }
    }

    #[test]
    fn a_listing_is_read_at_a_glance() {
        let attachments = [attachment("eth0", 2, Watch::Departures), attachment("eth1", 3, Watch::Arrivals)];
        let rules =
            [status("192.168.1.5", 1_204, 1_204, None), status("192.168.2.0/24", 3, 0, Some("office"))];
        let expected = "\
DEV   WATCHED FOR  HOOK
eth0  departures   tcx
eth1  arrivals     tcx

FROM            VIA            DEV   OWNER  PACKETS    BYTES  ARRIVED  NAME
192.168.1.5     10.111.221.21  eth1  cli      1,204  120,400    1,204
192.168.2.0/24  10.111.221.21  eth1  cli          3      300        0  office

from 192.168.2.0/24: 3 of 3 redirected packets did not arrive; does 10.111.221.21 answer on eth1?";
        assert_eq!(listing(&attachments, &rules), expected);
    }

    #[test]
    fn verdicts_stand_where_a_next_hop_would() {
        let mut exception = status("192.168.1.7", 0, 0, None);
        exception.rule.target = Target::Pass;
        exception.passed = Count { packets: 12, bytes: 1_200 };
        let shown = listing(&[attachment("eth0", 2, Watch::Departures)], &[exception]);
        let expected = "\
FROM         VIA   DEV  OWNER  PACKETS  BYTES  ARRIVED
192.168.1.7  pass       cli         12  1,200";
        assert_eq!(shown.split("\n\n").nth(1), Some(expected), "{shown}");
    }

    #[test]
    fn rules_without_an_attachment_are_pointed_out() {
        let shown = listing(&[], &[status("192.168.1.5", 0, 0, None)]);
        assert!(shown.starts_with("attached to nothing\n\nFROM"), "{shown}");
        assert!(shown.ends_with("`byway attach` attaches"), "{shown}");
        assert!(listing(&[], &[]).starts_with("no rules, attached to nothing"));
    }
}
