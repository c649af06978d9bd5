//! The pages say what the commands print.
//!
//! Each page has a test, which runs its blocks one after the other, as somebody would who reads it on the server of the
//! README's picture: in one `bash`, on a terminal of 100 columns, with files of its own in `/etc` and `/root`.
//!
//! | block | |
//! |---|---|
//! | `console` | commands behind a prompt (`# ` or `$ `), and what they print. A line `...` stands for any number of lines |
//! | `sh`, or indented | commands that must succeed; what they print does not matter |
//! | `toml` | a configuration in which `byway check --offline` finds no error |
//! | `json` | JSON |
//! | `rust` | the example of the library, which its documentation test compiles |
//! | `text` | a picture, a sentence or a file, but no commands |
//!
//! A comment before a block can say more. It is not seen on the page:
//!
//! ```text
//! <!-- not run: REASON -->     do not run the next block
//! <!-- file: PATH -->          first write the next block to this file
//! <!-- run: COMMANDS -->       run these commands, which must succeed: what the prose says that somebody does
//! ```
//!
//! `BYWAY_WRITE_DOCS=1 cargo test -p byway-cli docs` writes what the commands print into the pages. Read the change
//! before you commit it.

mod compare;
mod page;
mod shell;

use std::{
    fs,
    path::{Path, PathBuf},
};

use byway_lab::{Lab, seed::Seed};

use page::{Action, Page};

/// A test for each page. `as` says what the names of the hosts in `ip netns` begin with: those of `byway demo --keep`
/// where the page is written for them.
macro_rules! pages {
    ($($test:ident: $path:literal $(as $prefix:literal)?;)*) => {
        const PAGES: &[&str] = &[$($path),*];

        $(#[test]
        fn $test() {
            let prefix = None::<&str>;
            $(let prefix = prefix.or(Some($prefix));)?
            says_what_is_printed($path, prefix);
        })*
    };
}

pages! {
    configuration: "docs/configuration.md";
    faq: "docs/faq.md";
    guide: "docs/guide.md" as "byway-demo";
    import: "docs/import.md";
    install: "docs/install.md";
    iproute2: "docs/iproute2.md";
    json: "docs/json.md";
    limits: "docs/limits.md";
    metrics: "docs/metrics.md";
    operate: "docs/operate.md";
    performance: "docs/performance.md";
    readme: "README.md";
    replies: "docs/replies.md";
    see: "docs/see.md";
    validate: "validate/README.md";
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn no_page_is_forgotten() {
    let mut pages = vec!["README.md".to_owned(), "validate/README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        pages.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    pages.sort();
    let mut tested = PAGES.to_vec();
    tested.sort_unstable();
    assert_eq!(pages, tested, "add the page to `pages!`");
}

fn says_what_is_printed(path: &str, prefix: Option<&str>) {
    if std::env::var_os("BYWAY_EMULATED").is_some() {
        println!("{path}: not compared: it says what is printed with tcx, and in the time of a real machine");
        return;
    }
    let file = root().join(path);
    let page = Page::read(path, fs::read_to_string(&file).unwrap());
    for block in &page.blocks {
        if let Action::NotRun(reason) = &block.action {
            println!("{path}:{}: not run: {reason}", block.line);
        }
    }

    let _private = Lab::new().unwrap();
    let lab = match prefix {
        Some(prefix) => Lab::named(prefix),
        None => Lab::new(),
    };
    let seed = Seed::build(lab.unwrap()).unwrap();
    let printed = shell::run(&seed.server, &page);
    let faults = compare::faults(&page, &printed);
    if std::env::var_os("BYWAY_WRITE_DOCS").is_some() {
        fs::write(&file, compare::rewritten(&page, &printed)).unwrap();
    }
    assert!(
        faults.is_empty(),
        "{}\nIf the page is wrong: BYWAY_WRITE_DOCS=1 cargo test -p byway-cli docs",
        faults.join("\n")
    );
}
