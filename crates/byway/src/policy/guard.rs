//! When to stand in for a default gateway that does not answer.

/// What the kernel knows of a default gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It has an address for it that no guard has put there.
    Answers,
    /// It has none, and has begun to ask for it a moment ago.
    Asked,
    /// It has asked, and nobody has answered for some time.
    Silent,
    /// It has the address that stands in for it.
    StoodIn,
    /// It knows nothing of it, because nobody has asked.
    Unknown,
}

/// The default gateway of one family that a guard stands in for, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guarded<K>(Option<K>);

impl<K> Default for Guarded<K> {
    fn default() -> Self {
        Self(None)
    }
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision<K> {
    /// For this gateway an address has to stand in.
    pub(crate) write: Option<K>,
    /// It does so from now on.
    pub(crate) engaged: Option<K>,
    /// It does so no longer: it answers, or is not the only default gateway any more.
    pub(crate) released: Option<K>,
}

impl<K: Eq + Clone> Guarded<K> {
    /// The gateway that it stands in for.
    pub(crate) fn engaged(&self) -> Option<&K> {
        self.0.as_ref()
    }

    /// Decides what to do about the only default gateway of the family, if there is such a one.
    pub(crate) fn decide(&mut self, only: Option<(K, Seen)>) -> Decision<K> {
        let before = self.0.take();
        let Some((gateway, seen)) = only else {
            return Decision { write: None, engaged: None, released: before };
        };
        let was_engaged = before.as_ref() == Some(&gateway);
        let is_engaged = match seen {
            Seen::Answers => false,
            // Another guard may have left it.
            Seen::Silent | Seen::StoodIn => true,
            // Whoever is asked for the first time may answer.
            Seen::Asked | Seen::Unknown => was_engaged,
        };
        self.0 = is_engaged.then(|| gateway.clone());
        Decision {
            write: (is_engaged && seen != Seen::StoodIn).then(|| gateway.clone()),
            engaged: (is_engaged && !was_engaged).then_some(gateway),
            released: before.filter(|_| !(was_engaged && is_engaged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(guarded: &mut Guarded<u8>, only: Option<(u8, Seen)>) -> [Option<u8>; 3] {
        let Decision { write, engaged, released } = guarded.decide(only);
        [write, engaged, released]
    }

    const NOTHING: [Option<u8>; 3] = [None, None, None];

    #[test]
    fn it_stands_in_for_a_silent_gateway_until_that_answers() {
        let mut guarded = Guarded::default();
        for seen in [Seen::Unknown, Seen::Asked, Seen::Answers, Seen::Asked] {
            assert_eq!(decide(&mut guarded, Some((1, seen))), NOTHING, "{seen:?}");
        }
        assert_eq!(decide(&mut guarded, Some((1, Seen::Silent))), [Some(1), Some(1), None]);
        assert_eq!(decide(&mut guarded, Some((1, Seen::StoodIn))), NOTHING);
        // The entry has failed or is gone, and somebody asks again.
        for seen in [Seen::Silent, Seen::Asked, Seen::Unknown] {
            assert_eq!(decide(&mut guarded, Some((1, seen))), [Some(1), None, None], "{seen:?}");
        }
        assert_eq!(decide(&mut guarded, Some((1, Seen::Answers))), [None, None, Some(1)]);
        assert_eq!(decide(&mut guarded, Some((1, Seen::Asked))), NOTHING);
    }

    #[test]
    fn it_goes_on_where_another_one_has_ended_and_ends_where_it_is_not_the_only_way() {
        let mut guarded = Guarded::default();
        assert_eq!(decide(&mut guarded, Some((1, Seen::StoodIn))), [None, Some(1), None]);
        assert_eq!(decide(&mut guarded, Some((2, Seen::Silent))), [Some(2), Some(2), Some(1)]);
        assert_eq!(decide(&mut guarded, Some((1, Seen::Answers))), [None, None, Some(2)]);
        assert_eq!(decide(&mut guarded, Some((1, Seen::Silent))), [Some(1), Some(1), None]);
        assert_eq!(decide(&mut guarded, None), [None, None, Some(1)]);
        assert_eq!(decide(&mut guarded, None), NOTHING);
    }
}
