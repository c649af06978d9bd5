//! When to stand in for default gateways that do not answer.

use std::collections::{BTreeMap, BTreeSet};

/// What the kernel knows of a default gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It has an address for it that was not put there by a guard.
    Answers,
    /// It has none, and asks for it.
    Asked,
    /// It has asked, and nobody has answered.
    Silent,
    /// It has the address that stands in for it.
    StoodIn,
    /// It knows nothing of it, because nobody has asked.
    Unknown,
}

/// The gateways of one family that a guard stands in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guarded<K> {
    engaged: BTreeSet<K>,
}

impl<K: Ord + Clone> Default for Guarded<K> {
    fn default() -> Self {
        Self { engaged: BTreeSet::new() }
    }
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision<K> {
    /// For these gateways an address has to stand in.
    pub(crate) write: Vec<K>,
    /// It does so from now on.
    pub(crate) engaged: Vec<K>,
    /// It does so no longer: they answer, or another one does.
    pub(crate) released: Vec<K>,
}

impl<K: Ord + Clone> Guarded<K> {
    /// The gateways that it stands in for.
    pub(crate) fn engaged(&self) -> impl Iterator<Item = &K> {
        self.engaged.iter()
    }

    /// Decides what to do about all default gateways of the family.
    ///
    /// As long as one of them answers, the kernel finds it by itself: it prefers default routes whose gateway answers
    /// (`fib_select_default`, `rt6_check_neigh`). So this stands in only if none does.
    pub(crate) fn decide(&mut self, all: &BTreeMap<K, Seen>) -> Decision<K> {
        let mut decision = Decision { write: Vec::new(), engaged: Vec::new(), released: Vec::new() };
        let is_any_there = all.values().any(|seen| *seen == Seen::Answers);
        let before = std::mem::take(&mut self.engaged);
        for (gateway, seen) in all {
            let was_engaged = before.contains(gateway);
            let is_engaged = !is_any_there
                && match seen {
                    Seen::Answers => false,
                    // Another guard has left it, or this one.
                    Seen::Silent | Seen::StoodIn => true,
                    // Whoever is asked for the first time may answer.
                    Seen::Asked | Seen::Unknown => was_engaged,
                };
            if is_engaged {
                self.engaged.insert(gateway.clone());
                if *seen != Seen::StoodIn {
                    decision.write.push(gateway.clone());
                }
            }
            match (was_engaged, is_engaged) {
                (false, true) => decision.engaged.push(gateway.clone()),
                (true, false) => decision.released.push(gateway.clone()),
                _ => {}
            }
        }
        decision.released.extend(before.into_iter().filter(|gateway| !all.contains_key(gateway)));
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(guarded: &mut Guarded<u8>, all: &[(u8, Seen)]) -> [Vec<u8>; 3] {
        let Decision { write, engaged, released } = guarded.decide(&all.iter().copied().collect());
        [write, engaged, released]
    }

    const NOTHING: [Vec<u8>; 3] = [vec![], vec![], vec![]];

    #[test]
    fn it_stands_in_for_a_silent_gateway_until_that_answers() {
        let mut guarded = Guarded::default();
        for seen in [Seen::Unknown, Seen::Asked, Seen::Answers, Seen::Asked] {
            assert_eq!(decide(&mut guarded, &[(1, seen)]), NOTHING, "{seen:?}");
        }
        assert_eq!(decide(&mut guarded, &[(1, Seen::Silent)]), [vec![1], vec![1], vec![]]);
        assert_eq!(decide(&mut guarded, &[(1, Seen::StoodIn)]), NOTHING);
        // The entry has failed or is gone, and somebody asks again.
        for seen in [Seen::Silent, Seen::Asked, Seen::Unknown] {
            assert_eq!(decide(&mut guarded, &[(1, seen)]), [vec![1], vec![], vec![]], "{seen:?}");
        }
        assert_eq!(decide(&mut guarded, &[(1, Seen::Answers)]), [vec![], vec![], vec![1]]);
        assert_eq!(decide(&mut guarded, &[(1, Seen::Asked)]), NOTHING);
    }

    #[test]
    fn while_another_gateway_answers_it_leaves_all_to_the_kernel() {
        let mut guarded = Guarded::default();
        let silent = [(1, Seen::Silent), (2, Seen::Answers)];
        assert_eq!(decide(&mut guarded, &silent), NOTHING);
        let none = [(1, Seen::Silent), (2, Seen::Silent)];
        assert_eq!(decide(&mut guarded, &none), [vec![1, 2], vec![1, 2], vec![]]);
        let back = [(1, Seen::StoodIn), (2, Seen::Answers)];
        assert_eq!(decide(&mut guarded, &back), [vec![], vec![], vec![1, 2]]);
    }

    #[test]
    fn it_goes_on_where_another_one_has_ended_and_ends_with_the_route() {
        let mut guarded = Guarded::default();
        assert_eq!(decide(&mut guarded, &[(1, Seen::StoodIn)]), [vec![], vec![1], vec![]]);
        assert_eq!(decide(&mut guarded, &[]), [vec![], vec![], vec![1]]);
    }
}
