//! Two sorted maps side by side. Pure.

use std::iter;

/// Returns the keys of both in order, each with its value before and after.
pub(crate) fn merged<'a, K: Ord + 'a, V: 'a>(
    before: impl Iterator<Item = (&'a K, &'a V)>,
    after: impl Iterator<Item = (&'a K, &'a V)>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let (mut before, mut after) = (before.peekable(), after.peekable());
    iter::from_fn(move || {
        let key = match (before.peek(), after.peek()) {
            (Some((old, _)), Some((new, _))) => (*old).min(*new),
            (one, other) => one.or(other)?.0,
        };
        let old = before.next_if(|(it, _)| *it == key).map(|(_, value)| value);
        let new = after.next_if(|(it, _)| *it == key).map(|(_, value)| value);
        Some((key, old, new))
    })
}
