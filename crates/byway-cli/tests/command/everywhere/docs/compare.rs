//! What a page says, and what was printed.

use std::sync::LazyLock;

use regex_lite::Regex;
use similar::TextDiff;

use super::{
    page::{Action, Block, Command, Page},
    shell::Printed,
};

/// What differs from one run to the next, and why. Everything else has to be the same.
const VARIES: &[(&str, &str)] = &[
    // Times, as ping(8) and the demo measure them.
    (r"\b\d+(\.\d+)?(/\d+\.\d+)* ?ms\b", "TIME"),
    // Random addresses of devices.
    (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "MAC"),
    // bpftool: the kernel counts programs, and a tag is a hash of the program's code.
    (r"^\d+: sched_cls\b", "ID: sched_cls"),
    (r"\btag [0-9a-f]{16}\b", "tag TAG"),
    // tcpdump: the random number of a ping.
    (r"\bid \d+, seq \d+\b", "id ID, seq N"),
    // ip neighbour: it depends on how long ago the neighbour was heard of.
    (r"\b(REACHABLE|STALE|DELAY|PROBE)\b", "STATE"),
    // What the kernel sends by itself, and when it likes: ARP, neighbour discovery, MLD.
    (r"^(seen|neither IPv4 nor IPv6|multicast|neighbour discovery) +\d+$", "$1 N"),
    // Spaces that nobody sees.
    (r"\s+$", ""),
];

/// The lines without what differs from one run to the next.
fn lines(text: &str) -> Vec<String> {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> =
        LazyLock::new(|| VARIES.iter().map(|(it, name)| (Regex::new(it).unwrap(), *name)).collect());
    let plain = |line: &str| {
        PATTERNS.iter().fold(line.to_owned(), |line, (it, name)| it.replace_all(&line, *name).into_owned())
    };
    text.lines().map(plain).collect()
}

/// Whether the page has these lines. `...` on it stands for any number of them.
fn fits(page: &[String], printed: &[String]) -> bool {
    match page.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "..." => (0..=printed.len()).any(|cut| fits(rest, &printed[cut..])),
        Some((line, rest)) => printed.first() == Some(line) && fits(rest, &printed[1..]),
    }
}

/// The commands in the order in which they ran, each with its block and, if it is in a transcript, itself.
fn commands(page: &Page) -> impl Iterator<Item = (&Block, Option<&Command>)> {
    page.blocks.iter().flat_map(|block| -> Vec<_> {
        match &block.action {
            Action::Compare(commands) => commands.iter().map(|command| (block, Some(command))).collect(),
            Action::Run(_) => vec![(block, None)],
            Action::NotRun(_) => vec![],
        }
    })
}

/// What is wrong with the page, in the order of its lines.
pub(super) fn faults(page: &Page, printed: &[Printed]) -> Vec<String> {
    let mut printed = printed.iter();
    let mut faults = Vec::new();
    for (block, command) in commands(page) {
        let place = format!("{}:{}", page.path, block.line);
        let Some(printed) = printed.next() else {
            faults.push(format!("{place}: the shell ended here, or hung"));
            break;
        };
        match command {
            Some(command) => {
                let shown = &page.text[command.output.clone()];
                if !fits(&lines(shown), &lines(&printed.text)) {
                    let diff = TextDiff::from_lines(shown, &printed.text);
                    let diff = diff.unified_diff().header("the page", "printed").to_string();
                    faults.push(format!("{place}: {}\n{diff}", command.text.trim_end()));
                }
            }
            None if printed.failed.is_empty() && printed.status == 0 => {}
            None => faults.push(format!(
                "{place}: failed with status {}: {}\n{}",
                printed.status, printed.failed, printed.text
            )),
        }
    }
    faults
}

/// The page with what was printed. What is right stays as it is, with its `...`.
pub(super) fn rewritten(page: &Page, printed: &[Printed]) -> String {
    let mut text = String::new();
    let mut done = 0;
    for ((_, command), printed) in commands(page).zip(printed) {
        let Some(command) = command else { continue };
        if !fits(&lines(&page.text[command.output.clone()]), &lines(&printed.text)) {
            text += &page.text[done..command.output.start];
            printed.text.lines().for_each(|line| text = format!("{text}{}\n", line.trim_end()));
            done = command.output.end;
        }
    }
    text + &page.text[done..]
}
