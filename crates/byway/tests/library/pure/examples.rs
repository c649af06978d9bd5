//! The configurations in `examples/` are right.

use std::{fs, path::Path};

use byway::inspect_config;

#[test]
fn nothing_is_wrong_with_the_examples() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut rules = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let reading = inspect_config(&path).unwrap();
            assert!(reading.problems.is_empty(), "{}: {:?}", path.display(), reading.problems);
            rules += reading.config.unwrap().rule_count();
        }
    }
    assert!(rules > 10_000);
}
