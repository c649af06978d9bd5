//! Runs the blocks of a page in one shell, on a terminal.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::Read,
    path::Path,
    process::{self, Stdio},
};

use byway_lab::Node;
use nix::pty::{Winsize, openpty};
use regex_lite::Regex;

use super::page::{Action, Page, quoted};

/// What ends the output of a command in the stream.
const MARK: char = '\u{1e}';

/// What the terminal has: as many columns as the widest table of the pages.
const SIZE: Winsize = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };

/// Longer than any page takes, by far. Only a page that hangs waits for it.
const SECONDS: &str = "100";

/// The host's `/etc` and an empty `/root`, to write to: only this lab sees it.
const FILES: &str = "mkdir -p /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
rm -rf /etc/byway; mkdir /etc/byway
mount -t tmpfs tmpfs /root
cd
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap 'failed=${failed:-$BASH_COMMAND}' ERR
";

/// What a command has printed, and how it ended.
pub(super) struct Printed {
    pub(super) text: String,
    pub(super) status: i32,
    /// The first of several commands that failed.
    pub(super) failed: String,
}

/// Runs each command of a page. If the shell ends early, there are fewer results than commands.
pub(super) fn run(node: &Node, page: &Page) -> Vec<Printed> {
    let mut script = FILES.to_owned();
    let mut add = |command: &str| {
        script += &format!(
            "failed=\neval {}\nprintf '{MARK}%s %s{MARK}' $? \"$failed\"\n",
            quoted(command.trim_end())
        );
    };
    for block in &page.blocks {
        match &block.action {
            Action::Compare(commands) => commands.iter().for_each(|command| add(&command.text)),
            Action::Run(commands) => add(commands),
            Action::NotRun(_) => {}
        }
    }
    // The lab's own.
    let file = Path::new("/run/page");
    fs::write(file, script).unwrap();

    let terminal = openpty(&SIZE, None).unwrap();
    let side = || terminal.slave.try_clone().unwrap();
    let mut shell = process::Command::new("timeout");
    shell.args(["--kill-after=1", SECONDS, "bash"]).arg(file);
    shell.env_clear().env("PATH", path()).env("HOME", "/root").env("LC_ALL", "C.UTF-8");
    shell.env("TERM", "xterm");
    let mut child = node.start(shell.stdin(Stdio::null()).stdout(side()).stderr(side())).unwrap();
    // The command holds the terminal as well.
    drop((shell, terminal.slave));
    let mut all = Vec::new();
    // The end is EIO: nobody has the other side any more (pty(7)).
    let _ = File::from(terminal.master).read_to_end(&mut all);
    child.wait().unwrap();

    let all = String::from_utf8(all).unwrap().replace("\r\n", "\n");
    // What one sees in the end: a line that was erased (a bar of progress, on a slow machine) is gone (ECMA-48, EL), and a
    // page has no colours (SGR).
    let all = Regex::new(r"[^\n\x1e]*\x1b\[2K|\x1b\[[0-9;]*m").unwrap().replace_all(&all, "");
    let parts: Vec<&str> = all.split(MARK).collect();
    parts
        .chunks_exact(2)
        .map(|part| {
            let (status, failed) = part[1].split_once(' ').unwrap();
            let (text, failed) = (part[0].to_owned(), failed.to_owned());
            Printed { text, status: status.parse().unwrap(), failed }
        })
        .collect()
}

/// Where the shell looks for programs: first for the command under test.
fn path() -> OsString {
    let mut path = OsString::from(Path::new(env!("CARGO_BIN_EXE_byway")).parent().unwrap());
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}
