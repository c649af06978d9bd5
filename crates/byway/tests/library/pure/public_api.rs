//! The public API as a listing under review: `crates/byway/public-api.txt`.
//!
//! It is read from the source. The lint `unreachable_pub` sees to it that whatever says `pub` there can be reached from outside,
//! and rustfmt to it that each declaration begins where it is looked for.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

/// Set, it makes the test write the listing.
const WRITE: &str = "BYWAY_WRITE_PUBLIC_API";

#[test]
fn the_public_api_is_the_one_that_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut items = BTreeSet::new();
    for file in sources(&root.join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let declared = items_of(text.split("#[cfg(test)]\nmod tests").next().unwrap());
        // Only these modules are public.
        let is_public = ["src/lib.rs", "src/config/mod.rs"].iter().any(|it| file.ends_with(it));
        items.extend(declared.into_iter().filter(|item| is_public || !item.starts_with("use ")));
    }
    let types: BTreeSet<String> = items.iter().filter_map(|item| type_of(item).map(str::to_owned)).collect();
    items.retain(|item| implemented_for(item).is_none_or(|name| types.contains(name)));
    let listing = items.iter().map(|item| format!("{item}\n")).collect::<String>();
    let path = root.join("public-api.txt");
    if env::var_os(WRITE).is_some() {
        fs::write(&path, &listing).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap();
    let listed: BTreeSet<&str> = listed.lines().collect();
    let items: BTreeSet<&str> = listing.lines().collect();
    let (gone, new): (Vec<_>, Vec<_>) =
        (listed.difference(&items).collect(), items.difference(&listed).collect());
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}\nnew: {new:#?}\nif that is meant, write the listing: {WRITE}=1 cargo test -p byway --test library public_api"
    );
}

/// The name of a type that is declared.
fn type_of(item: &str) -> Option<&str> {
    let name = item.strip_prefix("struct ").or_else(|| item.strip_prefix("enum "))?;
    name.split([' ', ':', '<', '(']).next()
}

/// The name of the type that a trait is implemented for.
fn implemented_for(item: &str) -> Option<&str> {
    let (_, name) = item.strip_prefix("impl")?.split_once(" for ")?;
    name.split([' ', ':', '<']).next()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(
                sources(&path)
                    .into_iter()
                    .filter(|path| !path.components().any(|it| it.as_os_str() == "tests")),
            );
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files
}

/// What a file declares: each item with its attributes, and what is in it with the item's name ahead.
fn items_of(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    // What the lines are in, and whether all of that is public: the variants of an enumeration, and their fields.
    let mut within: Option<(String, bool)> = None;
    let mut variant = String::new();
    let mut attributes = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.starts_with("#[derive") || line == "#[non_exhaustive]" || line.starts_with("#[must_use") {
            attributes += &format!("{} ", whole(line, &mut lines, ")]"));
            continue;
        }
        if line.is_empty() || line.starts_with("//") || line.starts_with("#[") {
            continue;
        }
        let attributes = std::mem::take(&mut attributes);
        let is_public = line.starts_with("pub ");
        match (indent, &within) {
            (0, _) if is_public || line.starts_with("impl") => {
                let ends = if line.starts_with("pub use") { ";" } else { "" };
                let head =
                    if ends.is_empty() { head(line, &mut lines) } else { whole(line, &mut lines, ends) };
                let has_body = !head.ends_with([';', '}']) && !head.starts_with("pub fn");
                let name = head.strip_prefix("pub ").unwrap_or(&head).trim_end_matches(" {").to_owned();
                let of_trait = head.starts_with("impl") && head.contains(" for ");
                if is_public || of_trait {
                    // The fields of a tuple say themselves whether they are public.
                    let shown = match name.split_once('(') {
                        Some((name, fields))
                            if head.starts_with("pub struct") && !fields.contains("pub ") =>
                        {
                            name
                        }
                        _ => &name,
                    };
                    items.push(format!("{shown} {attributes}").trim_end().to_owned());
                }
                within = has_body.then(|| (name, head.starts_with("pub enum")));
            }
            (0, _) if line == "}" || line == ");" => within = None,
            (0, _) => within = None,
            (4, Some((name, _))) if is_public => {
                items.push(format!("{name}: {attributes}{}", head(line, &mut lines)));
            }
            (4, Some((name, true))) if line.starts_with(char::is_uppercase) => {
                variant = line.trim_end_matches(['{', ',', ' ']).to_owned();
                items.push(format!("{name}: {}", variant.replace("#[from] ", "")));
            }
            (8, Some((name, true))) if !line.starts_with(['}', ')', '"']) => {
                items.push(format!("{name}: {variant}: {}", line.trim_end_matches(',')));
            }
            _ => {}
        }
    }
    items
}

/// A declaration up to where its body begins, or it ends.
fn head<'a>(line: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut head = line.to_owned();
    while !head.ends_with(['{', ';', '}']) && !is_field(&head) {
        let Some(next) = lines.next() else { break };
        head += &format!(" {}", next.trim());
    }
    let says_its_value = ["pub const ", "pub type "].iter().any(|word| head.starts_with(word));
    let head = if says_its_value { head.split(" = ").next().unwrap() } else { &head };
    head.trim_end_matches([' ', '{', ',', ';']).to_owned()
}

/// `pub name: Type,`
fn is_field(head: &str) -> bool {
    let name = head.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")).map_or("", |(name, _)| name);
    head.ends_with(',') && !name.is_empty() && name.chars().all(|it| it.is_alphanumeric() || it == '_')
}

/// Something that may go over several lines, up to its end.
fn whole<'a>(line: &'a str, lines: &mut impl Iterator<Item = &'a str>, end: &str) -> String {
    let mut whole = line.to_owned();
    while line != "#[non_exhaustive]" && !whole.ends_with(end) && !whole.ends_with(']') {
        let Some(next) = lines.next() else { break };
        whole += &format!(" {}", next.trim());
    }
    whole
}
