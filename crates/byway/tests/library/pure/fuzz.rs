//! What `cargo xtask fuzz` asks of random texts, asked of its corpus and of what is near to that.

use std::{fs, path::PathBuf};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

#[allow(unreachable_pub)] // it is a crate of its own as well
#[path = "../../../../../fuzz/src/lib.rs"]
mod any_text;

fn corpus(target: &str) -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let texts: Vec<String> = files.filter_map(|path| fs::read_to_string(path).ok()).collect();
    assert!(texts.len() > 5, "{}", folder.display());
    texts
}

/// Each text of the corpus, and texts that are put together of parts of them.
fn ask(target: &str, holds: fn(&str)) {
    let texts = corpus(target);
    texts.iter().for_each(|text| holds(text));
    let pieces: Vec<&str> = texts.iter().flat_map(|text| text.split_inclusive(char::is_whitespace)).collect();
    let some = prop::collection::vec(any::<Index>(), 0..12);
    let place = (any::<Index>(), any::<Index>(), some);
    TestRunner::new(ProptestConfig::with_cases(2_000))
        .run(&place, |(text, at, put_in)| {
            let words: Vec<&str> = text.get(&texts).split_inclusive(char::is_whitespace).collect();
            let at = at.index(words.len() + 1);
            let put_in = put_in.iter().map(|piece| *piece.get(&pieces));
            // What is put in takes the place of as many words, or comes between them.
            let behind = if at % 2 == 0 { at } else { (at + put_in.len()).min(words.len()) };
            let mutated: String =
                words[..at].iter().copied().chain(put_in).chain(words[behind..].iter().copied()).collect();
            holds(&mutated);
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_is_near_to_a_configuration_is_read_or_refused() {
    ask("config", any_text::as_config);
}

#[test]
fn what_is_near_to_a_command_is_understood_or_refused() {
    ask("grammar", any_text::as_words);
}
