//! `--log`.

use std::{fs, os::unix::net::UnixDatagram};

use byway_lab::{seed::Seed, wait_until};
use nix::mount::{MsFlags, mount};

use crate::support::{ANSWER, call, done, refused};

/// The log of this lab alone: only its processes see this `/dev`.
fn log() -> UnixDatagram {
    for folder in ["/run/dev/upper", "/run/dev/work"] {
        fs::create_dir_all(folder).unwrap();
    }
    let folders = Some("lowerdir=/dev,upperdir=/run/dev/upper,workdir=/run/dev/work");
    mount(Some("overlay"), "/dev", Some("overlay"), MsFlags::empty(), folders).unwrap();
    let _ = fs::remove_file("/dev/log");
    let log = UnixDatagram::bind("/dev/log").unwrap();
    log.set_nonblocking(true).unwrap();
    log
}

/// The next entry, without the number of the process.
fn entry(log: &UnixDatagram) -> Option<String> {
    let mut bytes = [0; 4096];
    let length = log.recv(&mut bytes).ok()?;
    let entry = std::str::from_utf8(&bytes[..length]).unwrap();
    let (head, rest) = entry.split_once("]: ").unwrap();
    assert!(head.starts_with("<29>byway["), "{entry}");
    Some(rest.to_owned())
}

#[test]
fn it_says_who_has_changed_what() {
    let seed = Seed::new().unwrap();
    let (server, log) = (&seed.server, log());
    let next = || entry(&log).map(|entry| entry[entry.find("byway").unwrap()..].to_owned());

    done(server, "--log add from 192.168.1.6 drop");
    let first = entry(&log).unwrap();
    assert!(first.starts_with("user 0"), "{first}");
    let did = ": byway --log add from 192.168.1.6 drop: added: from 192.168.1.6 drop; attached to eth0";
    assert!(first.ends_with(did), "{first}");

    // What only reads, is refused, or is not to be logged.
    done(server, "--log show");
    done(server, "--log gc");
    refused(server, "--log add from 192.168.1.6 drop");
    done(server, "replace from 192.168.1.6 pass");
    assert_eq!(next(), None);

    let file = "/run/byway.toml";
    fs::write(file, "[[rule]]\nfrom = [\"192.168.1.7\", \"192.168.1.8\"]\ntarget = \"drop\"\n").unwrap();
    let apply = format!("--log apply {file}");
    done(server, &apply);
    let said = "2 rules added, 0 changed, 0 deleted; 0 stayed as they were";
    assert_eq!(next().unwrap(), format!("byway {apply}: {said}"));
    done(server, &apply);
    assert_eq!(next(), None, "there was nothing to do");

    fs::write(file, "").unwrap();
    done(server, &format!("--log apply {file} --confirm 1s"));
    assert!(next().unwrap().ends_with("0 rules added, 0 changed, 2 deleted; 0 stayed as they were"));
    let mut last = None;
    let is_there = || {
        last = next();
        last.is_some()
    };
    assert!(wait_until(ANSWER, is_there), "the guard has said nothing");
    let last = last.unwrap();
    assert!(last.ends_with(": nobody confirmed the last apply in time, so it was rolled back"), "{last}");

    done(server, "--log flush");
    assert_eq!(next().unwrap(), "byway --log flush: deleted 3 rules");
}

#[test]
fn a_log_that_takes_nothing_fails_no_command() {
    let seed = Seed::new().unwrap();
    drop(log());
    let said = call(&seed.server, "--log add from 192.168.1.6 drop");
    let added = "added: from 192.168.1.6 drop\nattached to eth0\n";
    assert_eq!((said.code, said.out.as_str()), (Some(0), added), "{said:?}");
    let warning = "this change is not in the log, since /dev/log cannot be written to: Connection refused (os error 111)";
    assert!(said.warnings.iter().any(|it| it == warning), "{said:?}");
}
