//! `byway demo`.

use byway_lab::seed::Seed;

use crate::{
    support::{ANSWER, byway, call, pins},
    terminal::{Terminal, lines},
};

#[test]
fn it_shows_the_failure_and_the_cure() {
    let seed = Seed::new().unwrap(); // the demo makes a lab of its own inside
    let said = call(&seed.client, "demo");
    assert_eq!(said.code, Some(0), "{said:?}");
    for line in [
        "   ✗ no connection within 1.2 s",
        "   ✓ Seen: the failure before, and the success after, for IPv4 and for IPv6.",
        "   Removed: rules, programs and hosts. Nothing is left of this on the machine.",
    ] {
        assert!(said.out.lines().any(|it| it == line), "{line:?} is missing in:\n{}", said.out);
    }
    // Commands begin with the path of this binary, however long it is.
    let is_narrow = |line: &str| line.starts_with("   $ ") || line.chars().count() <= 80;
    assert!(said.out.lines().all(is_narrow), "{}", said.out);
    let json: serde_json::Value = serde_json::from_str(&call(&seed.client, "--json demo").out).unwrap();
    for family in ["ipv4", "ipv6"] {
        assert_eq!(json[family]["failed_before"], true);
        assert_eq!(json[family]["worked_after"], true);
        assert_eq!(json[family]["worked_with_reply_to"], true);
        assert!(json[family]["lost_replies"].as_u64().unwrap() > 0);
        assert_eq!(json[family]["departed"], json[family]["arrived"]);
    }
    assert_eq!(pins(), Vec::<String>::new());
}

/// On a screen of 80 columns and 24 rows it is told in six scenes, each of which fits, and all but the last two of which
/// show the picture.
#[test]
fn it_fits_a_screen() {
    const CLEARED: &str = "\x1b[H\x1b[J";
    let seed = Seed::new().unwrap();
    let mut terminal = Terminal::start(&seed.client, &mut byway("demo"), (80, 24));
    let mut scenes = vec![];
    for _ in 0..5 {
        terminal.until(Some(CLEARED));
        scenes.push(terminal.until(Some("Press Enter to go on. ")));
        terminal.types("\n");
    }
    terminal.until(Some(CLEARED));
    scenes.push(terminal.until(None));
    assert_eq!(terminal.process.wait_for(ANSWER).unwrap().code(), Some(0));
    for scene in &scenes {
        let lines = lines(scene);
        let is_narrow = |line: &String| line.starts_with("   $ ") || line.chars().count() <= 80;
        assert!(lines.len() <= 23 && lines.iter().all(is_narrow), "{lines:#?}");
    }
    let with_picture = scenes.iter().filter(|it| it.contains("│ server ├──")).count();
    assert_eq!(with_picture, 4);
    assert!(scenes[5].contains("✓ Seen"), "{}", scenes[5]);
}

/// On a smaller one it is told as into a pipe, without a stop.
#[test]
fn a_small_screen_scrolls() {
    let seed = Seed::new().unwrap();
    let mut terminal = Terminal::start(&seed.client, &mut byway("demo"), (80, 20));
    let told = terminal.until(None);
    assert!(told.contains("✓ Seen") && !told.contains("\x1b[J"), "{told}");
}
