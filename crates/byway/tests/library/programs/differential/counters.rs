//! What Byway has counted, beside what the model has.

use std::{collections::BTreeMap, fmt};

use byway::{Count, NextHop, NextHopState, Selector};
use byway_abi::class;

use super::{
    Comparison,
    judge::Outcome,
    model::{Expected, add},
    traffic::Frame,
};

impl Comparison {
    fn compare_rule(&self, selector: &Selector) -> Result<(), String> {
        is(&selector.to_string(), self.model.rule_counters(selector), &self.program.rule(selector)?)
    }

    fn compare_next_hop(&self, next_hop: &NextHop) -> Result<(), String> {
        let (expected, counted) = (self.model.next_hop_counters(next_hop), self.program.next_hop(next_hop)?);
        is(&next_hop.to_string(), expected, &counted)
    }

    fn compare_attachment(&self, ifindex: u32) -> Result<(), String> {
        let (expected, counted) = (self.model.attachment_counters(ifindex), self.program.attachment(ifindex));
        is(&format!("attachment {ifindex}"), expected, &counted)
    }

    /// The counters that the packet should have changed, and those that a slip is likely to change.
    pub(crate) fn compare_counters_of(
        &self,
        frame: &Frame,
        expected: &Expected,
        outcome: &Outcome,
    ) -> Result<(), String> {
        self.compare_attachment(frame.ifindex)?;
        let selector = match expected {
            Expected::LeftAlone(_) => return Ok(()),
            Expected::Pass(selector) | Expected::Drop(selector) => selector,
            Expected::Down(selector, ..) => selector,
            Expected::NextHop(selector, _) | Expected::Member(selector, _) => selector,
        };
        outcome.next_hop.as_ref().map_or(Ok(()), |next_hop| self.compare_next_hop(next_hop))?;
        self.compare_rule(selector)
    }

    pub(crate) fn compare_all_counters(&self) -> Result<(), String> {
        self.model.rules().try_for_each(|rule| self.compare_rule(&rule.selector()))?;
        self.model.next_hops().try_for_each(|(next_hop, _)| self.compare_next_hop(next_hop))?;
        self.attachments.iter().try_for_each(|ifindex| self.compare_attachment(*ifindex))
    }

    /// What the library says of it all.
    pub(crate) fn compare_status(&mut self) -> Result<(), String> {
        self.compare_all_counters()?;
        let status = self.byway.status().map_err(|error| error.to_string())?;
        is("rules", self.rules(), status.rules.iter().map(|it| it.rule.clone()).collect())?;
        is(
            "groups",
            self.model.groups().cloned().collect(),
            status.groups.iter().map(|it| it.group.clone()).collect::<Vec<_>>(),
        )?;
        for it in &status.rules {
            let counted = self.model.rule_counters(&it.rule.selector());
            let expected =
                [counted.departed, counted.arrived, counted.passed, counted.dropped, counted.no_next_hop];
            let shown = [it.departed, it.arrived, it.passed, it.dropped, it.no_next_hop];
            is(&it.rule.to_string(), expected.map(Count::from), shown)?;
            let expected = [counted.clamped, counted.icmp_sent, counted.too_big_dropped];
            let shown = [it.clamped, it.icmp_sent, it.too_big_dropped];
            is(&it.rule.to_string(), expected.map(Count::from), shown)?;
        }
        let states: BTreeMap<_, _> = self.model.next_hops().collect();
        is("next hops", states.len(), status.next_hops.len())?;
        for it in &status.next_hops {
            let counted = self.model.next_hop_counters(&it.next_hop);
            let state = if states[&it.next_hop] { NextHopState::Down } else { NextHopState::Up };
            let expected = [counted.departed, counted.arrived, counted.failed_over].map(Count::from);
            let shown = [it.departed, it.arrived, it.failed_over];
            is(&it.next_hop.to_string(), (state, expected), (it.state, shown))?;
            let expected = [counted.clamped, counted.icmp_sent, counted.too_big_dropped].map(Count::from);
            is(&it.next_hop.to_string(), expected, [it.clamped, it.icmp_sent, it.too_big_dropped])?;
            is("its MTU", Some(self.model.mtu(&it.next_hop)), it.mtu.map(|mtu| mtu as usize))?;
        }
        for ifindex in &self.attachments {
            let attachment = status.attachments.iter().find(|it| it.device.index == *ifindex);
            let seen = attachment.and_then(|it| it.counters).ok_or("an attachment is gone")?;
            let counted = self.model.attachment_counters(*ifindex);
            let shown = [
                (class::NOT_IP, seen.not_ip),
                (class::MALFORMED, seen.malformed),
                (class::TAGGED, seen.tagged),
                (class::MULTICAST, seen.multicast),
                (class::BROADCAST, seen.broadcast),
                (class::LINK_LOCAL, seen.link_local),
                (class::NEIGHBOUR_DISCOVERY, seen.neighbour_discovery),
                (class::NOT_MATCHED, seen.not_matched),
            ];
            let mut all = byway_abi::Count::default();
            counted.of.iter().for_each(|count| add(&mut all, *count));
            is("seen", all.into(), seen.seen)?;
            for (class, count) in shown {
                is(&format!("class {class}"), counted.of[class].into(), count)?;
            }
        }
        Ok(())
    }
}

/// Nothing where both are the same, else what a reader has to know.
pub(crate) fn is<T: PartialEq + fmt::Debug>(what: &str, expected: T, found: T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("{what} should be {expected:?} and is {found:?}")) }
}
