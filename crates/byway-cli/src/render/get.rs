//! What becomes of a packet, in a few lines.

use std::time::Duration;

use byway::{
    Action, Decision, FlowState, LeftAlone, Missing, NextHopState, ReplyFlow, Route, Target, Way, WayState,
};

use super::{count, names};

/// So many of the rules that are beaten are shown.
const BEATEN: usize = 5;

/// What becomes of the packet, and then a line for each reason.
pub(crate) fn decision(decision: &Decision) -> String {
    let mut lines = vec![format!("{}: {}", decision.flow, outcome(decision))];
    let mut line = |label: &str, text: String| lines.push(format!("  {label:9}  {text}"));
    if let Some(rule) = &decision.rule {
        line("rule", rule.to_string());
    }
    for (nth, rule) in decision.beaten.iter().enumerate().take(BEATEN) {
        line(beaten(decision, nth), rule.to_string());
    }
    if decision.beaten.len() > BEATEN {
        line("", format!("and {} more", decision.beaten.len() - BEATEN));
    }
    if let Some(reply) = &decision.reply {
        line("flow", flow(reply));
    }
    for way in &decision.ways {
        line("next hop", next_hop(way, decision));
    }
    if let Some(leaves_by) = leaves_by(decision) {
        line("leaves by", leaves_by);
    }
    for warning in &decision.warnings {
        line("warning", warning.clone());
    }
    lines.join("\n")
}

/// The label of the rules besides the one that decides.
fn beaten(decision: &Decision, nth: usize) -> &'static str {
    match (nth, decision.action) {
        (0, Action::Depends) => "rules",
        (0, _) => "beats",
        _ => "",
    }
}

fn outcome(decision: &Decision) -> String {
    let Decision { flow, action, seen_by, .. } = decision;
    let to = flow.destination.map(|to| to.to_string()).unwrap_or_default();
    match &decision.route {
        Route::Local => format!("stays on this host: {to} is one of its addresses"),
        Route::NoRoute => format!("goes nowhere: there is no route to {to}"),
        Route::NotForwarded => {
            let iif = flow.incoming.as_deref().unwrap_or_default();
            format!(
                "goes nowhere: the kernel does not forward it from {iif} (see `ip_forward` and `rp_filter`)"
            )
        }
        Route::Leaves { .. } if seen_by.is_empty() && *action != Action::Pass => {
            "left to normal routing: byway does not see it".to_owned()
        }
        _ => verdict(decision),
    }
}

/// What byway does with the packet where it sees it.
fn verdict(decision: &Decision) -> String {
    let target = decision.rule.as_ref().map(|rule| &rule.target);
    let is_reply_to = decision.rule.as_ref().is_some_and(|rule| rule.reply_to);
    match decision.action {
        Action::Redirect => redirected(decision),
        Action::Depends => "the destination decides: the first of these rules that matches it".to_owned(),
        Action::Drop if target == Some(&Target::Drop) && is_reply_to => {
            format!("dropped: {}", why_no_reply(decision))
        }
        Action::Drop if target == Some(&Target::Drop) => "dropped, as the rule says".to_owned(),
        Action::Drop => "dropped: no next hop of the rule is in service".to_owned(),
        Action::ReplyTo if let Some(way) = decision.reply.as_ref().and_then(|it| it.way.as_ref()) => {
            format!("sent back {way}")
        }
        Action::ReplyTo => {
            let others = match target {
                Some(Target::Drop) => "dropped".to_owned(),
                None | Some(Target::Pass) => "left to normal routing".to_owned(),
                Some(Target::Group(name)) => format!("redirected by the group {name}"),
                Some(next_hops) => format!("redirected {next_hops}"),
            };
            format!("sent back the way that its flow came in, if it is a reply; otherwise {others}")
        }
        _ if decision.left_alone.is_none() && target == Some(&Target::Pass) && is_reply_to => {
            format!("left to normal routing: {}", why_no_reply(decision))
        }
        _ => format!("left to normal routing{}", why_passed(decision, target)),
    }
}

fn redirected(decision: &Decision) -> String {
    let taken: Vec<&Way> = decision.ways.iter().filter(|way| way.is_taken).collect();
    match taken[..] {
        [way] => format!("redirected {}", way.next_hop),
        _ => {
            let by = match &decision.depends_on[..] {
                [] => "its flow".to_owned(),
                missing => Missing::listed(missing),
            };
            format!("redirected to one of {}, by {by}", count(taken.len() as u64, "next hop"))
        }
    }
}

fn why_no_reply(decision: &Decision) -> String {
    let devices = decision.rule.iter().flat_map(|rule| &rule.reply_to_dev);
    let devices: Vec<&str> = devices.map(String::as_str).collect();
    match &decision.reply {
        Some(ReplyFlow { way: Some(way), way_state, .. }) => match way_state {
            WayState::DeviceDown => format!("its way back {way} is down"),
            WayState::NoCarrier => format!("its way back {way} has no carrier"),
            _ => format!("its way back {way} does not answer"),
        },
        Some(_) => "this host began the flow".to_owned(),
        None if devices.is_empty() => "no request of the flow is known".to_owned(),
        None => format!("no request of the flow is known that came in by {}", devices.join(" or ")),
    }
}

fn why_passed(decision: &Decision, target: Option<&Target>) -> &'static str {
    match (decision.left_alone, target) {
        (Some(LeftAlone::Multicast), _) => ": byway never redirects packets to multicast addresses",
        (Some(LeftAlone::Broadcast), _) => ": byway never redirects packets to broadcast addresses",
        (Some(LeftAlone::LinkLocal), _) => ": byway never redirects packets from or to link-local addresses",
        (Some(_), _) => ": byway never redirects such packets",
        (None, None) if decision.ways.is_empty() => ": no rule matches",
        (None, Some(Target::Pass)) => ", as the rule says",
        (None, Some(Target::Other { .. })) => ": only a newer byway knows what the rule means",
        _ => ": no next hop of the rule is in service",
    }
}

fn flow(reply: &ReplyFlow) -> String {
    let mut text = reply.state.to_string();
    if reply.state == FlowState::New {
        text += ", so only the answers to its first packet are sent back";
    }
    if reply.age > 0 {
        text += &format!(", noted {} ago", humantime::format_duration(Duration::from_secs(reply.age)));
    }
    text
}

fn next_hop(way: &Way, decision: &Decision) -> String {
    let mut text = way.next_hop.to_string();
    if let Some(weight) = way.weight.filter(|weight| *weight != 1) {
        text += &format!(" weight {weight}");
    }
    if way.is_backup {
        text += " backup";
    }
    text += &format!(": {}", state(way));
    if let Some(mtu) = way.mtu {
        text += &format!(", MTU {mtu}");
    }
    if decision.ways.len() < 2 {
        return text;
    }
    let is_sure = decision.depends_on.is_empty();
    text += match way {
        Way { is_taken: true, .. } if is_sure => ", gets this flow",
        Way { is_taken: true, .. } => ", may get this flow",
        Way { is_own: true, .. } => ", gets this flow back once it is in service",
        _ => "",
    };
    text
}

fn state(way: &Way) -> &'static str {
    match way.state {
        NextHopState::Down => "out of service by hand",
        NextHopState::DeviceGone => "its device is gone",
        NextHopState::Waiting => "waits for its device",
        _ if way.device_down => "its device is down",
        _ if way.no_carrier => "its device has no carrier",
        NextHopState::Unhealthy => "fails its health check",
        NextHopState::Silent => "does not answer",
        NextHopState::Up if way.is_doubtful => "has not answered yet",
        NextHopState::Up => "in service",
        // A state that only a later library knows.
        _ => "?",
    }
}

fn leaves_by(decision: &Decision) -> Option<String> {
    let Decision { flow, seen_by, attachments, .. } = decision;
    match &decision.route {
        Route::Leaves { device, gateway } => {
            let by = match gateway {
                Some(gateway) => format!("{} via {gateway}", device.name),
                None => device.name.clone(),
            };
            Some(match (&seen_by[..], &attachments[..]) {
                // Wherever byway is attached, it does nothing with such a packet.
                ([], _) if decision.left_alone.is_some() => by,
                ([], []) => {
                    format!("{by}; byway is attached to nothing, and `byway attach` attaches it")
                }
                ([], _) => format!(
                    "{by}, where byway is not attached (`byway attach dev {}` attaches it): it is attached to {}",
                    device.name,
                    names(attachments)
                ),
                ([one], _) if one == device => format!("{by}, where byway is attached"),
                _ => format!("{by}, and from there by {}, where byway is attached", names(seen_by)),
            })
        }
        Route::SourceNotLocal => Some(format!(
            "unknown: {} is no address of this host; if the packet is forwarded, say `iif IF`; byway is attached to {}",
            flow.source,
            names(attachments)
        )),
        Route::Unknown => Some(format!("unknown without `to`; byway is attached to {}", names(attachments))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use byway::{Device, NextHop, ReplyWay, Rule};

    use super::*;

    const FLOW: &str = "192.168.1.5 to 198.51.100.9";

    fn device(name: &str, index: u32) -> Device {
        Device { name: name.into(), index }
    }

    fn way(gateway: &str, state: NextHopState) -> Way {
        let mut way = Way::new(NextHop::new(Some(gateway.parse().unwrap()), device("eth1", 3)), state);
        (way.mtu, way.is_own, way.is_taken) = (Some(1_500), true, state == NextHopState::Up);
        way
    }

    fn rule(selector: &str, target: Target) -> Rule {
        Rule::new(selector.parse().unwrap(), target)
    }

    /// Leaves by `eth0`, where byway is attached, and has a rule that leads to a next hop.
    fn redirected(flow: &str) -> Decision {
        let way = way("10.111.221.21", NextHopState::Up);
        let mut decision = Decision::new(flow.parse().unwrap());
        decision.action = Action::Redirect;
        decision.rule = Some(rule("192.168.1.5", Target::NextHop(way.next_hop.clone())));
        decision.ways = vec![way];
        let gateway = Some("10.111.220.1".parse().unwrap());
        decision.route = Route::Leaves { device: device("eth0", 2), gateway };
        decision.attachments = vec![device("eth0", 2)];
        decision.seen_by.clone_from(&decision.attachments);
        decision
    }

    fn headline(decision: &Decision) -> String {
        let text = super::decision(decision);
        text.lines().next().and_then(|line| line.split_once(": ")).unwrap().1.to_owned()
    }

    #[test]
    fn a_redirect_says_which_rule_and_why_byway_sees_it() {
        let mut decision = redirected(FLOW);
        decision.beaten = vec![rule("192.168.0.0/16", Target::Pass)];
        decision.warnings = vec!["eth1 is made of string".into()];
        assert_eq!(
            super::decision(&decision),
            "192.168.1.5 to 198.51.100.9: redirected via 10.111.221.21 dev eth1\n  \
             rule       from 192.168.1.5 via 10.111.221.21 dev eth1\n  \
             beats      from 192.168.0.0/16 pass\n  \
             next hop   via 10.111.221.21 dev eth1: in service, MTU 1500\n  \
             leaves by  eth0 via 10.111.220.1, where byway is attached\n  \
             warning    eth1 is made of string"
        );
        decision.beaten =
            (0..8).map(|nth| rule(&format!("192.168.0.0/{}", 23 - nth), Target::Pass)).collect();
        let text = super::decision(&decision);
        assert!(text.contains("192.168.0.0/19 pass\n             and 3 more\n"), "{text}");
    }

    #[test]
    fn what_byway_does_not_see_is_not_redirected() {
        let mut decision = redirected(FLOW);
        decision.seen_by.clear();
        assert_eq!(headline(&decision), "left to normal routing: byway does not see it");
        let text = super::decision(&decision);
        let where_else = "eth0 via 10.111.220.1, where byway is not attached (`byway attach dev eth0` attaches it): it is attached to eth0";
        assert!(text.ends_with(where_else), "{text}");
        decision.attachments.clear();
        assert!(super::decision(&decision).contains("byway is attached to nothing"));
        for (route, said) in [
            (Route::Local, "stays on this host: 198.51.100.9 is one of its addresses"),
            (Route::NoRoute, "goes nowhere: there is no route to 198.51.100.9"),
            (Route::SourceNotLocal, "redirected via 10.111.221.21 dev eth1"),
        ] {
            decision.route = route;
            assert_eq!(headline(&decision), said);
        }
        assert!(super::decision(&decision).contains("192.168.1.5 is no address of this host"));
    }

    #[test]
    fn each_reason_not_to_redirect_has_its_words() {
        let left = |change: &dyn Fn(&mut Decision)| {
            let mut decision = redirected(FLOW);
            decision.action = Action::Pass;
            change(&mut decision);
            headline(&decision)
        };
        let nothing = |decision: &mut Decision| {
            decision.rule = None;
            decision.ways.clear();
        };
        assert_eq!(left(&nothing), "left to normal routing: no rule matches");
        assert_eq!(left(&|_| ()), "left to normal routing: no next hop of the rule is in service");
        let says =
            |target: Target| move |it: &mut Decision| it.rule = Some(rule("192.168.1.5", target.clone()));
        assert_eq!(left(&says(Target::Pass)), "left to normal routing, as the rule says");
        assert_eq!(
            left(&says(Target::Other { kind: 11, index: 0 })),
            "left to normal routing: only a newer byway knows what the rule means"
        );
        let mut decision = redirected(FLOW);
        decision.action = Action::Drop;
        assert_eq!(headline(&decision), "dropped: no next hop of the rule is in service");
        decision.rule = Some(rule("192.168.1.5", Target::Drop));
        assert_eq!(headline(&decision), "dropped, as the rule says");
        for (class, said) in [
            (LeftAlone::Multicast, "packets to multicast addresses"),
            (LeftAlone::Broadcast, "packets to broadcast addresses"),
            (LeftAlone::LinkLocal, "packets from or to link-local addresses"),
        ] {
            let text = left(&|decision| {
                nothing(decision);
                decision.left_alone = Some(class);
                decision.seen_by.clear();
                assert!(!super::decision(decision).contains("byway attach"));
            });
            assert_eq!(text, format!("left to normal routing: byway never redirects {said}"));
        }
    }

    #[test]
    fn a_reply_is_sent_back_if_its_flow_is_known() {
        let mut decision = redirected("192.168.1.5 to 198.51.100.9 proto tcp sport 443 dport 50000");
        decision.ways.clear();
        let reply_to = |target| {
            let mut rule = rule("0.0.0.0/0", target);
            rule.reply_to = true;
            Some(rule)
        };
        decision.rule = reply_to(Target::Group("up".into()));
        decision.action = Action::ReplyTo;
        assert_eq!(
            headline(&decision),
            "sent back the way that its flow came in, if it is a reply; otherwise redirected by the group up"
        );
        decision.rule = reply_to(Target::Pass);
        decision.action = Action::ReplyTo;
        assert_eq!(
            headline(&decision),
            "sent back the way that its flow came in, if it is a reply; otherwise left to normal routing"
        );
        let reply = |state, way: Option<&str>, age| -> ReplyFlow {
            ReplyFlow::new(state, way.map(|name| ReplyWay::new(device(name, 3))), age)
        };
        decision.reply = Some(reply(FlowState::New, Some("eth1"), 0));
        assert_eq!(
            super::decision(&decision),
            "192.168.1.5 to 198.51.100.9 proto tcp sport 443 dport 50000: sent back dev eth1\n  \
             rule       from 0.0.0.0/0 reply-to\n  \
             flow       new, so only the answers to its first packet are sent back\n  \
             leaves by  eth0 via 10.111.220.1, where byway is attached"
        );
        decision.action = Action::Pass;
        decision.reply = Some(reply(FlowState::OfHost, None, 61));
        assert_eq!(headline(&decision), "left to normal routing: this host began the flow");
        assert!(super::decision(&decision).contains("flow       of the host, noted 1m 1s ago\n"));
        decision.reply = None;
        assert_eq!(headline(&decision), "left to normal routing: no request of the flow is known");
        decision.action = Action::Drop;
        decision.rule = reply_to(Target::Drop);
        assert_eq!(headline(&decision), "dropped: no request of the flow is known");
    }

    #[test]
    fn what_is_not_known_is_asked_for() {
        let mut decision = redirected(FLOW);
        let target = Target::Group("up".into());
        decision.rule = Some(rule("192.168.1.5", target));
        let mut other = way("10.111.221.22", NextHopState::Up);
        other.is_own = false;
        decision.ways.push(other);
        decision.depends_on = vec![Missing::Proto, Missing::Sport, Missing::Dport];
        let said = "redirected to one of 2 next hops, by `proto`, `sport` and `dport`";
        assert_eq!(headline(&decision), said);
        let text = super::decision(&decision);
        assert!(
            text.contains("via 10.111.221.22 dev eth1: in service, MTU 1500, may get this flow"),
            "{text}"
        );
        // The flow's own next hop is dead.
        decision.depends_on.clear();
        decision.ways[0] = way("10.111.221.21", NextHopState::Silent);
        decision.ways[0].weight = Some(3);
        let text = super::decision(&decision);
        let dead = "via 10.111.221.21 dev eth1 weight 3: does not answer, MTU 1500, gets this flow back once it is in service";
        assert!(text.contains(dead), "{text}");
        assert!(text.contains("via 10.111.221.22 dev eth1: in service, MTU 1500, gets this flow"), "{text}");
        let mut decision = Decision::new("192.168.1.5".parse().unwrap());
        decision.action = Action::Depends;
        decision.beaten = vec![
            rule("from 192.168.1.5 to 10.0.0.0/8", Target::Pass),
            rule("from 192.168.1.5", Target::Drop),
        ];
        assert_eq!(
            super::decision(&decision),
            "192.168.1.5: the destination decides: the first of these rules that matches it\n  \
             rules      from 192.168.1.5 to 10.0.0.0/8 pass\n             \
             from 192.168.1.5 drop\n  \
             leaves by  unknown without `to`; byway is attached to nothing"
        );
    }
}
