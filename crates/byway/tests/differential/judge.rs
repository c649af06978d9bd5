//! Packets, and what the program does with each, beside what the model says.

use std::fmt::Write;

use byway::{NextHop, OnDown, Selector, Target};
use byway_abi::Count;

use crate::{
    Comparison,
    counters::is,
    model::{self, Choice, Expected},
    parse::{self, ETHERNET, IPV4, IPV6},
    program::Ran,
    traffic::Frame,
};

const UNSPEC: u32 = u32::MAX; // TC_ACT_UNSPEC, -1
const SHOT: u32 = 2; // TC_ACT_SHOT
const REDIRECT: u32 = 7; // TC_ACT_REDIRECT

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
        if self.random.percent(80) {
            let Some(expected) = self.step(frame, 1)? else { return Ok(false) };
            if matches!(expected, Expected::NextHop(..) | Expected::Member(..)) {
                self.step(frame, 3)?;
            }
        } else {
            let times = if self.model.is_redirected(&frame.bytes) { 3 } else { 1 };
            return Ok(self.step(frame, times)?.is_some());
        }
        Ok(true)
    }

    /// Lets the frame through the program, once or thrice: then it departs, is redirected a second time because its
    /// Ethernet addresses are still the old ones, and arrives.
    fn step(&mut self, frame: &Frame, times: u32) -> Result<Option<Expected>, String> {
        let ran = match self.program.run(frame, times) {
            Ok(ran) => ran,
            // From Linux 6.17 or so on the kernel refuses what has not its whole IP header.
            Err(_) if is_too_short(&frame.bytes) => return Ok(None),
            Err(error) => return Err(format!("the kernel refuses it: {error}")),
        };
        let expected = self.model.expect(&frame.bytes);
        let say = |what: &str| format!("{what}\nmodel:   {expected}\nprogram, after {times}: {ran:x?}");
        self.judge(frame, times, &expected, &ran).map_err(|what| say(&what))?;
        let counters = if self.packets <= SHORT {
            self.compare_all_counters()
        } else {
            self.compare_counters_of(frame, &expected, &ran)
        };
        counters.map_err(|what| say(&what))?;
        *self.kinds.entry(expected.kind()).or_default() += 1;
        Ok(Some(expected))
    }

    /// Compares what is to be seen of one packet, and has the model count it.
    fn judge(&mut self, frame: &Frame, times: u32, expected: &Expected, ran: &Ran) -> Result<(), String> {
        let size = Count { packets: frame.segments.max(1).into(), bytes: frame.bytes.len() as u64 };
        let left_alone = if let Expected::LeftAlone(class) = expected { Some(*class) } else { None };
        self.model.count_seen(frame.ifindex, left_alone, size);
        let verdict = match expected {
            Expected::NextHop(..) | Expected::Member(..) if times == 1 => REDIRECT,
            Expected::Drop(_) | Expected::Down(_, OnDown::Drop, _) => SHOT,
            _ => UNSPEC,
        };
        is("verdict", verdict as i32, ran.verdict as i32)?;
        is("mark and priority", (frame.mark, frame.priority), (ran.mark, ran.priority))?;
        if !ran.is_same_frame {
            return Err("the frame is another".to_owned());
        }
        match expected {
            Expected::LeftAlone(_) => {}
            Expected::Pass(selector) => {
                self.model.count_rule(selector, |it| model::add(&mut it.passed, size));
            }
            Expected::Drop(selector) => {
                self.model.count_rule(selector, |it| model::add(&mut it.dropped, size));
            }
            Expected::Down(selector, _, next_hops) => {
                self.model.count_rule(selector, |it| model::add(&mut it.down, size));
                let tries = self.count_skipped(next_hops.iter(), size)?;
                let is_group = !matches!(self.model.rule(selector).target, Target::NextHop(_));
                if tries == 0 || !is_group && tries != 1 {
                    return Err(format!("{tries} failed tries were counted"));
                }
            }
            Expected::NextHop(selector, next_hop) => {
                self.departs(selector, next_hop, times, size, ran)?;
            }
            Expected::Member(selector, choice) => {
                self.departs_to_member(selector, choice, times, size, ran)?;
            }
        }
        if verdict == UNSPEC && times == 1 {
            is("cb of a packet left alone", frame.cb, ran.cb)?;
        }
        Ok(())
    }

    fn departs(
        &mut self,
        selector: &Selector,
        next_hop: &NextHop,
        times: u32,
        size: Count,
        ran: &Ran,
    ) -> Result<(), String> {
        let (rule, slot, has_arrived) =
            (self.program.id(selector)?, self.program.slot(next_hop)?, times == 3);
        let marked = (ran.rule(), ran.slot(), ran.is_redirected_again());
        is("rule, slot and a second redirect in cb", (rule, slot, has_arrived), marked)?;
        self.model.count_rule(selector, |it| {
            model::add(&mut it.departed, size);
            if has_arrived {
                model::add(&mut it.arrived, size);
            }
        });
        self.model.count_next_hop(next_hop, |it| {
            model::add(&mut it.departed, size);
            if has_arrived {
                model::add(&mut it.arrived, size);
            }
        });
        Ok(())
    }

    fn departs_to_member(
        &mut self,
        selector: &Selector,
        choice: &Choice,
        times: u32,
        size: Count,
        ran: &Ran,
    ) -> Result<(), String> {
        let slot = ran.slot();
        let member =
            self.program.in_slot(slot).cloned().ok_or_else(|| format!("nothing is in slot {slot}"))?;
        self.model.chose(choice, &member)?;
        if self.count_skipped(choice.down(), size)? == 0 {
            self.model.chose_first(choice, &member)?;
        }
        self.departs(selector, &member, times, size, ran)
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
            let (now, before) =
                (self.program.next_hop(next_hop)?.skipped, self.model.next_hop_counters(next_hop).skipped);
            let grown = (now.packets - before.packets) / size.packets;
            let mut expected = before;
            (0..grown).for_each(|_| model::add(&mut expected, size));
            is(&format!("skipped by {next_hop}"), expected, now)?;
            self.model.count_next_hop(next_hop, |it| it.skipped = now);
            tries += grown;
        }
        Ok(tries)
    }
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
