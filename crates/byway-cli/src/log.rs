//! The log of changes: a line for each command that has changed something, for the journal or syslog.

use std::{env, ffi::OsString, fs, io, os::unix::net::UnixDatagram, process};

use nix::unistd::getuid;

/// Where the journal and every syslog listens (syslog(3)).
const SOCKET: &str = "/dev/log";
/// Facility daemon, severity notice (RFC 5424, section 6.2.1).
const PRIORITY: u8 = 3 * 8 + 5;
/// How many lines of what was changed are logged.
const LINES: usize = 3;
/// What no user has as login user: nobody has logged in (credentials of the kernel's audit).
const NO_LOGIN: &str = "4294967295";

/// Logs what this command has changed. It never fails the command, which has done its work.
pub(crate) fn changed(done: &str) {
    let entry = entry(env::args_os().skip(1), done);
    if let Err(error) = send(&entry) {
        anstream::eprintln!(
            "byway: warning: this change is not in the log, since {SOCKET} cannot be written to: {error}"
        );
    }
}

/// Who, by which command, and what it has changed.
fn entry(arguments: impl Iterator<Item = OsString>, done: &str) -> String {
    let login = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    let login = match login.trim() {
        "" | NO_LOGIN => String::new(),
        user => format!(" (login user {user})"),
    };
    let command: Vec<_> = arguments.map(|it| it.to_string_lossy().into_owned()).collect();
    format!("user {}{login}: byway {}: {}", getuid(), command.join(" "), shortened(done))
}

/// The first lines of an answer, in one.
pub(crate) fn shortened(done: &str) -> String {
    let (lines, all) = (done.lines().take(LINES).collect::<Vec<_>>(), done.lines().count());
    let more = if all > LINES { format!("; and {} more", all - LINES) } else { String::new() };
    lines.join("; ") + &more
}

/// Sends one entry in the form of RFC 3164, without the time, which the receiver knows.
fn send(entry: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // Rather no entry than a command that hangs behind a log that nobody reads.
    socket.set_nonblocking(true)?;
    let line: String = entry.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    socket.send_to(format!("<{PRIORITY}>byway[{}]: {line}", process::id()).as_bytes(), SOCKET)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_command_and_a_few_lines_of_what_it_did() {
        let words = ["del", "192.0.2.7"].map(OsString::from);
        let entry = entry(words.into_iter(), "a\nb\nc\nd\ne\n");
        assert!(entry.starts_with(&format!("user {}", getuid())), "{entry}");
        assert!(entry.ends_with(": byway del 192.0.2.7: a; b; c; and 2 more"), "{entry}");
    }
}
