//! ARCHITECTURE.md names what is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file of the project below a folder, but for what is built.
fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            all.push(path);
        } else if path.file_name().is_some_and(|it| it != "target" && it != ".git") {
            files(&path, all);
        }
    }
}

/// What stands between single backquotes, outside of blocks of code.
fn spans(text: &str) -> BTreeSet<&str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

fn is_path(span: &str) -> bool {
    let is_word = |word: &str| word.chars().all(|it| it.is_alphanumeric() || "_-.".contains(it));
    span.contains(['/', '.']) && !span.starts_with('/') && span.split('/').all(is_word)
}

/// The last word of what looks like a path of Rust.
fn name(span: &str) -> Option<&str> {
    let is_name = |word: &str| {
        word.len() > 1
            && word.chars().all(|it| it.is_alphanumeric() || it == '_')
            && !word.starts_with(|it: char| it.is_ascii_digit())
    };
    span.split("::").all(is_name).then(|| span.rsplit("::").next()).flatten()
}

#[test]
fn all_tests_that_replies_names_are_there() {
    let text = fs::read_to_string(root().join("docs/replies.md")).unwrap();
    let (_, tests) = text.split_once("## Tests").unwrap();
    let files = tests.split("](../").skip(1).map(|link| root().join(link.split(')').next().unwrap()));
    let sources: Vec<String> = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let named: Vec<&str> = spans(tests).into_iter().collect();
    assert!(sources.len() > 3 && named.len() > 20, "{named:?}");
    for name in named {
        let test = format!("#[test]\nfn {name}() {{");
        assert!(sources.iter().any(|source| source.contains(&test)), "there is no test {name}");
    }
}

#[test]
fn all_that_the_architecture_names_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut all = vec![];
    files(&root(), &mut all);
    let sources: Vec<String> = all
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "rs" || it == "toml"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let words: BTreeSet<&str> = sources
        .iter()
        .flat_map(|text| text.split(|it: char| !(it.is_alphanumeric() || it == '_')))
        .filter(|word| !word.is_empty())
        .collect();
    let is_file = |span: &str| all.iter().any(|path| path.ends_with(span.trim_end_matches('/')));
    let is_folder = |span: &str| {
        let span = span.trim_end_matches('/');
        all.iter().any(|path| path.ancestors().any(|folder| folder.ends_with(span)))
    };
    let missing: Vec<&str> = spans(&text)
        .into_iter()
        .filter(|span| match name(span) {
            _ if is_path(span) => !is_file(span) && !is_folder(span),
            Some(name) => !words.contains(name) && !is_folder(span),
            None => false,
        })
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// The files of a folder of the library, without those that only put others together.
fn parts(folder: &Path) -> impl Iterator<Item = String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".rs") && !["mod.rs", "tests.rs"].contains(&name.as_str()))
}

/// Its tree is of the folders as they are: where it lists one file of a folder, it lists all.
#[test]
fn the_tree_of_the_architecture_lists_all() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let tree = text.split("### Inside the library").nth(1).unwrap().split("```").nth(1).unwrap();
    let sources = root().join("crates/byway/src");
    let listed: BTreeSet<&str> = tree
        .split(|it: char| it.is_whitespace() || ",:;".contains(it))
        .filter(|it| it.ends_with(".rs"))
        .collect();
    for folder in [
        "config",
        "config/parse",
        "policy",
        "policy/source_table",
        "grammar",
        "kernel",
        "kernel/execute",
        "show",
        "show/get",
        "handle",
    ] {
        let last = folder.rsplit('/').next().unwrap();
        for name in parts(&sources.join(folder)) {
            let is_listed =
                listed.contains(name.as_str()) || listed.contains(format!("{last}/{name}").as_str());
            assert!(is_listed, "{folder}/{name} is not in ARCHITECTURE.md");
        }
    }
    let mut all = vec![];
    files(&sources, &mut all);
    for name in listed {
        assert!(all.iter().any(|path| path.ends_with(name)), "ARCHITECTURE.md lists {name}, which is gone");
    }
}

#[test]
fn the_architecture_names_each_pinned_map() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let pins = text.split("/sys/fs/bpf/byway/").nth(1).unwrap().split("```").next().unwrap();
    let tables = fs::read_to_string(root().join("crates/byway/src/kernel/tables.rs")).unwrap();
    let names = tables.split("NAMES: [&str; ").nth(1).unwrap().split(';').next().unwrap();
    let names: Vec<&str> = names.split('"').skip(1).step_by(2).chain(["NAMESPACE"]).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(pins.split_whitespace().any(|it| it == name), "{name} is not in ARCHITECTURE.md");
    }
}

/// Each limit says how one notices it, why it is there, and what to do.
#[test]
fn each_limit_has_a_symptom_a_cause_and_a_cure() {
    let text = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let limits: Vec<&str> =
        text.split("\n### ").skip(1).map(|it| it.split("\n## ").next().unwrap()).collect();
    assert!(limits.len() > 50, "{}", limits.len());
    for limit in limits {
        let title = limit.lines().next().unwrap();
        for part in ["* **Symptom:** ", "* **Cause:** ", "* **Cure:** "] {
            assert_eq!(limit.matches(part).count(), 1, "{part}in \"{title}\"");
        }
    }
}

#[test]
fn spans_are_found() {
    let text = "a `b.rs` and `Cc::dd`\n```text\n`e`\n```\n`f g`";
    assert_eq!(spans(text), ["b.rs", "Cc::dd", "f g"].into());
    assert_eq!((is_path("b.rs"), name("Cc::dd"), name("f g")), (true, Some("dd"), None));
}
