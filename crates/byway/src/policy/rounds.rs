//! The rounds of a health check, and what they say of the next hop. Times are those of one clock, since any instant.

use std::{collections::VecDeque, time::Duration};

use crate::model::HealthCheck;

/// One round of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    number: u32,
    asked: Duration,
    /// Which hosts have answered, as bits.
    answered: u8,
}

/// The rounds of one health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rounds {
    check: HealthCheck,
    is_alive: bool,
    /// How many rounds in a row have said the opposite.
    against: u8,
    /// The rounds that are not decided, the oldest first.
    open: VecDeque<Round>,
    next: Duration,
    number: u32,
}

impl Rounds {
    /// Begins at once. `is_alive` is the verdict until the rounds say otherwise.
    pub(crate) fn new(check: HealthCheck, is_alive: bool, now: Duration) -> Self {
        Self { check, is_alive, against: 0, open: VecDeque::new(), next: now, number: 0 }
    }

    pub(crate) fn check(&self) -> &HealthCheck {
        &self.check
    }

    /// The verdict.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_alive
    }

    /// Whether the last round has failed, or the next hop is out of service.
    pub(crate) fn is_in_doubt(&self) -> bool {
        !self.is_alive || self.against > 0
    }

    /// When the next round begins, or the oldest one has to be answered.
    pub(crate) fn due(&self) -> Duration {
        let answered = self.open.front().map(|round| round.asked + self.check.timeout);
        answered.map_or(self.next, |answered| answered.min(self.next))
    }

    /// Begins a round if it is time, and returns its number. `jitter` is how much earlier than after an interval the one after
    /// it begins, so that hosts that start together do not ask together.
    pub(crate) fn begin(&mut self, now: Duration, jitter: Duration) -> Option<u32> {
        if now < self.next {
            return None;
        }
        self.next += self.check.interval.saturating_sub(jitter);
        if self.next <= now {
            // The process was stopped, or had no processor. It does not ask faster than it should.
            self.next = now + self.check.interval;
        }
        self.number = self.number.wrapping_add(1);
        self.open.push_back(Round { number: self.number, asked: now, answered: 0 });
        Some(self.number)
    }

    /// Notes that a question of a round was asked only now. Its answer may take as long as that of any other.
    pub(crate) fn asked_late(&mut self, number: u32, now: Duration) {
        if let Some(round) = self.open.iter_mut().find(|round| round.number == number) {
            round.asked = now;
        }
    }

    /// Forgets a round that nobody could be asked in: it says nothing.
    pub(crate) fn forget(&mut self, number: u32) {
        self.open.retain(|round| round.number != number);
    }

    /// Begins anew, with this verdict.
    pub(crate) fn begin_anew(&mut self, is_alive: bool, now: Duration) {
        self.open.clear();
        (self.is_alive, self.against, self.next) = (is_alive, 0, now);
    }

    /// Notes an answer of the host at this place. Returns the verdict if that changes it.
    pub(crate) fn answer(&mut self, number: u32, host: usize) -> Option<bool> {
        let place = self.open.iter().position(|round| round.number == number)?;
        let round = &mut self.open[place];
        round.answered |= 1_u8.checked_shl(host as u32).unwrap_or(0);
        if round.answered.count_ones() < u32::from(self.check.quorum) {
            return None;
        }
        // Older rounds are of no interest any more.
        self.open.drain(..=place);
        self.decide(true)
    }

    /// Ends the rounds whose time is over. Returns the verdict if that changes it.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<bool> {
        let mut verdict = None;
        while self.open.front().is_some_and(|round| round.asked + self.check.timeout <= now) {
            self.open.pop_front();
            verdict = self.decide(false).or(verdict);
        }
        verdict
    }

    fn decide(&mut self, is_good: bool) -> Option<bool> {
        if is_good == self.is_alive {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if is_good { self.check.rise } else { self.check.fall } {
            return None;
        }
        (self.is_alive, self.against) = (is_good, 0);
        Some(is_good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Asks two hosts every 100 ms.
    fn rounds(quorum: u8, fall: u8, rise: u8) -> Rounds {
        let hosts = ["198.51.100.1", "198.51.100.2"].map(|host| host.parse().unwrap());
        let check = HealthCheck { quorum, fall, rise, ..HealthCheck::ping(hosts).interval(ms(100)) };
        Rounds::new(check, true, Duration::ZERO)
    }

    fn begin(rounds: &mut Rounds, now: Duration) -> Option<u32> {
        rounds.begin(now, Duration::ZERO)
    }

    #[test]
    fn so_many_failed_rounds_in_a_row_take_it_out_and_so_many_good_ones_put_it_back() {
        let mut it = rounds(1, 3, 2);
        let mut verdicts = Vec::new();
        // Whether round by round somebody answers.
        let answers = [true, false, false, true, false, false, false, true, false, true, true, false];
        for (nth, is_answered) in answers.into_iter().enumerate() {
            let now = ms(100) * nth as u32;
            let number = begin(&mut it, now).unwrap();
            verdicts.push(if is_answered { it.answer(number, 1) } else { it.expire(now + ms(100)) });
        }
        let changes: Vec<(usize, bool)> =
            verdicts.iter().enumerate().filter_map(|(nth, verdict)| Some((nth, (*verdict)?))).collect();
        assert_eq!(changes, [(6, false), (10, true)]);
    }

    #[test]
    fn a_round_is_good_once_the_quorum_has_answered() {
        let mut it = rounds(2, 1, 1);
        let first = begin(&mut it, ms(0)).unwrap();
        // The same host twice is one answer.
        assert_eq!((it.answer(first, 0), it.answer(first, 0)), (None, None));
        assert_eq!(it.expire(ms(99)), None);
        assert_eq!(it.expire(ms(100)), Some(false));
        // What comes too late counts for nothing, and neither does a round that nobody has asked for.
        assert_eq!((it.answer(first, 1), it.answer(7, 0), it.answer(7, 1)), (None, None, None));
        let second = begin(&mut it, ms(100)).unwrap();
        assert_eq!((it.answer(second, 1), it.answer(second, 0)), (None, Some(true)));
    }

    #[test]
    fn an_answer_may_take_longer_than_an_interval_and_overtake_another() {
        let mut it = rounds(1, 1, 1);
        it.check.timeout = ms(250);
        let asked: Vec<u32> = [0, 100, 200].map(|now| begin(&mut it, ms(now)).unwrap()).to_vec();
        // The second is answered, so that the first is not says nothing any more.
        assert_eq!(it.answer(asked[1], 0), None);
        assert_eq!((it.expire(ms(260)), it.due()), (None, ms(300)));
        assert_eq!(begin(&mut it, ms(300)), Some(4));
        assert_eq!(it.expire(ms(450)), Some(false));
    }

    #[test]
    fn a_question_that_could_not_be_asked_says_nothing() {
        let mut it = rounds(1, 1, 1);
        let first = begin(&mut it, ms(0)).unwrap();
        it.asked_late(first, ms(60));
        assert_eq!((it.expire(ms(150)), it.due()), (None, ms(100)));
        let second = begin(&mut it, ms(100)).unwrap();
        it.forget(second);
        assert_eq!(it.expire(ms(160)), Some(false));
        it.begin_anew(true, ms(300));
        assert_eq!((it.is_alive(), it.due(), it.expire(ms(900))), (true, ms(300), None));
    }

    #[test]
    fn one_that_was_stopped_does_not_hurry_afterwards() {
        let mut it = rounds(1, 1, 1);
        assert_eq!((begin(&mut it, ms(0)), begin(&mut it, ms(99)), it.due()), (Some(1), None, ms(100)));
        assert_eq!(begin(&mut it, ms(5_000)), Some(2));
        assert_eq!((begin(&mut it, ms(5_001)), it.next), (None, ms(5_100)));
        // Earlier by the jitter, and the one after that by the whole interval after that.
        assert_eq!((it.begin(ms(5_100), ms(10)), it.next), (Some(3), ms(5_190)));
    }
}
