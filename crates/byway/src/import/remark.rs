//! What all remarks have in common: how they begin, quote, and name several things at once.

/// What a remark begins with where Byway does not do what Linux does.
pub(crate) const DIFFERS: &str = "Differs: ";

/// How many things of a kind a remark names one by one.
pub(crate) const NAMED: usize = 4;

pub(crate) fn quote(text: &str) -> String {
    format!("`{text}`")
}

/// Names the first few of these, and says how many more there are.
pub(crate) fn some_of(mut texts: Vec<String>) -> String {
    let more = texts.len().saturating_sub(NAMED);
    texts.truncate(NAMED);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}
