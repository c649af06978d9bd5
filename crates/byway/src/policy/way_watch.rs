//! Whether the neighbour is alive that replies go to, by the signs that it gives.
//!
//! What comes in by a way is a sign of life, and costs nothing. Silence alone proves no death: traffic may be one-way. So a
//! neighbour is asked if replies leave and nothing comes in, and is silent if it does not answer. Whoever has never answered proves
//! nothing by not answering, so each is asked while it is alive, until it has.

use std::time::Duration;

/// How long nothing may come in before a neighbour is asked that replies go to, and how often it is looked at.
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// How long it has to answer, and how often in a row it may fail to.
const ANSWER: Duration = Duration::from_millis(200);
const ASKS: u32 = 3;
/// How often one is asked that has never answered.
const VERIFY: Duration = Duration::from_secs(60);
/// How soon one is asked again that is silent. The time doubles up to the second one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_LAST: Duration = Duration::from_secs(16);
/// How long one stays silent that nobody wants to reply to. What is to go there later finds out anew.
const GIVE_UP: Duration = Duration::from_secs(600);

/// What is known of the life of a neighbour. Each number changes when something happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signs {
    /// A packet of a known flow has come in by the way.
    pub(crate) seen: u64,
    /// The neighbour has answered a question for its Ethernet address. 0 if it never has.
    pub(crate) answered: u64,
    /// A reply has left by the way, or would have.
    pub(crate) used: u64,
}

/// A neighbour that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    signs: Signs,
    state: State,
    /// When it last gave a sign, and whether it has been used since.
    alive: Duration,
    is_used: bool,
    /// Whether it has answered such a question. What the kernel asks goes to everybody, and from another address.
    answers: bool,
    /// When it may be asked although it has never answered.
    verify: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    Asked { times: u32, until: Duration },
    Silent { since: Duration, retry: Duration, pause: Duration },
}

impl Watched {
    /// Begins to watch one that has these signs. `is_silent` says that it was out of service for whoever watched before.
    pub(crate) fn new(signs: Signs, is_silent: bool, now: Duration) -> Self {
        let state = match is_silent && signs.answered != 0 {
            true => State::Silent { since: now, retry: now, pause: RETRY },
            false => State::Alive,
        };
        Self { signs, state, alive: now, is_used: false, answers: state != State::Alive, verify: now }
    }

    /// Whether it is dead, for all that is known.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent { .. })
    }

    /// Whether it has been asked, and has not answered yet.
    pub(crate) fn is_asked(&self) -> bool {
        self.state != State::Alive
    }

    /// Takes its signs, and leaves it alone: nobody can ask it now.
    pub(crate) fn rest(&mut self, signs: Signs, now: Duration) {
        (self.signs, self.state, self.alive, self.is_used) = (signs, State::Alive, now, false);
    }

    /// Takes its signs. Returns whether to ask it now, which it leaves for later unless it `may_ask`.
    pub(crate) fn look(&mut self, signs: Signs, now: Duration, may_ask: bool) -> bool {
        let before = std::mem::replace(&mut self.signs, signs);
        let (is_answered, is_used) = (signs.answered != before.answered, signs.used != before.used);
        self.answers |= is_answered && self.is_asked();
        let answers = self.answers;
        if is_answered || signs.seen != before.seen {
            (self.state, self.alive, self.is_used) = (State::Alive, now, false);
        } else {
            self.is_used |= is_used;
        }
        let asked = |times| State::Asked { times, until: now + ANSWER };
        let (state, asks) = match self.state {
            State::Alive => {
                let is_in_doubt = self.is_used && now >= self.alive + QUIET;
                let is_to_verify = (is_in_doubt || is_used) && !answers && now >= self.verify;
                let asks = may_ask && ((is_in_doubt && answers) || is_to_verify);
                if asks {
                    self.verify = now + VERIFY;
                }
                (if asks { asked(1) } else { State::Alive }, asks)
            }
            State::Asked { until, .. } if now < until => (self.state, false),
            State::Asked { times, .. } if times < ASKS => {
                (if may_ask { asked(times + 1) } else { self.state }, may_ask)
            }
            State::Asked { .. } if answers && self.is_used => {
                (State::Silent { since: now, retry: now + RETRY, pause: RETRY }, false)
            }
            State::Silent { since, retry, pause } if is_used || now < since + GIVE_UP => {
                let since = if is_used { now } else { since };
                let asks = may_ask && now >= retry;
                let pause = if asks { (2 * pause).min(RETRY_AT_LAST) } else { pause };
                (State::Silent { since, retry: if asks { now + pause } else { retry }, pause }, asks)
            }
            State::Asked { .. } | State::Silent { .. } => {
                (self.alive, self.is_used) = (now, false);
                (State::Alive, false)
            }
        };
        self.state = state;
        asks
    }

    /// Returns when to look at it again.
    pub(crate) fn look_again(&self, now: Duration) -> Duration {
        match self.state {
            State::Alive => now + QUIET,
            State::Asked { until, .. } => until,
            State::Silent { retry, .. } => retry.min(now + QUIET),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Looks whenever that is due, for so long. `live` changes the signs, and says how the neighbour answers a question. Returns how
    /// often it was asked, and after how long it was silent.
    fn watch(
        watched: &mut Watched,
        from: Duration,
        long: Duration,
        mut live: impl FnMut(&mut Signs, bool),
    ) -> (u32, Option<Duration>) {
        let (mut now, mut asked, mut silent) = (from, 0, None);
        let mut signs = watched.signs;
        while now < from + long {
            live(&mut signs, false);
            if watched.look(signs, now, true) {
                asked += 1;
                live(&mut signs, true);
            }
            if watched.is_silent() && silent.is_none() {
                silent = Some(now - from);
            }
            now = watched.look_again(now).max(now + MS);
        }
        (asked, silent)
    }

    fn new() -> Watched {
        Watched::new(Signs::default(), false, Duration::ZERO)
    }

    /// Replies leave, requests come in, and it answers.
    fn alive(signs: &mut Signs, is_asked: bool) {
        if is_asked {
            signs.answered += 1;
        } else {
            (signs.seen, signs.used) = (signs.seen + 1, signs.used + 1);
        }
    }

    /// Replies leave, and nothing comes in.
    fn dead(signs: &mut Signs, is_asked: bool) {
        signs.used += u64::from(!is_asked);
    }

    #[test]
    fn traffic_in_both_directions_is_a_sign_of_life() {
        assert_eq!(watch(&mut new(), Duration::ZERO, 100 * QUIET, alive), (1, None), "whether it answers");
    }

    #[test]
    fn one_that_is_not_used_is_not_asked() {
        assert_eq!(watch(&mut new(), Duration::ZERO, 100 * QUIET, |_, _| ()), (0, None));
        let comes_in = |signs: &mut Signs, _| signs.seen += 1;
        assert_eq!(watch(&mut new(), Duration::ZERO, 100 * QUIET, comes_in), (0, None));
    }

    #[test]
    fn one_that_only_gets_replies_is_asked_and_lives() {
        let mut watched = new();
        let (asked, silent) = watch(&mut watched, Duration::ZERO, 100 * QUIET, |signs, is_asked| {
            *(if is_asked { &mut signs.answered } else { &mut signs.used }) += 1;
        });
        assert!((40..=100).contains(&asked) && silent.is_none(), "{asked} {silent:?}");
    }

    #[test]
    fn one_that_dies_is_silent_after_three_questions_and_lives_with_the_first_sign() {
        let mut watched = new();
        watch(&mut watched, Duration::ZERO, 10 * QUIET, alive);
        let (asked, silent) = watch(&mut watched, 10 * QUIET, 20 * QUIET, dead);
        // Three, and then after 1, 2, 4 and 8 seconds.
        assert!((6..=8).contains(&asked), "{asked}");
        let silent = silent.unwrap();
        assert!(silent >= QUIET + 3 * ANSWER && silent <= 2 * QUIET + 3 * ANSWER, "{silent:?}");
        for sign in [Signs { seen: 99, ..watched.signs }, Signs { answered: 99, ..watched.signs }] {
            let mut watched = watched.clone();
            assert!(!watched.look(sign, 30 * QUIET, true) && !watched.is_silent(), "{sign:?}");
        }
    }

    /// The kernel asks everybody, from another address. Who has answered that may not answer this.
    #[test]
    fn one_that_has_answered_the_kernel_alone_is_not_silent() {
        let mut watched = Watched::new(Signs { answered: 7, ..Signs::default() }, false, Duration::ZERO);
        let (_, silent) = watch(&mut watched, Duration::ZERO, 100 * QUIET, dead);
        assert_eq!(silent, None);
    }

    #[test]
    fn one_that_has_never_answered_is_not_silent() {
        let mut watched = new();
        let deaf = |signs: &mut Signs, is_asked: bool| {
            if !is_asked {
                (signs.seen, signs.used) = (signs.seen + 1, signs.used + 1);
            }
        };
        assert_eq!(watch(&mut watched, Duration::ZERO, 100 * QUIET, deaf).1, None);
        let (asked, silent) = watch(&mut watched, 100 * QUIET, 100 * QUIET, dead);
        assert!((3..=9).contains(&asked) && silent.is_none(), "{asked} {silent:?}");
    }

    #[test]
    fn one_that_is_to_get_replies_stays_silent() {
        let mut watched = Watched::new(Signs { answered: 7, ..Signs::default() }, true, Duration::ZERO);
        let (asked, _) = watch(&mut watched, Duration::ZERO, 3 * GIVE_UP, dead);
        assert!((110..=125).contains(&asked) && watched.is_silent(), "{asked}");
    }

    #[test]
    fn one_that_may_not_be_asked_is_not_judged() {
        let mut watched = new();
        watch(&mut watched, Duration::ZERO, 10 * QUIET, alive);
        for nth in 10..100 {
            let signs = Signs { used: 100 + u64::from(nth), ..watched.signs };
            assert!(!watched.look(signs, nth * QUIET, false) && !watched.is_silent());
        }
    }

    #[test]
    fn one_that_was_silent_for_another_is_asked_and_given_up_at_last() {
        assert!(!Watched::new(Signs::default(), true, Duration::ZERO).is_silent(), "it has never answered");
        let mut watched = Watched::new(Signs { answered: 7, ..Signs::default() }, true, Duration::ZERO);
        assert!(watched.is_silent());
        let (asked, _) = watch(&mut watched, Duration::ZERO, GIVE_UP + 2 * QUIET, |_, _| ());
        assert!((35..=45).contains(&asked), "{asked}");
        assert!(!watched.is_silent());
    }
}
