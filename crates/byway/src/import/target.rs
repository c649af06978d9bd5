//! What Byway says in place of a route, and what it cannot say.

use std::collections::BTreeSet;

use super::{
    policy::{Hop, MAIN, Policy, Refusal, RouteKind, STAYS, TableRoute},
    remark::DIFFERS,
    tables::Tables,
    walk::Verdict,
};
use crate::model::{GROUP_MAX, MemberSpec, NextHopSpec, Prefix, TargetSpec, WEIGHT_MAX};

/// What becomes of the packets, in Byway's words, with the remarks on it.
pub(crate) fn target(verdict: Verdict<'_>) -> (TargetSpec, Vec<String>) {
    match verdict {
        Verdict::Nothing => (
            TargetSpec::Drop,
            vec![format!(
                "{DIFFERS}Linux has no route and says so to who sends, and Byway drops without a word."
            )],
        ),
        // Only packets that fulfil conditions come to it, and no rule is for those.
        Verdict::Vrf => (TargetSpec::Pass, Vec::new()),
        Verdict::Refused(refusal) => (TargetSpec::Drop, refused(refusal)),
        // Main's routes hold as before.
        Verdict::Route(route) if route.table == MAIN => (TargetSpec::Pass, Vec::new()),
        Verdict::Route(route) => match &route.kind {
            RouteKind::Refuse(refusal) => (TargetSpec::Drop, refused(*refusal)),
            RouteKind::Unicast(hops) => match members(hops) {
                Ok((members, remarks)) => (spec(members), remarks),
                Err(why) => unsaid(route, &why),
            },
            RouteKind::Foreign(why) => unsaid(route, why),
            // A lookup does not come to one.
            RouteKind::Throw => (TargetSpec::Pass, Vec::new()),
        },
    }
}

fn unsaid(route: &TableRoute, why: &str) -> (TargetSpec, Vec<String>) {
    let remark = format!(
        "{DIFFERS}the route `{}` {why}, and no next hop of Byway's can say that. Keep the entry of `ip rule`.",
        route.text()
    );
    (TargetSpec::Pass, vec![remark])
}

fn refused(refusal: Refusal) -> Vec<String> {
    match refusal {
        Refusal::Blackhole => Vec::new(),
        Refusal::Unreachable | Refusal::Prohibit => vec![format!(
            "{DIFFERS}Linux answers with an ICMP error (`{}`), and Byway drops without a word.",
            refusal.word()
        )],
    }
}

/// The next hops that are alive, each once.
fn members(hops: &[Hop]) -> Result<(Vec<MemberSpec>, Vec<String>), String> {
    let (mut members, mut remarks) = (Vec::<MemberSpec>::new(), Vec::new());
    for hop in hops {
        if hop.dead {
            remarks.push(format!(
                "The next hop `{}` is out of service now, and left out. Add it once it is back.",
                hop.text()
            ));
            continue;
        }
        let Some(device) = hop.device.clone() else {
            return Err("leads to a device that is gone".to_owned());
        };
        if device == "lo" {
            return Err("leads to the loopback device".to_owned());
        }
        let next_hop = match hop.gateway {
            Some(gateway) => NextHopSpec::ViaDev(gateway, device),
            None => NextHopSpec::Dev(device),
        };
        match members.iter_mut().find(|member| member.next_hop == next_hop) {
            Some(member) => member.weight = member.weight.saturating_add(hop.weight).min(WEIGHT_MAX),
            None => members.push(MemberSpec::new(next_hop).weight(hop.weight)),
        }
    }
    if members.len() > GROUP_MAX {
        return Err(format!("has {} next hops, and a group takes {GROUP_MAX}", members.len()));
    }
    Ok((members, remarks))
}

fn spec(mut members: Vec<MemberSpec>) -> TargetSpec {
    match members.len() {
        1 => TargetSpec::NextHop(members.remove(0).next_hop),
        _ => TargetSpec::NextHops(members),
    }
}

/// The next hops of a target.
pub(crate) fn next_hops(target: &TargetSpec) -> Vec<&NextHopSpec> {
    match target {
        TargetSpec::NextHop(next_hop) => vec![next_hop],
        TargetSpec::NextHops(members) => members.iter().map(|member| &member.next_hop).collect(),
        TargetSpec::Group(_) | TargetSpec::Pass | TargetSpec::Drop => Vec::new(),
    }
}

/// Says what has to be done before these next hops can be applied: Byway needs gateways that are on-link.
pub(crate) fn off_link(target: &TargetSpec, policy: &Policy) -> Vec<String> {
    let remark = |next_hop: &&NextHopSpec| {
        let (gateway, device) = (next_hop.gateway()?, next_hop.device()?);
        let is_link_local = matches!(gateway, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        let is_connected = |route: &TableRoute| match &route.kind {
            RouteKind::Unicast(hops) => match &hops[..] {
                [hop] => hop.gateway.is_none() && hop.device.as_deref() == Some(device),
                _ => false,
            },
            _ => false,
        };
        let is_on_link = is_link_local
            || policy.routes.iter().any(|route| is_connected(route) && route.destination.contains(gateway));
        (!is_on_link).then(|| {
            format!(
                "No connected route of {device} covers the gateway {gateway} (`onlink`), and Byway wants \
                 one: `ip route add {gateway} dev {device} scope link`."
            )
        })
    };
    next_hops(target).iter().filter_map(remark).collect()
}

/// What the main table decides: which packets Byway is going to see.
#[derive(Debug)]
pub(crate) struct Main<'a> {
    tables: &'a Tables<'a>,
    /// The devices that carry a default route.
    pub(crate) attachments: BTreeSet<String>,
}

impl<'a> Main<'a> {
    pub(crate) fn of(policy: &Policy, tables: &'a Tables<'a>) -> Self {
        let defaults = policy.routes.iter().filter(|it| it.table == MAIN && it.destination.is_all());
        let attachments = defaults.flat_map(devices).map(str::to_owned).collect();
        Self { tables, attachments }
    }

    /// The main table's route.
    pub(crate) fn route(&self, to: &Prefix) -> Option<&'a TableRoute> {
        self.tables.route(MAIN, to, &[])
    }

    /// The route that leads packets out elsewhere than by an attachment, so that Byway does not see them.
    pub(crate) fn past_attachments(&self, to: &Prefix) -> Option<&'a TableRoute> {
        self.past_attachments_without(to, &[])
    }

    fn past_attachments_without(&self, to: &Prefix, gone: &[&str]) -> Option<&'a TableRoute> {
        self.tables.route(MAIN, to, gone).filter(|route| {
            !route.destination.is_all()
                && !devices(route).any(|device| self.attachments.iter().any(|name| name == device))
        })
    }

    /// The devices that lead packets past the attachments: until all of them are gone, Byway sees none of these packets.
    pub(crate) fn devices_past_attachments(&self, to: &Prefix) -> Vec<&'a str> {
        let mut gone = Vec::new();
        while let Some(route) = self.past_attachments_without(to, &gone) {
            let before = gone.len();
            gone.extend(devices(route).filter(|device| !gone.contains(device)).collect::<Vec<_>>());
            // A route that refuses stays.
            if gone.len() == before {
                break;
            }
        }
        gone
    }
}

/// Which of these devices a route leads out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    Past,
    Through,
    /// By several next hops, some of them there.
    Partly,
}

impl Main<'_> {
    /// Whether packets that take this route leave by an attachment.
    pub(crate) fn leads(&self, verdict: Verdict<'_>, gone: &[&str]) -> Leads {
        let Verdict::Route(route) = verdict else { return Leads::Past };
        match &route.kind {
            RouteKind::Unicast(hops) => {
                let mut devices = hops
                    .iter()
                    .filter(|hop| hop.is_there_without(gone))
                    .map(|hop| hop.device.as_ref().is_some_and(|device| self.attachments.contains(device)));
                match (devices.clone().any(|is_attached| is_attached), devices.all(|is_attached| is_attached))
                {
                    (false, _) => Leads::Past,
                    (true, true) => Leads::Through,
                    (true, false) => Leads::Partly,
                }
            }
            // Where it leads is not known.
            RouteKind::Foreign(why) if *why != STAYS => Leads::Partly,
            _ => Leads::Past,
        }
    }
}

/// The devices that a route leads out of.
pub(crate) fn devices(route: &TableRoute) -> impl Iterator<Item = &str> {
    let hops = match &route.kind {
        RouteKind::Unicast(hops) => &hops[..],
        _ => &[],
    };
    hops.iter().filter_map(|hop| hop.device.as_deref())
}
