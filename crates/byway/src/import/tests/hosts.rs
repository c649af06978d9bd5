//! Hosts as people have them, each a file: what `ip` prints there, and what is made of it.

use std::{fs, path::Path};

use super::{host::host, says};
use crate::import::translate;

/// The lines of a host end here, and the text without its header begins.
const SEPARATOR: &str = "---- byway import\n";

#[test]
fn hosts_are_said_in_byways_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import/tests/hosts");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 12);
    for path in files {
        let file = fs::read_to_string(&path).unwrap();
        let (input, expected) = file.split_once(SEPARATOR).unwrap();
        let imported = translate(&host(input));
        let counted = format!(
            "{} imported, {} left out, {} without equivalent\n",
            imported.imported, imported.left_out, imported.without_equivalent
        );
        let text = imported.to_string();
        let (_, body) = text.split_once("main table.\n").unwrap();
        assert_eq!(format!("{counted}{body}"), expected, "{}", path.display());
        assert!(text.lines().all(|line| !line.starts_with('#') || line.len() < 130), "{text}");
        says(&text, &imported.config());
    }
}
