//! The order of the folders: what is pure imports nothing of the edge, no folder leads back to itself, and the library knows
//! nothing of the command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The folders and files of the crate, each with those that it may import, which stand before it: so there is no circle. What
/// is not named here is a finding.
const MAY_IMPORT: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("error", &["model"]),
    ("grammar", &["model"]),
    ("config", &["error", "grammar", "model"]),
    ("policy", &["config", "error", "model"]),
    ("import", &["config", "error", "model", "policy"]),
    ("kernel", &["config", "error", "import", "model", "policy"]),
    ("show", &["error", "kernel", "model", "policy"]),
    ("handle", &["config", "error", "import", "kernel", "model", "policy", "show"]),
];
/// Those that speak to nothing outside, and the crates that do.
const PURE: [&str; 6] = ["model", "error", "grammar", "config", "policy", "import"];
const OUTSIDE: [&str; 5] = ["nix::", "aya::", "libc::", "byway_netlink::", "std::process"];
/// Where they may be named all the same, and why.
const EXCEPT: [(&str, &str); 3] = [
    ("config/files.rs", "reads files"),
    ("config/trust.rs", "opens them"),
    ("error.rs", "knows the errors of nix by their type"),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

pub(super) fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            all.push(path);
        }
    }
}

/// Every file but `lib.rs`: its path, its folder (or its own name), and its text without tests and comments.
fn texts() -> Vec<(String, String, String)> {
    let mut all = vec![];
    files(&source(), &mut all);
    let text = |path: PathBuf| {
        let relative = path.strip_prefix(source()).unwrap().to_str().unwrap().to_owned();
        let first = relative.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        (relative, first, code.collect::<Vec<_>>().join("\n"))
    };
    all.retain(|path| *path != source().join("lib.rs"));
    all.into_iter().map(text).filter(|(path, ..)| !path.contains("/tests/")).collect()
}

/// The first words of all `crate::…` paths, those within braces included.
fn imports(code: &str) -> BTreeSet<String> {
    let word =
        |text: &str| text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let (mut depth, mut is_first) = (1, true);
        for (nth, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => is_first = true,
                _ if is_first && !letter.is_whitespace() => {
                    found.insert(word(&list[nth..]));
                    is_first = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.retain(|it| it.chars().next().is_some_and(char::is_lowercase));
    found
}

#[test]
fn folders_import_what_is_below_them_and_nothing_else() {
    let may: BTreeMap<&str, &[&str]> = MAY_IMPORT.into();
    for (nth, (folder, allowed)) in MAY_IMPORT.iter().enumerate() {
        let before = MAY_IMPORT[..nth].iter().map(|(folder, _)| folder).collect::<Vec<_>>();
        assert!(allowed.iter().all(|it| before.contains(&it)), "{folder}");
    }
    let mut wrong = vec![];
    for (path, folder, code) in texts() {
        let Some(allowed) = may.get(&*folder) else {
            wrong.push(format!("{path}: its folder has no place in MAY_IMPORT"));
            continue;
        };
        for imported in imports(&code) {
            if imported != folder && !allowed.contains(&&*imported) {
                wrong.push(format!("{path} imports {imported}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn what_is_pure_speaks_to_nothing_outside() {
    let mut wrong = vec![];
    for (path, folder, code) in texts() {
        if !PURE.contains(&&*folder) || EXCEPT.iter().any(|(except, _)| *except == path) {
            continue;
        }
        for outside in OUTSIDE.iter().chain(&["std::fs", "    fs,", "fs::"]) {
            if code.contains(outside) {
                wrong.push(format!("{path}: {outside}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// What a command says of an error, it says itself (`help.rs` of `byway-cli`).
#[test]
fn no_sentence_of_the_library_names_a_command() {
    let texts = texts();
    // Only a string has backquotes.
    let lines = texts.iter().flat_map(|(path, _, code)| code.lines().map(move |line| (path, line)));
    let wrong: Vec<_> = lines.filter(|(_, line)| line.contains("`byway ")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_imports_of_a_text_are_found() {
    let code =
        "use crate::{\n    error::{Error, Result},\n    rule::Rule,\n};\nfn f() { crate::kernel::go() }";
    assert_eq!(imports(code), ["error", "kernel", "rule"].map(str::to_owned).into());
}
