//! How much work the agent may do: a storm of events must not take a processor.

use std::time::Duration;

/// The share of one processor that it may use for long.
const SHARE: u32 = 40;
/// The time that it may use at once, when it has been idle.
const RESERVE: Duration = Duration::from_millis(200);

/// The longest that it waits, whatever it has used.
const LONGEST: Duration = Duration::from_secs(5);

/// The processor time that is left. It grows with time, up to the reserve.
#[derive(Debug)]
pub(super) struct Budget {
    left: Duration,
    /// What has been used beyond that.
    debt: Duration,
    /// The clock when it was last looked at.
    at: Duration,
    /// The processor time that had been used by then.
    used: Duration,
}

impl Budget {
    /// Begins with the whole reserve. `at` is the time, and `used` the processor time, both since any moment.
    pub(super) fn new(at: Duration, used: Duration) -> Self {
        Self { left: RESERVE, debt: Duration::ZERO, at, used }
    }

    /// Takes note of the time, and returns how long to wait before more work.
    pub(super) fn wait(&mut self, at: Duration, used: Duration) -> Duration {
        let earned = at.saturating_sub(self.at) / SHARE;
        let spent = used.saturating_sub(self.used) + self.debt;
        let left = self.left + earned;
        // What is beyond is forgiven: the waits for one debt must not add up to more.
        let debt = spent.saturating_sub(left).min(LONGEST / SHARE);
        (self.left, self.debt) = (left.saturating_sub(spent).min(RESERVE), debt);
        (self.at, self.used) = (at, used);
        debt * SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn little_work_never_waits() {
        let mut budget = Budget::new(Duration::ZERO, Duration::ZERO);
        for nth in 1..1_000 {
            assert_eq!(budget.wait(MS * 100 * nth, MS * 2 * nth), Duration::ZERO);
        }
    }

    #[test]
    fn a_storm_takes_a_fortieth_of_a_processor() {
        let mut budget = Budget::new(Duration::ZERO, Duration::ZERO);
        let (mut at, mut used) = (Duration::ZERO, Duration::ZERO);
        // Work without a pause, 2 ms each time, for as long as it may.
        while at < MS * 60_000 {
            (at, used) = (at + MS * 2, used + MS * 2);
            at += budget.wait(at, used);
        }
        let allowed = RESERVE + at / SHARE;
        assert!(used <= allowed + MS * 2 && used + MS * 2 >= allowed, "{used:?} of {at:?}");
    }

    #[test]
    fn a_pause_gives_the_reserve_back_and_no_more() {
        let mut budget = Budget::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(budget.wait(Duration::ZERO, MS * 300), MS * 100 * SHARE);
        assert_eq!(budget.wait(MS * 3_600_000, MS * 300), Duration::ZERO);
        assert_eq!(budget.wait(MS * 3_600_000, MS * 500), Duration::ZERO);
        assert_eq!(budget.wait(MS * 3_600_000, MS * 502), MS * 2 * SHARE);
    }

    #[test]
    fn all_waits_for_long_work_are_a_few_seconds_together() {
        let mut budget = Budget::new(Duration::ZERO, Duration::ZERO);
        let (at, used) = (MS * 60_000, MS * 60_000);
        assert_eq!(budget.wait(at, used), LONGEST);
        assert_eq!(budget.wait(at + LONGEST / 2, used), LONGEST / 2);
        assert_eq!(budget.wait(at + LONGEST, used), Duration::ZERO);
    }
}
