//! The counters as metrics, in Prometheus's text format 0.0.4, which the textfile collector of node_exporter reads. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use byway::{
    Attachment, Count, Flows, GroupStatus, NextHopState, NextHopStatus, Role, RuleStatus, Target, WayState,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// What all names begin with.
const PREFIX: &str = "byway";

const ARRIVED: &str = "What departed and reached the egress of the next hop's device";
const CLAMPED: &str = "What departed with its MSS option clamped";

/// Everything that is measured, but the rules.
pub(crate) struct Measured<'a> {
    /// How many rules there are.
    pub(crate) rules: usize,
    pub(crate) attachments: &'a [Attachment],
    pub(crate) groups: &'a [GroupStatus],
    pub(crate) next_hops: &'a [NextHopStatus],
    pub(crate) flows: &'a Flows,
    /// How long the last apply still waits to be confirmed, if it does.
    pub(crate) unconfirmed: Option<Duration>,
}

/// The metrics, as they are filled.
pub(crate) struct Metrics {
    all: BTreeMap<String, Family>,
}

/// The values of one metric.
#[derive(Debug)]
struct Family {
    name: String,
    help: String,
    kind: MetricType,
    values: BTreeMap<Labels, u64>,
}

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self { all: BTreeMap::new() };
        let build =
            vec![("version", env!("CARGO_PKG_VERSION").into()), ("schema", byway::SCHEMA.to_string())];
        metrics.set("build_info", "The version of byway, and that of the pins that it makes", build, 1);
        metrics
    }

    /// Adds a rule.
    pub(crate) fn rule(&mut self, status: &RuleStatus) {
        let RuleStatus { rule, departed, arrived, passed, dropped, no_next_hop, clamped, .. } = status;
        let RuleStatus { icmp_sent, too_big_dropped, .. } = status;
        let to = rule.destination.map_or_else(String::new, |to| to.to_string());
        let labels = vec![
            ("from", rule.source.to_string()),
            ("to", to),
            ("name", rule.name.clone().unwrap_or_default()),
            ("owner", rule.owner.to_string()),
        ];
        // What is no reply is left to `else`, and nothing is wrong with that.
        let has_next_hop = !matches!(rule.target, Target::Pass | Target::Drop);
        let not_sent = if rule.reply_to && !has_next_hop { "no_reply" } else { "no_next_hop" };
        let results = [
            ("departed", departed),
            ("passed", passed),
            ("dropped", dropped),
            (not_sent, no_next_hop),
            ("icmp_sent", icmp_sent),
            ("too_big_dropped", too_big_dropped),
        ];
        for (result, count) in results {
            let help = "What the rule has matched, by what became of it";
            self.count("rule", help, with(&labels, "result", result), *count);
        }
        self.count("rule_arrived", ARRIVED, labels.clone(), *arrived);
        self.count("rule_clamped", CLAMPED, labels, *clamped);
    }

    /// Adds everything but the rules.
    pub(crate) fn rest(&mut self, measured: &Measured<'_>) {
        self.set("rules", "Rules", Vec::new(), measured.rules as u64);
        self.set("groups", "Groups of next hops", Vec::new(), measured.groups.len() as u64);
        measured.next_hops.iter().for_each(|it| self.next_hop(it));
        self.set("nexthops", "Next hops in use", Vec::new(), measured.next_hops.len() as u64);
        self.programs(measured.attachments);
        self.flows(measured.flows);
        if let Some(left) = measured.unconfirmed {
            let help = "Time that is left to confirm the last apply";
            // Zero means that it is overdue.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            self.set("apply_to_confirm_seconds", help, Vec::new(), seconds);
        }
    }

    /// Adds what the agent has done.
    pub(crate) fn agent(&mut self, followed: u64, overruns: u64, is_in_trouble: bool) {
        let mut count = |name, help, value| self.add(name, help, MetricType::Counter, Vec::new(), value);
        count("agent_followed", "What the agent has changed because the network had", followed);
        count("agent_overruns", "How often the agent has missed events, and read everything again", overruns);
        let help = "Whether the agent cannot do what it was asked for";
        self.set("agent_in_trouble", help, Vec::new(), is_in_trouble.into());
    }

    fn next_hop(&mut self, status: &NextHopStatus) {
        let NextHopStatus { next_hop, state, departed, arrived, failed_over, clamped, .. } = status;
        let NextHopStatus { icmp_sent, too_big_dropped, .. } = status;
        let learned = next_hop.learned.map(|learned| learned.to_string());
        let via = next_hop.gateway.map(|gateway| gateway.to_string()).or(learned).unwrap_or_default();
        let labels = vec![("via", via), ("dev", next_hop.device.name.clone())];
        let help = "Whether the next hop is in service";
        self.set("nexthop_up", help, labels.clone(), (*state == NextHopState::Up).into());
        let states = [
            ("up", NextHopState::Up),
            ("down", NextHopState::Down),
            ("device_gone", NextHopState::DeviceGone),
            ("waiting", NextHopState::Waiting),
            ("silent", NextHopState::Silent),
            ("unhealthy", NextHopState::Unhealthy),
        ];
        for (name, of) in states {
            let help = "The state of the next hop: the value is 1 for the one that it is in";
            self.set("nexthop_state", help, with(&labels, "state", name), (*state == of).into());
        }
        let help = "Rules that use the next hop, directly or by a group";
        self.add("nexthop_rules", help, MetricType::Gauge, labels.clone(), status.rules as u64);
        let results = [
            ("departed", departed),
            ("failed_over", failed_over),
            ("icmp_sent", icmp_sent),
            ("too_big_dropped", too_big_dropped),
        ];
        for (result, count) in results {
            let help = "What belonged to the next hop, by what became of it";
            self.count("nexthop", help, with(&labels, "result", result), *count);
        }
        self.count("nexthop_arrived", ARRIVED, labels.clone(), *arrived);
        self.count("nexthop_clamped", CLAMPED, labels, *clamped);
    }

    /// The programs by number, because devices of containers come and go. Only attachments have values of their own.
    fn programs(&mut self, programs: &[Attachment]) {
        let is_waiting = |it: &&Attachment| it.device_gone && it.role == Role::Departure;
        let waiting = programs.iter().filter(is_waiting).count() as u64;
        self.set("attachments_waiting", "Attachments that wait for a device or a route", Vec::new(), waiting);
        for role in [Role::Departure, Role::Arrival, Role::Reception] {
            let of_role = || programs.iter().filter(|it| it.role == role && !it.device_gone);
            let program = vec![("program", role.to_string())];
            let installed = of_role().filter(|it| it.is_installed).count() as u64;
            self.set("programs", "Devices that carry the program", program.clone(), installed);
            let help = "Devices that somebody has taken the program off";
            self.set("programs_missing", help, program, of_role().count() as u64 - installed);
        }
        programs.iter().filter(|it| it.device.index != 0).for_each(|it| self.attachment(it));
    }

    fn attachment(&mut self, attachment: &Attachment) {
        let Some(counters) = attachment.counters else { return };
        let device = vec![("dev", attachment.device.name.clone())];
        let help = "What left by the attachment, without what was redirected and arrived there";
        self.count("attachment_seen", help, device.clone(), counters.seen);
        let reasons = [
            ("not_ip", counters.not_ip),
            ("malformed", counters.malformed),
            ("tagged", counters.tagged),
            ("multicast", counters.multicast),
            ("broadcast", counters.broadcast),
            ("link_local", counters.link_local),
            ("neighbour_discovery", counters.neighbour_discovery),
            ("not_matched", counters.not_matched),
        ];
        for (reason, count) in reasons {
            let help = "What left by the attachment and no rule decided about, by the reason";
            self.count("attachment_left_alone", help, with(&device, "reason", reason), count);
        }
    }

    /// Without a rule that sends replies back, there is nothing to say.
    fn flows(&mut self, flows: &Flows) {
        if flows.room == 0 {
            return;
        }
        let help = "Flows that reply-to sends back, by the device that their requests came in by";
        for it in &flows.ways {
            let device = vec![("dev", it.way.device.name.clone())];
            for (state, count) in
                [("new", it.new), ("answered", it.answered), ("established", it.established)]
            {
                self.add("flows", help, MetricType::Gauge, with(&device, "state", state), count);
            }
            let help = "Neighbours that requests have come from, by device";
            self.add("flow_neighbours", help, MetricType::Gauge, device.clone(), 1);
            let is_out = u64::from(it.state != WayState::Up);
            let help = "Those of them that get no replies, because the agent knows that they cannot";
            self.add("flow_neighbours_out", help, MetricType::Gauge, device, is_out);
        }
        let of_host = vec![("dev", String::new()), ("state", "of_host".into())];
        self.add("flows", help, MetricType::Gauge, of_host, flows.of_host);
        self.set("flows_room", "Flows that the table has room for", Vec::new(), flows.room);
        for (name, help, value) in [
            ("flows_noted", "Flows that have got a place in the table", flows.noted),
            ("flows_evicted", "Flows that took the place of another one that was not idle", flows.evicted),
            ("flows_refused", "Packets that got no place in the table for their flow", flows.refused),
        ] {
            self.add(name, help, MetricType::Counter, Vec::new(), value);
        }
    }

    /// Adds packets and their bytes, as two metrics.
    fn count(&mut self, name: &str, help: &str, labels: Labels, count: Count) {
        for (unit, value) in [("packets", count.packets), ("bytes", count.bytes)] {
            let (name, help) = (format!("{name}_{unit}"), format!("{help}, in {unit}"));
            self.add(&name, &help, MetricType::Counter, labels.clone(), value);
        }
    }

    /// The values of a metric.
    fn values(&mut self, name: &str, help: &str, kind: MetricType) -> &mut BTreeMap<Labels, u64> {
        let family = self.all.entry(name.to_owned());
        let new = || Family { name: name.into(), help: help.into(), kind, values: BTreeMap::new() };
        &mut family.or_insert_with(new).values
    }

    /// Adds to a value. Two things may have the same labels: a device that is gone and its successor have one name.
    fn add(&mut self, name: &str, help: &str, kind: MetricType, labels: Labels, value: u64) {
        let sum = self.values(name, help, kind).entry(labels).or_default();
        *sum = sum.saturating_add(value);
    }

    /// Sets a value. Of two things with the same labels the larger one counts.
    fn set(&mut self, name: &str, help: &str, labels: Labels, value: u64) {
        let most = self.values(name, help, MetricType::Gauge).entry(labels).or_default();
        *most = value.max(*most);
    }
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    labels.iter().cloned().chain([(name, value.to_owned())]).collect()
}

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(&self.name, &self.help, None, self.kind)?;
        for (labels, value) in &self.values {
            let metric = family.encode_family(labels)?;
            match self.kind {
                MetricType::Counter => ConstCounter::new(*value).encode(metric)?,
                _ => ConstGauge::new(*value).encode(metric)?,
            }
        }
        Ok(())
    }
}

/// Writes the metrics as text. The library writes OpenMetrics, where a counter is declared without the suffix of its samples. For
/// Prometheus's own format, these are two metrics, of which one has no type.
pub(crate) fn text(metrics: Metrics) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for (name, family) in metrics.all {
        let is_counter = matches!(family.kind, MetricType::Counter);
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(family));
        let mut part = String::new();
        text::encode_registry(&mut part, &registry)?;
        if is_counter {
            // In `HELP` and `TYPE`.
            part = part.replacen(&format!(" {PREFIX}_{name} "), &format!(" {PREFIX}_{name}_total "), 2);
        }
        text += &part;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use byway::{AttachmentCounters, Device, FlowsOfWay, Hook, NextHop, ReplyWay, Rule};

    use super::*;

    fn count(packets: u64) -> Count {
        Count { packets, bytes: packets.saturating_mul(100) }
    }

    fn rule(from: &str, departed: u64) -> RuleStatus {
        let mut rule = RuleStatus::new(Rule::new(from.parse().unwrap(), Target::Pass));
        rule.departed = count(departed);
        rule
    }

    fn next_hop(dev: &str, state: NextHopState) -> NextHopStatus {
        let next_hop = NextHop::new(Some("10.0.0.1".parse().unwrap()), device(dev));
        let mut status = NextHopStatus::new(next_hop, state);
        status.departed = count(1);
        status
    }

    fn device(name: &str) -> Device {
        Device { name: name.into(), index: 3 }
    }

    /// The lines for some rules and other things.
    fn lines(rules: &[RuleStatus], next_hops: &[NextHopStatus], flows: &Flows) -> Vec<String> {
        let mut metrics = Metrics::new();
        rules.iter().for_each(|it| metrics.rule(it));
        let gone = |name: &str, index, role| {
            let mut it = Attachment::new(Device { name: name.into(), index }, role, Hook::Tcx);
            (it.device_gone, it.is_installed, it.counters) =
                (true, false, (role == Role::Departure).then(AttachmentCounters::default));
            it
        };
        let mut missing = Attachment::new(device("eth1"), Role::Arrival, Hook::Tcx);
        missing.is_installed = false;
        let attachments = [
            Attachment::new(device("eth0"), Role::Departure, Hook::Tcx),
            gone("auto", 0, Role::Departure),
            gone("veth1", 9, Role::Reception),
            missing,
        ];
        metrics.rest(&Measured {
            rules: 7,
            attachments: &attachments,
            groups: &[],
            next_hops,
            flows,
            unconfirmed: Some(Duration::from_millis(1)),
        });
        text(metrics).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    fn assert_has(all: &[String], lines: &[&str]) {
        for line in lines {
            assert!(all.iter().any(|it| it == line), "{line}\n{all:#?}");
        }
    }

    /// Nothing is missing on a device that is not there.
    #[test]
    fn devices_that_are_gone_have_no_program() {
        let all = lines(&[], &[], &Flows::default());
        assert_has(
            &all,
            &[
                "byway_rules 7",
                "byway_attachments_waiting 1",
                "byway_programs{program=\"departure\"} 1",
                "byway_programs_missing{program=\"departure\"} 0",
                "byway_programs_missing{program=\"arrival\"} 1",
                "byway_programs_missing{program=\"reception\"} 0",
                "byway_apply_to_confirm_seconds 1",
            ],
        );
        assert!(!all.iter().any(|it| it.contains("\"auto\"") || it.contains("veth1")), "{all:#?}");
    }

    /// `reply-to` leaves what is no reply to normal routing. Nobody is to be woken up for that.
    #[test]
    fn what_is_no_reply_lacks_no_next_hop() {
        let of = |reply_to, target| {
            let mut rule = Rule::new("192.0.2.1".parse().unwrap(), target);
            rule.reply_to = reply_to;
            let mut status = RuleStatus::new(rule);
            status.no_next_hop = count(5);
            let all = lines(&[status], &[], &Flows::default());
            ["no_reply", "no_next_hop"].map(|result| {
                let end = format!("result=\"{result}\"}} 5");
                all.iter().any(|it| it.starts_with("byway_rule_packets_total{") && it.ends_with(&end))
            })
        };
        let group = || Target::Group("up".into());
        assert_eq!([of(true, Target::Pass), of(true, Target::Drop)], [[true, false]; 2]);
        assert_eq!([of(true, group()), of(false, group())], [[false, true]; 2]);
    }

    /// A device that is gone may have the name of another one. Two lines for one series would make the whole text invalid.
    #[test]
    fn no_series_is_there_twice() {
        let next_hops = [next_hop("eth1", NextHopState::DeviceGone), next_hop("eth1", NextHopState::Up)];
        let mut way = FlowsOfWay::new(ReplyWay::new(device("eth1")));
        way.new = 1;
        let mut flows = Flows::default();
        (flows.ways, flows.room) = (vec![way.clone(), way], 8);
        let all = lines(&[rule("192.0.2.1", 1)], &next_hops, &flows);
        let series: std::collections::BTreeSet<&str> =
            all.iter().map(|it| it.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(series.len(), all.len(), "{all:#?}");
        assert_has(
            &all,
            &[
                "byway_nexthop_up{via=\"10.0.0.1\",dev=\"eth1\"} 1",
                "byway_nexthop_packets_total{via=\"10.0.0.1\",dev=\"eth1\",result=\"departed\"} 2",
                "byway_flows{dev=\"eth1\",state=\"new\"} 2",
                "byway_flow_neighbours{dev=\"eth1\"} 2",
            ],
        );
    }

    /// The kernel allows quotes and backslashes in the name of a device.
    #[test]
    fn a_device_may_have_any_name() {
        let all = lines(&[], &[next_hop("a\"\\b", NextHopState::Up)], &Flows::default());
        assert_has(&all, &["byway_nexthop_up{via=\"10.0.0.1\",dev=\"a\\\"\\\\b\"} 1"]);
    }

    /// Each sample stands behind the `HELP` and `TYPE` of its own name, and a counter's name ends in `_total`.
    #[test]
    fn each_sample_has_its_type() {
        let mut flows = Flows::default();
        flows.room = 8;
        let all = lines(&[rule("192.0.2.1", 1)], &[next_hop("eth1", NextHopState::Up)], &flows);
        let mut declared = [""; 2];
        for line in &all {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, ..] => declared[0] = name,
                ["#", "TYPE", name, kind] => {
                    declared[1] = name;
                    assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                }
                _ => {
                    let name = line.split(['{', ' ']).next().unwrap();
                    assert_eq!(declared, [name; 2], "{line}");
                    assert!(line.rsplit_once(' ').unwrap().1.parse::<u64>().is_ok(), "{line}");
                }
            }
        }
        assert!(all.len() > 60, "{all:#?}");
    }
}
