//! The identities of rules, sets and groups. They are given out in turn, so that no identity is reused while packets with its
//! old meaning may be on their way.

use byway_abi::{LAST_INDEX_OF_REPLIES, MAX_CHUNKS, meta};

use super::{destinations::Destinations, meta::Meta, next_hops::NextHops, rules::Rules};
use crate::error::{Error, Result};

/// The identities of rules in use, if a change has to write them down.
#[derive(Default)]
pub(super) struct Identities(Option<InUse>);

#[derive(Clone, Copy)]
struct InUse {
    /// Where the search for a free one begins.
    next: u32,
    /// How many rules there are.
    used: u32,
}

impl Identities {
    fn in_use(&mut self, meta: &Meta, rules: &Rules) -> Result<&mut InUse> {
        let now = match self.0 {
            Some(now) => now,
            None => InUse { next: meta.get(meta::NEXT_RULE)?, used: noted_rules(meta, rules)? },
        };
        Ok(self.0.insert(now))
    }

    /// Returns an identity that no rule has.
    pub(super) fn next_rule(&mut self, meta: &Meta, rules: &mut Rules) -> Result<u32> {
        let in_use = self.in_use(meta, rules)?;
        let InUse { mut next, used } = *in_use;
        // An eighth stays free, so that a free one is never far.
        let room = rules.room();
        if room.saturating_sub(used + 1) <= room / 8 && rules.chunks() < MAX_CHUNKS {
            next = rules.chunks() << 16;
            rules.add_chunk()?;
        }
        let mut free = rules.free(next)?;
        if free.is_none() && rules.chunks() < MAX_CHUNKS {
            // There are more rules than were written down.
            next = rules.chunks() << 16;
            rules.add_chunk()?;
            free = rules.free(next)?;
        }
        let free = free.ok_or_else(|| Error::Busy {
            action: "find a free identity for a rule",
            what: "all are in use",
        })?;
        *in_use = InUse { next: free + 1, used: used + 1 };
        Ok(free)
    }

    /// Counts one rule less.
    pub(super) fn rule_is_gone(&mut self, meta: &Meta, rules: &Rules) -> Result<()> {
        let in_use = self.in_use(meta, rules)?;
        in_use.used = in_use.used.saturating_sub(1);
        Ok(())
    }

    /// Counts the rules anew.
    pub(super) fn count_again(&mut self, meta: &Meta, rules: &Rules) -> Result<()> {
        self.in_use(meta, rules)?.used = count(rules)?;
        Ok(())
    }

    /// Writes them to `META`.
    pub(super) fn note(&mut self, meta: &mut Meta) -> Result<()> {
        if let Some(InUse { next, used }) = self.0.take() {
            meta.set(meta::NEXT_RULE, next)?;
            meta.set(meta::RULES, used)?;
        }
        Ok(())
    }
}

/// Returns how many rule records there are, as the last change wrote it down. Counts them if there is no room for so many.
pub(super) fn noted_rules(meta: &Meta, rules: &Rules) -> Result<u32> {
    let noted = meta.get(meta::RULES)?;
    if noted <= rules.room() { Ok(noted) } else { count(rules) }
}

fn count(rules: &Rules) -> Result<u32> {
    rules.records()?.try_fold(0, |count, record| record.map(|_| count + 1))
}

/// Returns an identity that no set and no group has. It is never 0, and leaves room for a set of devices beside it.
pub(super) fn next_set(meta: &mut Meta, destinations: &Destinations, next_hops: &NextHops) -> Result<u32> {
    let or_first = |id: u32| if id > LAST_INDEX_OF_REPLIES { 1 } else { id.max(1) };
    let mut id = or_first(meta.get(meta::NEXT_SET)?);
    while destinations.has_set(id) || next_hops.has_group(id) {
        id = or_first(id + 1);
    }
    meta.set(meta::NEXT_SET, or_first(id + 1))?;
    Ok(id)
}
