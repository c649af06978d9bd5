//! A terminal of a certain size, in which a person sees what a command prints and types what it reads.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::Instant,
};

use byway_lab::{Node, Process};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{Winsize, openpty},
};

use crate::support::ANSWER;

pub(crate) struct Terminal {
    /// The side of the person.
    screen: File,
    pub(crate) process: Process,
    /// What has been printed and not been looked at.
    printed: Vec<u8>,
}

impl Terminal {
    /// Starts a command in a host.
    pub(crate) fn start(node: &Node, command: &mut Command, (columns, rows): (u16, u16)) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side()).env("TERM", "xterm");
        let process = node.start(command).unwrap();
        // The end of the output is seen when nobody has the other side open any more.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { screen: pty.master.into(), process, printed: vec![] }
    }

    /// Gives it another size, and the kernel tells those who run in it (SIGWINCH, ioctl_tty(2)).
    pub(crate) fn resize(&self, (columns, rows): (u16, u16)) {
        let words = format!("cols {columns} rows {rows}");
        let mut stty = Command::new("stty");
        assert!(
            stty.args(words.split(' ')).stdin(self.screen.try_clone().unwrap()).status().unwrap().success()
        );
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Everything up to a text, and with it, as it is printed; or up to the end, with `None`.
    pub(crate) fn until(&mut self, text: Option<&str>) -> String {
        let deadline = Instant::now() + ANSWER;
        loop {
            let printed = String::from_utf8_lossy(&self.printed).into_owned();
            if let Some(at) = text.and_then(|text| Some(printed.find(text)? + text.len())) {
                self.printed.drain(..at);
                return printed[..at].to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut readable = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut readable, PollTimeout::try_from(left).unwrap()).unwrap();
            assert!(ready > 0, "waits for {text:?} behind:\n{printed}");
            let mut some = [0; 4096];
            match self.screen.read(&mut some) {
                Ok(length) => self.printed.extend_from_slice(&some[..length]),
                // Nobody has the other side open any more.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    assert_eq!(text, None, "ended behind:\n{printed}");
                    return printed;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The lines as a person sees them: without colours and carriage returns.
pub(crate) fn lines(printed: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = printed;
    while let Some(at) = rest.find("\x1b[") {
        plain += &rest[..at];
        let sequence = &rest[at + 2..];
        let end = sequence.find(|it: char| ('@'..='~').contains(&it)).unwrap_or(sequence.len() - 1);
        rest = &sequence[end + 1..];
    }
    plain += rest;
    plain.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}
