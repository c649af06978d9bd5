//! `show --watch` on a terminal.

use std::{fs, process::Command, time::SystemTime};

use byway_lab::seed::Seed;

use crate::{
    support::done,
    terminal::{Terminal, lines},
};

/// More than fit any of the screens.
const RULES: usize = 200;

/// Takes a screen of its own, and gives back what was there.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The rest of what is printed, without the key that ended it. The kernel prints that before the program is gone or after
/// (`n_tty_receive_signal_char`, drivers/tty/n_tty.c).
fn rest(terminal: &mut Terminal) -> String {
    terminal.until(None).replace("^C", "")
}

/// The time in UTC, to the second. Such texts are in the order of their times.
fn time() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// What is drawn at a time, as a person sees it.
fn look(terminal: &mut Terminal) -> Vec<String> {
    let printed = terminal.until(Some("\x1b[J"));
    assert!(printed.starts_with("\x1b[H"), "{printed:?}");
    lines(&printed)
}

#[test]
fn a_watch_fits_its_screen_and_gives_it_back() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let batch = folder.path().join("batch");
    fs::write(&batch, (0..RULES).map(|nth| format!("add 10.0.0.{nth} drop\n")).collect::<String>()).unwrap();
    done(&seed.server, &format!("-q -b {}", batch.display()));
    // The terminal is that of a session, so that it turns keys and sizes into signals.
    let mut command = Command::new("setsid");
    // Whoever started the tests may ignore them.
    command.args(["--ctty", "--wait", "env", "--default-signal=INT,QUIT", env!("CARGO_BIN_EXE_byway")]);
    command.args(["show", "--watch=0.1"]).env("TZ", "UTC0");
    let started = time();
    let mut terminal = Terminal::start(&seed.server, &mut command, (80, 24));
    assert_eq!(terminal.until(Some(ENTER)), ENTER, "nothing is drawn on the screen that was there");
    for (columns, rows) in [(80, 24), (40, 12), (120, 50), (80, 24)] {
        terminal.resize((columns, rows));
        // Some of the size before may be under way.
        let fits = |lines: &Vec<String>| {
            lines.len() == usize::from(rows) - 1
                && lines.iter().all(|line| line.chars().count() <= usize::from(columns))
        };
        let looks: Vec<Vec<String>> = (0..8).map(|_| look(&mut terminal)).collect();
        let first = looks.iter().position(fits).unwrap_or_else(|| panic!("{columns}x{rows}: {looks:#?}"));
        for look in &looks[first..] {
            assert!(fits(look), "{columns}x{rows}: {look:#?}");
            let shown = look.iter().filter(|line| line.starts_with("10.0.0.")).count();
            let foot = format!("{RULES} rules, these are the {shown} busiest");
            assert!(look.contains(&foot), "{foot}: {look:#?}");
            assert!(look.iter().any(|line| line.starts_with("FROM ")), "{look:#?}");
            let title = look[0].strip_prefix("Every 100ms ").unwrap_or_else(|| panic!("{look:#?}"));
            let said = title.trim_start();
            assert!(said >= started.as_str() && said <= time().as_str(), "{look:#?}");
            assert_eq!((look[0].chars().count(), look[1].as_str()), (columns.into(), ""), "{look:#?}");
        }
    }
    terminal.types("\x03");
    let rest = rest(&mut terminal);
    assert!(rest.ends_with(LEAVE), "{rest:?}");
}

/// What a shell starts behind `&` ignores the keys that interrupt.
#[test]
fn a_watch_goes_on_after_a_signal_that_it_ignores() {
    let seed = Seed::new().unwrap();
    done(&seed.server, "add 10.0.0.1 drop");
    let mut command = Command::new("setsid");
    command.args([
        "--ctty",
        "--wait",
        "env",
        "--default-signal=INT",
        "--ignore-signal=QUIT",
        env!("CARGO_BIN_EXE_byway"),
    ]);
    command.args(["show", "--watch=0.1"]);
    let mut terminal = Terminal::start(&seed.server, &mut command, (80, 24));
    terminal.until(Some(ENTER));
    terminal.types("\x1c");
    terminal.until(Some(LEAVE));
    let between = terminal.until(Some(ENTER)).replace("^\\", "");
    assert_eq!(between, ENTER, "nothing is drawn on the screen that was there");
    assert!(look(&mut terminal)[0].starts_with("Every 100ms "));
    terminal.types("\x03");
    let rest = rest(&mut terminal);
    assert!(rest.ends_with(LEAVE), "{rest:?}");
}

#[test]
fn a_watch_that_fails_says_so_on_the_screen_that_was_there() {
    let seed = Seed::new().unwrap();
    done(&seed.server, "add 10.0.0.1 drop");
    let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
    let mut terminal =
        Terminal::start(&seed.server, command.args(["show", "10.0.0.1", "--watch=0.2"]), (80, 24));
    terminal.until(Some("\x1b[J"));
    done(&seed.server, "del 10.0.0.1");
    let rest = terminal.until(None);
    assert!(rest.contains("\x1b[?1049lbyway: there is no rule from 10.0.0.1"), "{rest:?}");
}
