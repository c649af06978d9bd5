//! The order in which rules are listed: by source, then by destination. Pure.
//!
//! There may be a million rules, so this keeps only what is needed to sort them.

use byway_abi::{FAMILY_IPV4, RuleRecord};

use crate::error::Result;

/// 64-bit words of the sort key of a record.
const WORDS: usize = 5;

/// A rule of a listing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// One word of its sort key.
    key: u64,
    /// Its identity.
    pub(crate) id: u32,
    /// Tells its record from that of a later rule with the same identity.
    mark: u32,
}

const _: () = assert!(size_of::<Place>() == 16);

impl Place {
    pub(super) fn new(id: u32, record: &RuleRecord) -> Self {
        let words = words(record);
        Self { key: words[0], id, mark: mark(&words) }
    }

    /// Whether this is still the record of a rule for the same packets.
    pub(super) fn is_of(&self, record: &RuleRecord) -> bool {
        self.mark == mark(&words(record))
    }
}

/// Sorts by selector and drops duplicates, which a concurrent replace can produce. `record` reads a record again, if it still
/// exists.
pub(super) fn sort(
    places: &mut Vec<Place>,
    record: &impl Fn(u32) -> Result<Option<RuleRecord>>,
) -> Result<()> {
    sort_by_word(places, 0, record)?;
    let is_same = |one, other| match (record(one), record(other)) {
        (Ok(Some(one)), Ok(Some(other))) => words(&one) == words(&other),
        _ => false,
    };
    places.dedup_by(|next, one| next.mark == one.mark && is_same(one.id, next.id));
    Ok(())
}

/// Sorts rules whose keys agree in all words before this one.
fn sort_by_word(
    places: &mut [Place],
    word: usize,
    record: &impl Fn(u32) -> Result<Option<RuleRecord>>,
) -> Result<()> {
    if word > 0 {
        for place in &mut *places {
            place.key = record(place.id)?.map_or(0, |record| words(&record)[word]);
        }
    }
    places.sort_unstable_by_key(|place| place.key);
    if word + 1 < WORDS {
        for same in places.chunk_by_mut(|one, next| one.key == next.key).filter(|same| same.len() > 1) {
            sort_by_word(same, word + 1, record)?;
        }
    }
    Ok(())
}

/// The sort key of a record. Two keys compare as the rules' selectors do. The first word contains the whole source of an IPv4
/// rule. A listing makes two of each record, so it puts whole addresses into place.
fn words(record: &RuleRecord) -> [u64; WORDS] {
    let address = if record.family == FAMILY_IPV4 { 4 } else { 16 };
    let mut bytes = [0; 8 * WORDS];
    bytes[0] = u8::from(record.family != FAMILY_IPV4);
    // A rule without a destination has one of length 0, which comes before every other.
    let prefixes = [(&record.source, record.source_len), (&record.destination, record.destination_len)];
    for ((prefix, length), bytes) in prefixes.into_iter().zip(bytes[1..].chunks_exact_mut(address + 1)) {
        bytes[..address].copy_from_slice(&prefix[..address]);
        bytes[address] = length;
    }
    std::array::from_fn(|word| u64::from_be_bytes(std::array::from_fn(|byte| bytes[8 * word + byte])))
}

fn mark(words: &[u64; WORDS]) -> u32 {
    // An odd number with about half of its bits set (2^64 divided by the golden ratio).
    let mixed = words
        .iter()
        .fold(0_u64, |mixed, word| (mixed ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32));
    (mixed ^ mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use byway_abi::TARGET_PASS;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::kernel::wire;
    use crate::model::{Action, Mss, OnDown, Owner, Prefix, Selector, Target};

    fn record(selector: &Selector) -> RuleRecord {
        let action = Action {
            reply_to: false,
            reply_to_dev: BTreeSet::new(),
            target: Target::Pass,
            on_down: OnDown::Pass,
            mss: Mss::Auto,
            owner: Owner::API,
            name: None,
        };
        wire::rule_record(selector, &action, 0, (TARGET_PASS, 0))
    }

    /// Close together, so that they have much in common, or anywhere.
    fn any_prefix(v4: bool) -> impl Strategy<Value = Prefix> {
        let bits = prop_oneof![0..8_u128, (0..8_u128).prop_map(|bits| bits << 62), any::<u128>()];
        (bits, 0..=32_u8, any::<bool>()).prop_map(move |(bits, length, is_long)| {
            let address =
                if v4 { IpAddr::from((bits as u32).to_be_bytes()) } else { bits.to_be_bytes().into() };
            Prefix::holding(address, if v4 || !is_long { length } else { 128 - length }).unwrap()
        })
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        any::<bool>().prop_flat_map(|v4| {
            (any_prefix(v4), proptest::option::of(any_prefix(v4)))
                .prop_map(|(source, destination)| Selector::new(source, destination))
        })
    }

    proptest! {
        #[test]
        fn records_are_sorted_as_their_selectors_are(selectors in vec(any_selector(), 0..40)) {
            let mut sorted = selectors.clone();
            sorted.sort();
            sorted.dedup();
            let mut places: Vec<Place> =
                selectors.iter().enumerate().map(|(id, it)| Place::new(id as u32, &record(it))).collect();
            sort(&mut places, &|id| Ok(Some(record(&selectors[id as usize])))).unwrap();
            let mut listed: Vec<Selector> = places.iter().map(|place| selectors[place.id as usize]).collect();
            listed.dedup();
            prop_assert_eq!(listed, sorted);
        }

        #[test]
        fn another_rule_is_told_by_its_record(one in any_selector(), other in any_selector()) {
            let place = Place::new(1, &record(&one));
            prop_assert_eq!(place.is_of(&record(&other)), one == other);
        }
    }
}
