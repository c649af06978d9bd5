//! What comes from outside decides where packets go only if root or the caller has written it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use byway_lab::{seed::Seed, wait_until};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::support::{ANSWER, Said, byway, call, done, pins};

const DROP: &str = "[[rule]]\nfrom = \"192.168.1.5\"\ntarget = \"drop\"\n";
const NOBODY: u32 = 65_534;

/// Each way in which somebody else could say what this host does.
#[test]
fn a_file_that_others_may_write_is_not_applied() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().canonicalize().unwrap();
    let inner = base.join("inner");
    fs::create_dir(&inner).unwrap();
    let (config, list, batch) = (inner.join("byway.toml"), inner.join("list.txt"), inner.join("batch"));
    fs::write(&config, "[[rule]]\nfrom-file = \"list.txt\"\ntarget = \"drop\"\n").unwrap();
    fs::write(&list, "192.168.1.5\n").unwrap();
    fs::write(&batch, "add from 192.168.1.5 drop\n").unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let owner = |path: &Path, owner| chown(path, Some(owner), None).unwrap();
    // What each command says, with short names for the paths.
    let said = |words: &str, path: &Path| -> Said {
        let said = call(&seed.server, &format!("{words} {}", path.display()));
        let short = |text: &str| {
            text.replace(&inner.display().to_string(), "INNER").replace(&base.display().to_string(), "BASE")
        };
        Said { err: short(&said.err), warnings: said.warnings.iter().map(|it| short(it)).collect(), ..said }
    };
    let refused = |sentence: &str| {
        for words in ["apply", "apply --strict", "apply --confirm 60s"] {
            let said = said(words, &config);
            // Of a list, with the place that names it.
            let is_said = sentence.split("; ").all(|part| said.err.contains(part));
            assert!(said.code == Some(2) && said.out.is_empty() && is_said, "{words}: {said:?}");
        }
        for (words, code) in [("diff", 3), ("check --offline", 0)] {
            let said = said(words, &config);
            assert_eq!((said.code, said.err.as_str()), (Some(code), ""), "{words}");
            assert!(said.warnings.contains(&sentence.to_owned()), "{words}: {said:?}");
        }
        assert!(pins().is_empty());
    };
    let accepted = || {
        let said = said("diff", &config);
        assert!(said.warnings.iter().all(|it| !it.contains("belongs to") && !it.contains("may write")));
        done(&seed.server, &format!("apply {}", config.display()));
        done(&seed.server, "flush owner config");
        done(&seed.server, "detach");
        assert!(pins().is_empty());
    };
    accepted();

    for (path, name) in [(&config, "INNER/byway.toml"), (&list, "INNER/list.txt")] {
        owner(path, NOBODY);
        refused(&format!(
            "{name} belongs to user 65534 (mode 0644), who could change what this host does; give it to root: `chown root {name}`"
        ));
        owner(path, 0);
        for (bits, who) in [(0o664, "a group"), (0o646, "everybody"), (0o666, "everybody")] {
            mode(path, bits);
            refused(&format!(
                "{who} may write to {name} (user 0, mode 0{bits:o}), and could change what this host does; take that permission away: `chmod go-w {name}`"
            ));
        }
        mode(path, 0o644);
    }
    let of_folder =
        "keep the file in a folder of root's such as /etc/byway, or read it from standard input: `- < FILE`";
    for (path, name) in [(&inner, "INNER"), (&base, "BASE")] {
        let in_it = format!("{name}, which INNER/byway.toml is in,");
        owner(path, NOBODY);
        mode(path, 0o755);
        refused(&format!(
            "{in_it} belongs to user 65534 (mode 0755), who could change what this host does; {of_folder}"
        ));
        // The owner of a folder with a sticky bit may replace what is in it.
        mode(path, 0o1755);
        refused(&format!(
            "{in_it} belongs to user 65534 (mode 1755), who could change what this host does; {of_folder}"
        ));
        owner(path, 0);
        mode(path, 0o775);
        refused(&format!(
            "a group may write to {name} (user 0, mode 0775), which INNER/byway.toml is in, and could change what this host does; take that permission away: `chmod go-w {name}`"
        ));
        mode(path, 0o1777);
        accepted();
        mode(path, 0o755);
    }
    // By a link as well, whose own folder is safe.
    let (elsewhere, link) = (base.join("elsewhere"), base.join("link.toml"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("byway.toml"), DROP).unwrap();
    mode(&elsewhere, 0o777);
    symlink("elsewhere/byway.toml", &link).unwrap();
    let by_link = said("apply", &link);
    assert_eq!(by_link.code, Some(2));
    assert!(
        by_link.err.contains(
            "everybody may write to BASE/elsewhere (user 0, mode 0777), which BASE/link.toml is in, and could change what this host does;"
        ),
        "{by_link:?}"
    );

    // A batch changes things likewise.
    mode(&batch, 0o664);
    let of_batch = said("-b", &batch);
    let sentence = "byway: a group may write to INNER/batch (user 0, mode 0664), and could change what this host does; take that permission away: `chmod go-w INNER/batch`\n";
    assert_eq!((of_batch.code, of_batch.err.as_str()), (Some(2), sentence));
    assert!(pins().is_empty());

    // Who has sudo writes files of their own.
    owner(&config, NOBODY);
    fs::write(&config, DROP).unwrap();
    let by_sudo = |user: u32| {
        let mut command = byway(&format!("apply {}", config.display()));
        seed.server.output(command.env("SUDO_UID", user.to_string())).unwrap().status.code()
    };
    assert_eq!(by_sudo(NOBODY - 1), Some(2));
    assert!(pins().is_empty());
    assert_eq!(by_sudo(NOBODY), Some(0));
    done(&seed.server, "flush owner config");
    done(&seed.server, "detach");
    assert!(pins().is_empty());

    // What the caller has opened is the caller's choice.
    owner(&config, NOBODY);
    mode(&config, 0o666);
    fs::write(&config, DROP).unwrap();
    let from = |path: &Path, words: &str| -> Said {
        seed.server.output(byway(words).stdin(fs::File::open(path).unwrap())).unwrap().into()
    };
    for path in ["-", "/dev/stdin", "/dev/fd/0"] {
        assert_eq!(from(&config, &format!("apply {path}")).code, Some(0), "{path}");
    }
    assert_eq!(from(&batch, "-b -").code, Some(7));
    assert_eq!(from(&batch, "-b /proc/self/fd/0").code, Some(7));
}

/// Puts something by hand where a file of Byway's is, or nothing.
fn put(path: &Path, what: &str) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    match what {
        "" => {}
        "folder" => fs::create_dir(path).unwrap(),
        "pipe" => mkfifo(path, Mode::S_IRWXU).unwrap(),
        "bytes" => fs::write(path, [0, 255, 27, 10, 128, 13]).unwrap(),
        text => fs::write(path, text).unwrap(),
    }
}

/// Whatever somebody has written to the note of an apply and to the copy of the state before it.
#[test]
fn no_note_leads_to_a_dead_end() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("byway.toml");
    let apply = format!("apply {}", config.display());
    let server = &seed.server;
    let notes = ["folder", "bytes", "1-2", "1-2 3\n", "1-2 999999999999\n"];
    let copies = ["as it was", "", "pipe", "[[rule]]\nfrom = \"192.168.1.5\"\n"];
    for (note_says, copy_says) in notes.iter().flat_map(|note| copies.iter().map(move |copy| (*note, *copy)))
    {
        for end in ["confirm", "rollback"] {
            let case = format!("{note_says:?}, {copy_says:?}, {end}");
            fs::write(&config, DROP).unwrap();
            done(server, &apply);
            fs::write(&config, DROP.replace("1.5", "1.6")).unwrap();
            done(server, &apply);
            let run = PathBuf::from(format!("/run/byway/{}", pins()[0]));
            let (note, copy) = (run.join("unconfirmed"), run.join("before/config.toml"));
            put(&note, note_says);
            if copy_says != "as it was" {
                put(&copy, copy_says);
            }
            let (is_note, is_copy) =
                (note_says.ends_with('\n') && note_says.starts_with("1-2"), copy_says == "as it was");
            let is_overdue = note_says == "1-2 3\n";

            // Who only looks sees everything, and hears what is wrong.
            let said = call(server, "show");
            assert_eq!(said.code, Some(0), "{case}: {said:?}");
            let is_back = is_overdue && is_copy;
            let from = if is_back { "192.168.1.5" } else { "192.168.1.6" };
            assert!(said.out.contains(from), "{case}: {said:?}");
            let of_note =
                |it: &&String| it.contains(&note.display().to_string()) && it.contains("`byway confirm`");
            assert_eq!(
                said.warnings.iter().filter(of_note).count(),
                usize::from(!is_note),
                "{case}: {said:?}"
            );
            let all = said.out + &said.err;
            assert!(!all.contains(['\u{1b}', '\u{0}']), "{case}: {all:?}");
            if is_back {
                assert!(!note.exists());
                continue;
            }

            // Until somebody decides, no apply.
            let said = call(server, &apply);
            assert_eq!(said.code, Some(if is_note { 5 } else { 1 }), "{case}: {said:?}");
            assert!(
                said.err.contains("`byway confirm`") && said.err.contains("`byway rollback`"),
                "{case}: {said:?}"
            );

            let said = call(server, end);
            let expected = match (end, copy_says) {
                ("confirm", _) => Some(0),
                (_, "as it was") => Some(0),
                (_, "") => Some(6),
                _ => Some(1),
            };
            assert_eq!(said.code, expected, "{case}: {said:?}");
            if said.code == Some(1) {
                assert!(said.err.contains(&copy.display().to_string()), "{case}: {said:?}");
                assert!(said.err.contains("`byway confirm` keeps it"), "{case}: {said:?}");
                assert_eq!(call(server, "confirm").code, Some(0), "{case}");
            }
            assert!(note.symlink_metadata().is_err(), "{case}: the note is still there");
            assert_eq!(call(server, "confirm").out, "no apply is waiting to be confirmed\n", "{case}");
            fs::write(&config, DROP.replace("1.5", "1.7")).unwrap();
            done(server, &apply);
            done(server, "rollback");
        }
    }
}

/// What its guard does if the note of its apply is damaged: it goes back, as it has promised.
#[test]
fn a_guard_goes_back_without_its_note() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("byway.toml");
    fs::write(&config, DROP).unwrap();
    done(&seed.server, "add from 192.168.1.7 drop");
    done(&seed.server, &format!("apply --confirm 1h {}", config.display()));
    fs::write(format!("/run/byway/{}/unconfirmed", pins()[0]), "?").unwrap();
    let is_back = || !done(&seed.server, "export").contains("192.168.1.5");
    assert!(wait_until(ANSWER, is_back));
    let said = call(&seed.server, "confirm");
    assert_eq!(said.code, Some(6), "{said:?}");
}

/// The files below a folder, by their names there.
fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => names.extend(files(&path).into_iter().map(|file| format!("{name}/{file}"))),
            false => names.push(name),
        }
    }
    names.sort();
    names
}

/// Each pin in turn is removed by hand. Either the next change makes it anew, or each command names it and what to do.
#[test]
fn a_missing_pin_is_named_and_mended() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("byway.toml");
    let via = "via = \"10.111.221.21\", dev = \"eth1\"";
    let rules = format!(
        "[[rule]]\nfrom = \"192.168.1.5\"\nto = \"10.9.0.0/16\"\ngroup = \"up\"\n[group.up]\nnexthops = [{{ {via} }}]\n"
    );
    fs::write(&config, DROP.replace("1.5", "1.6") + &rules).unwrap();
    let (apply, server) = (format!("apply {}", config.display()), &seed.server);
    done(server, &apply);
    let pinned = || PathBuf::from(format!("/sys/fs/bpf/byway/{}", pins()[0]));
    let mut named = Vec::new();
    for pin in files(&pinned()) {
        let path = pinned().join(&pin);
        if fs::remove_file(&path).is_err() {
            // An older generation's, which has gone meanwhile.
            continue;
        }
        let commands = [
            "show",
            "get 192.168.1.5",
            "diff CONFIG",
            "export",
            "add from 192.168.1.8 drop",
            "del 192.168.1.8",
        ];
        let mut is_named = false;
        for words in commands.map(|words| words.replace("CONFIG", &config.display().to_string())) {
            let said = call(server, &words);
            assert!(matches!(said.code, Some(0 | 1 | 3 | 6 | 7)), "{pin}: byway {words}: {said:?}");
            if said.code == Some(1) {
                let sentence = format!(
                    "byway: the pin {} is missing; remove the pins with `rm -r {}`, and add the rules again, for example with `byway apply`\n",
                    path.display(),
                    pinned().display()
                );
                assert_eq!(said.err, sentence, "{pin}: byway {words}");
                is_named = true;
            } else if words == "show" {
                // What packets find is shown.
                assert!(
                    said.out.contains("192.168.1.6") && said.out.contains("10.9.0.0/16"),
                    "{pin}: {said:?}"
                );
            }
        }
        if is_named {
            assert_ne!(call(server, &apply).code, Some(0), "{pin}");
            fs::remove_dir_all(pinned()).unwrap();
            named.push(pin.clone());
        }
        let mut said = call(server, &apply);
        // Filters outlast the pins, and each is named with the command that removes it. A tcx link goes with its pin, but the
        // kernel lets go of it a little later (`bpf_link_put`), and until then there is no filter that the command could remove.
        let is_free = wait_until(ANSWER, || {
            if let (Some(5), Some(command)) = (said.code, said.err.split('`').nth(1)) {
                assert!(command.starts_with("tc filter del dev eth"), "{pin}: {said:?}");
                server.run(|| Command::new("sh").args(["-c", command]).output().unwrap());
                said = call(server, &apply);
            }
            said.code != Some(5)
        });
        assert!(is_free, "{pin}: {said:?}");
        assert_eq!(said.code, Some(0), "{pin}: {said:?}");
        assert!(done(server, "show").contains("192.168.1.6"), "{pin}");
        assert!(done(server, &format!("diff {}", config.display())).starts_with("nothing differs"), "{pin}");
    }
    for pin in ["META", "SOURCES4", "SETS", "departure", "rules/0", "counters/0"] {
        assert!(named.iter().any(|it| it == pin), "{pin} is not among {named:?}");
    }
    for folder in ["rules", "counters"] {
        fs::remove_dir_all(pinned().join(folder)).unwrap();
    }
    for words in ["show", &apply] {
        let said = call(server, words);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("counters/0 is missing; remove the pins with `rm -r "), "{said:?}");
    }
}
