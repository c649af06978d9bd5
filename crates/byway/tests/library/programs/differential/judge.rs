//! Packets, and what the program does with each, beside what the model says.

use std::fmt::Write;

use byway::{NextHop, OnDown, Selector, Target};
use byway_abi::Count;

use super::{
    Comparison,
    counters::is,
    model::{self, Choice, Expected},
    parse::{self, ETHERNET, IPV4, IPV6},
    program::Ran,
    sizes::{Clamp, Fit},
    traffic::Frame,
};

const UNSPEC: u32 = u32::MAX; // TC_ACT_UNSPEC, -1
const SHOT: u32 = 2; // TC_ACT_SHOT
const REDIRECT: u32 = 7; // TC_ACT_REDIRECT

/// What a packet with a next hop is called in the tally of packets, where more is to be said of it than that
/// it departs.
const CLAMPED: &str = "SYN with its MSS clamped";
const ANSWERED: &str = "too big, answered";
const REFUSED: &str = "too big, not to be answered";
/// Where the test is slow there are none.
pub(crate) const TOO_MANY_ANSWERS: &str = "too big, with too many answers before it";

/// What was seen of a packet.
pub(crate) struct Outcome {
    kind: &'static str,
    departed: bool,
    /// The one that it was for, be it too big or not.
    pub(crate) next_hop: Option<NextHop>,
}

/// In a run of so many packets at the most all counters are compared after each, not only those that should have changed.
const SHORT: usize = 20_000;

impl Comparison {
    /// Compares so many packets, and all counters in the end.
    pub(crate) fn send(&mut self, packets: usize) {
        let rules = self.rules();
        let end = self.packets.min(self.compared + packets);
        while self.compared < end {
            let frame = self.traffic.frame(&mut self.random, &self.world, &rules);
            match self.compare(&frame) {
                Ok(true) => self.compared += 1,
                Ok(false) => self.refused += 1,
                Err(difference) => self.fail(&format!("{difference}\n{}", shown(&frame))),
            }
        }
        self.compare_status().unwrap_or_else(|difference| self.fail(&difference));
    }

    /// Whether the kernel lets the program have a look at the frame, and if so, whether it does what it should.
    fn compare(&mut self, frame: &Frame) -> Result<bool, String> {
        // The arrival follows, without which the next hop would be taken for a dead one. Now and then there is no
        // packet before that which departs and comes to nothing.
        let times = if self.random.percent(20) && self.model.departs(frame) { 3 } else { 1 };
        // Drawn in any case: what the clock decides must not change the packets that follow.
        let is_for_many_answers = self.random.percent(2);
        let Some(outcome) = self.step(frame, times)? else { return Ok(false) };
        if outcome.kind == ANSWERED && is_for_many_answers {
            // More than the allowance has, if nothing is slow.
            for _ in 0..100 {
                self.step(frame, 1)?;
            }
        }
        if outcome.departed && times == 1 {
            self.step(frame, 3)?;
        }
        Ok(true)
    }

    /// Lets the frame through the program, once or thrice: then it departs, is redirected a second time because its
    /// Ethernet addresses are still the old ones, and arrives.
    fn step(&mut self, frame: &Frame, times: u32) -> Result<Option<Outcome>, String> {
        let ran = match self.program.run(frame, times) {
            Ok(ran) => ran,
            // From Linux 6.17 or so on the kernel refuses what has not its whole IP header.
            Err(_) if is_too_short(&frame.bytes) => return Ok(None),
            Err(error) => return Err(format!("the kernel refuses it: {error}")),
        };
        let expected = self.model.expect(&frame.bytes);
        let say = |what: &str| format!("{what}\nmodel:   {expected}\nprogram, after {times}: {ran:x?}");
        let outcome = self.judge(frame, times, &expected, &ran).map_err(|what| say(&what))?;
        let counters = if self.packets <= SHORT {
            self.compare_all_counters()
        } else {
            self.compare_counters_of(frame, &expected, &outcome)
        };
        counters.map_err(|what| say(&what))?;
        *self.kinds.entry(outcome.kind).or_default() += 1;
        Ok(Some(outcome))
    }

    /// Compares what is to be seen of one packet, and has the model count it.
    fn judge(
        &mut self,
        frame: &Frame,
        times: u32,
        expected: &Expected,
        ran: &Ran,
    ) -> Result<Outcome, String> {
        let size = size(frame);
        let left_alone = if let Expected::LeftAlone(class) = expected { Some(*class) } else { None };
        self.model.count_seen(frame.ifindex, left_alone, size);
        is("mark and priority", (frame.mark, frame.priority), (ran.mark, ran.priority))?;
        match expected {
            Expected::LeftAlone(_) => {}
            Expected::Pass(selector) => {
                self.model.count_rule(selector, |it| model::add(&mut it.passed, size));
            }
            Expected::Drop(selector) => {
                self.model.count_rule(selector, |it| model::add(&mut it.dropped, size));
            }
            Expected::Down(selector, _, next_hops) => {
                self.model.count_rule(selector, |it| model::add(&mut it.no_next_hop, size));
                let tries = self.count_skipped(next_hops.iter(), size)?;
                let is_group = !matches!(self.model.rule(selector).target, Target::NextHop(_));
                if tries == 0 || !is_group && tries != 1 {
                    return Err(format!("{tries} failed tries were counted"));
                }
            }
            Expected::NextHop(selector, next_hop) => {
                return self.goes_on(frame, times, expected.kind(), selector, next_hop, ran);
            }
            Expected::Member(selector, choice) => {
                let member = self.member(frame, selector, choice, ran)?;
                self.model.chose(choice, &member)?;
                if self.count_skipped(choice.down(), size)? == 0 {
                    self.model.chose_first(choice, &member)?;
                }
                return self.goes_on(frame, times, expected.kind(), selector, &member, ran);
            }
        }
        let verdict = if matches!(expected, Expected::Drop(_) | Expected::Down(_, OnDown::Drop, _)) {
            SHOT
        } else {
            UNSPEC
        };
        is("verdict", verdict as i32, ran.verdict as i32)?;
        is("the changed frame", &None, &ran.changed)?;
        if verdict == UNSPEC && times == 1 {
            is("cb of a packet left alone", frame.cb, ran.cb)?;
        }
        Ok(Outcome { kind: expected.kind(), departed: false, next_hop: None })
    }

    /// The member that the program has chosen. A packet that departs carries its slot along; one that is too
    /// big leaves nothing behind but a count.
    fn member(
        &self,
        frame: &Frame,
        selector: &Selector,
        choice: &Choice,
        ran: &Ran,
    ) -> Result<NextHop, String> {
        if self.model.fits(frame, selector, choice.live()) {
            let slot = ran.slot();
            return self.program.in_slot(slot).cloned().ok_or_else(|| format!("nothing is in slot {slot}"));
        }
        let mut counted = Vec::new();
        for member in choice.live() {
            let (now, before) = (self.program.next_hop(member)?, self.model.next_hop_counters(member));
            if now != *before {
                counted.push(member);
            }
        }
        match counted[..] {
            [member] => Ok(member.clone()),
            _ => Err(format!("{counted:?} have counted the packet")),
        }
    }

    /// A packet that has a next hop: whether it departs.
    fn goes_on(
        &mut self,
        frame: &Frame,
        times: u32,
        kind: &'static str,
        selector: &Selector,
        next_hop: &NextHop,
        ran: &Ran,
    ) -> Result<Outcome, String> {
        let fit = self.model.fit(frame, selector, next_hop);
        let say = |what: String| format!("{what}\nto {next_hop}: {fit:?}");
        let (kind, departed) = match &fit {
            Fit::Departs(clamp) => {
                self.departs(frame, times, clamp.as_ref(), selector, next_hop, ran).map_err(say)?;
                (if ran.changed.is_some() { CLAMPED } else { kind }, true)
            }
            Fit::TooBig { may_be_answered } => {
                let kind = self.stays(frame, *may_be_answered, selector, next_hop, ran).map_err(say)?;
                (kind, false)
            }
        };
        Ok(Outcome { kind, departed, next_hop: Some(next_hop.clone()) })
    }

    fn departs(
        &mut self,
        frame: &Frame,
        times: u32,
        clamp: Option<&Clamp>,
        selector: &Selector,
        next_hop: &NextHop,
        ran: &Ran,
    ) -> Result<(), String> {
        let has_arrived = times == 3;
        is("verdict", if has_arrived { UNSPEC } else { REDIRECT } as i32, ran.verdict as i32)?;
        let (rule, slot) = (self.program.id(selector)?, self.program.slot(next_hop)?);
        let marked = (ran.rule(), ran.slot(), ran.is_redirected_again());
        is("rule, slot and a second redirect in cb", (rule, slot, has_arrived), marked)?;
        let clamp = clamp.filter(|clamp| clamp.is_certain || ran.changed.is_some());
        match (clamp, &ran.changed) {
            (Some(clamp), changed) => clamp.check(&frame.bytes, changed.as_ref().unwrap_or(&frame.bytes))?,
            (None, changed) => is("the changed frame", &None, changed)?,
        }
        let size = size(frame);
        self.model.count_rule(selector, |it| {
            model::add(&mut it.departed, size);
            if has_arrived {
                model::add(&mut it.arrived, size);
            }
            if clamp.is_some() {
                model::add(&mut it.clamped, size);
            }
        });
        self.model.count_next_hop(next_hop, |it| {
            model::add(&mut it.departed, size);
            if has_arrived {
                model::add(&mut it.arrived, size);
            }
            if clamp.is_some() {
                model::add(&mut it.clamped, size);
            }
        });
        Ok(())
    }

    /// A packet that is too big for its next hop, and what kind that makes it.
    fn stays(
        &mut self,
        frame: &Frame,
        may_be_answered: bool,
        selector: &Selector,
        next_hop: &NextHop,
        ran: &Ran,
    ) -> Result<&'static str, String> {
        is("cb of a packet that is too big", frame.cb, ran.cb)?;
        let answered = ran.verdict == REDIRECT;
        if answered && !may_be_answered {
            return Err("answered".to_owned());
        }
        if answered {
            is("whether the frame is another", true, ran.changed.is_some())?;
        } else {
            is("verdict", SHOT as i32, ran.verdict as i32)?;
            is("the changed frame", &None, &ran.changed)?;
        }
        if may_be_answered {
            let (before, after) = ran.between;
            self.model.allowance(next_hop).judge(answered, before, after)?;
        }
        let size = size(frame);
        self.model.count_rule(selector, |it| {
            model::add(if answered { &mut it.icmp_sent } else { &mut it.too_big_dropped }, size)
        });
        self.model.count_next_hop(next_hop, |it| {
            model::add(if answered { &mut it.icmp_sent } else { &mut it.too_big_dropped }, size)
        });
        Ok(match (answered, may_be_answered) {
            (true, _) => ANSWERED,
            (false, true) => TOO_MANY_ANSWERS,
            (false, false) => REFUSED,
        })
    }

    /// Takes in what next hops that are down have counted as skipped. Which of a group's it was, and after how many
    /// tries, the contract leaves open; but it was whole packets.
    fn count_skipped<'a>(
        &mut self,
        down: impl Iterator<Item = &'a NextHop>,
        size: Count,
    ) -> Result<u64, String> {
        let mut tries = 0;
        for next_hop in down {
            let (now, before) = (
                self.program.next_hop(next_hop)?.failed_over,
                self.model.next_hop_counters(next_hop).failed_over,
            );
            let grown = (now.packets - before.packets) / size.packets;
            let mut expected = before;
            (0..grown).for_each(|_| model::add(&mut expected, size));
            is(&format!("skipped by {next_hop}"), expected, now)?;
            self.model.count_next_hop(next_hop, |it| it.failed_over = now);
            tries += grown;
        }
        Ok(tries)
    }
}

fn size(frame: &Frame) -> Count {
    Count { packets: frame.segments.max(1).into(), bytes: frame.bytes.len() as u64 }
}

fn is_too_short(frame: &[u8]) -> bool {
    let header = match parse::ether_type(frame) {
        Some(IPV4) => 20,
        Some(IPV6) => 40,
        _ => 1,
    };
    frame.len() < ETHERNET + header
}

fn shown(frame: &Frame) -> String {
    let hex: String = frame.bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let Frame { bytes, ifindex, segments, mark, priority, cb } = frame;
    format!(
        "parsed: {:?}\nframe of {} bytes, ifindex {ifindex}, {segments} segments, mark {mark:#x}, priority {priority:#x}, cb {cb:x?}:\n{hex}",
        parse::parse(bytes),
        bytes.len()
    )
}
