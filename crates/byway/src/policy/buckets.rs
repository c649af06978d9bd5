//! Which member of a group gets which bucket of flows. Pure.
//!
//! Each member gets as many buckets as its weight says, to within one, and a backup none: its weight is 0. If a group changes,
//! a bucket stays with its next hop if possible, so only few flows move: those of a removed member, and the share of a new one
//! (RFC 2992 calls this disruption; the kernel's resilient groups do the same,
//! Documentation/networking/nexthop-group-resilient.rst).
//!
//! A member's buckets are scattered. Flows that differ little have buckets at regular distances: those of source ports in a
//! row walk through the buckets in small steps, so with the buckets of a member side by side, they would go to the same one.

use std::sync::LazyLock;

use byway_abi::{BUCKETS, flow::rehash};

/// Assigns each bucket to a member: an index into `members`, which are slots with weights. `before` are the slots that the
/// buckets had.
pub(crate) fn assign(members: &[(u32, u16)], before: Option<&[u32; BUCKETS]>) -> [u8; BUCKETS] {
    let mut quotas = quotas(members);
    let mut buckets = [None; BUCKETS];
    if let Some(before) = before {
        for (bucket, slot) in buckets.iter_mut().zip(before) {
            let member = members.iter().position(|(member, _)| member == slot);
            if let Some(member) = member.filter(|member| quotas[*member] > 0) {
                quotas[member] -= 1;
                *bucket = Some(member);
            }
        }
    }
    let mut free = quotas.iter().enumerate().flat_map(|(member, quota)| std::iter::repeat_n(member, *quota));
    for bucket in SCATTERED.iter() {
        buckets[*bucket] = buckets[*bucket].or_else(|| free.next());
    }
    // The quotas add up to the number of buckets, and there are at most 256 members.
    buckets.map(|member| member.unwrap_or(0) as u8)
}

/// All buckets, in an order without a pattern that is always the same.
static SCATTERED: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let mut buckets: Vec<usize> = (0..BUCKETS).collect();
    buckets.sort_by_cached_key(|bucket| rehash(rehash(*bucket as u32)));
    buckets
});

/// Returns how many buckets each member gets: one each, and then one by one whichever is furthest behind its weight
/// (Webster's method, by which no member loses a bucket because another has gone).
fn quotas(members: &[(u32, u16)]) -> Vec<usize> {
    let mut quotas: Vec<usize> = members.iter().map(|(_, weight)| (*weight).min(1).into()).collect();
    for _ in quotas.iter().sum()..BUCKETS {
        let behind = |a: &usize, b: &usize| {
            let claim = |it: usize, other: usize| usize::from(members[it].1) * (2 * quotas[other] + 1);
            // If two are equally far behind, the first one gets it.
            claim(*a, *b).cmp(&claim(*b, *a)).then(b.cmp(a))
        };
        if let Some(member) = (0..members.len()).max_by(behind) {
            quotas[member] += 1;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use byway_abi::flow;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn slots(members: &[(u32, u16)], buckets: &[u8; BUCKETS]) -> [u32; BUCKETS] {
        buckets.map(|member| members[usize::from(member)].0)
    }

    fn count(slots: &[u32; BUCKETS], slot: u32) -> usize {
        slots.iter().filter(|it| **it == slot).count()
    }

    fn members() -> impl Strategy<Value = Vec<(u32, u16)>> {
        vec(1..=256_u16, 1..=32).prop_map(|weights| {
            weights.into_iter().enumerate().map(|(slot, weight)| (slot as u32 + 1, weight)).collect()
        })
    }

    proptest! {
        #[test]
        fn each_member_has_its_share(members in members()) {
            let slots = slots(&members, &assign(&members, None));
            let total: f64 = members.iter().map(|(_, weight)| f64::from(*weight)).sum();
            for (slot, weight) in &members {
                let (has, ideal) = (count(&slots, *slot) as f64, f64::from(*weight) / total * BUCKETS as f64);
                prop_assert!((has - ideal).abs() <= 1.0 + ideal * 0.005, "{} of {}", has, ideal);
            }
        }

        #[test]
        fn taking_one_out_moves_its_flows_alone_and_putting_it_back_its_share(members in members(), gone: prop::sample::Index) {
            prop_assume!(members.len() > 1);
            let before = slots(&members, &assign(&members, None));
            let mut without = members.clone();
            let (gone, _) = without.remove(gone.index(members.len()));
            let between = slots(&without, &assign(&without, Some(&before)));
            for (before, between) in before.iter().zip(&between) {
                prop_assert!(before == between || *before == gone);
            }
            let after = slots(&members, &assign(&members, Some(&between)));
            for (between, after) in between.iter().zip(&after) {
                prop_assert!(between == after || *after == gone);
            }
            prop_assert_eq!(count(&before, gone), count(&after, gone));
        }
    }

    /// As a client has them that opens connections at a time: from here to there, with source ports in a row.
    #[test]
    fn flows_that_differ_little_go_to_all_members() {
        const FLOWS: u32 = 8;
        const CLIENTS: u32 = 2_000;
        let buckets = assign(&[(1, 1), (2, 1)], None);
        for (words, step) in [(1, 1), (1, 2), (4, 1), (4, 2)] {
            let all_on_one = (0..CLIENTS).filter(|client| {
                let address = |seed: u32| {
                    std::array::from_fn(|word| if word < words { rehash(seed + word as u32) } else { 0 })
                };
                let member = |flow: u32| {
                    let ports = (33_000 + client + flow * step) << 16 | 443;
                    let hash =
                        flow::hash(address(client * 8), address(client * 8 + 4), flow::TCP.into(), ports);
                    buckets[hash as usize % BUCKETS]
                };
                (1..FLOWS).all(|flow| member(flow) == member(0))
            });
            // Of flows without a pattern, 2 in 256.
            let ideal = CLIENTS * 2 / 256;
            let all_on_one = all_on_one.count() as u32;
            assert!(
                (ideal / 3..ideal * 3).contains(&all_on_one),
                "{all_on_one} of {CLIENTS}: {words} {step}"
            );
        }
    }

    #[test]
    fn a_backup_has_no_bucket() {
        let slots =
            slots(&[(1, 2), (2, 1), (3, 0), (4, 0)], &assign(&[(1, 2), (2, 1), (3, 0), (4, 0)], None));
        assert_eq!([3, 4].map(|slot| count(&slots, slot)), [0, 0]);
        assert_eq!(count(&slots, 1) + count(&slots, 2), BUCKETS);
        // One that becomes a backup gives its buckets away.
        let before = slots;
        let after = self::slots(&[(2, 1), (1, 0)], &assign(&[(2, 1), (1, 0)], Some(&before)));
        assert_eq!(count(&after, 2), BUCKETS);
    }

    #[test]
    fn a_member_that_is_worth_less_than_a_bucket_has_one() {
        let mut members: Vec<(u32, u16)> = (1..=31).map(|slot| (slot, 256)).collect();
        members.push((32, 1));
        let slots = slots(&members, &assign(&members, None));
        assert_eq!(count(&slots, 32), 1);
    }
}
