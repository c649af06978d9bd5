//! `byway check`: what it says of files, good, bad and none at all. It needs neither privilege nor kernel.

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::{PermissionsExt, chown, lchown, symlink},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::support::{Said, byway_as_nobody};

fn check(words: &[&str], path: &Path) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
    command.args(words).args(["check", "--offline"]).arg(path).output().unwrap().into()
}

/// What is said of a path that cannot be read.
fn refused(path: &Path) -> String {
    let start = Instant::now();
    let said = check(&[], path);
    assert!(start.elapsed() < Duration::from_secs(10));
    let code = if said.err.contains("there is no file") { 6 } else { 2 };
    assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{said:?}");
    let sentence = said.err.strip_prefix("byway: ").unwrap().strip_suffix('\n').unwrap();
    sentence.replace(&path.display().to_string(), "FILE")
}

#[test]
fn each_problem_is_shown_with_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[[rule]]\nfrom = \"192.0.2.7/24\"\ngateway = \"10.0.0.1\"\n").unwrap();
    let said = check(&[], &path);
    assert_eq!(said.code, Some(2));
    let file = path.display().to_string();
    assert_eq!(said.out, format!("{file}: 2 errors\n"));
    let expected = "\
error: `192.0.2.7/24` has bits set beyond its length of 24
 --> FILE:2:8
  |
2 | from = \"192.0.2.7/24\"
  |        ^^^^^^^^^^^^^^
  |
  = help: did you mean 192.0.2.0/24?

error: a rule has no key `gateway`
 --> FILE:3:1
  |
3 | gateway = \"10.0.0.1\"
  | ^^^^^^^
  |
  = help: did you mean `via`?

";
    assert_eq!(said.err.replace(&file, "FILE"), expected);
    // Whatever else asks for it says the same, and changes nothing.
    let json: serde_json::Value = serde_json::from_str(&check(&["--json"], &path).out).unwrap();
    assert_eq!(json["problems"][1]["message"], "a rule has no key `gateway`");
    assert_eq!(json["problems"][1]["place"]["line"], 3);
    assert_eq!(json["problems"][1]["place"]["text"], "gateway");
    assert_eq!(json["rules"], serde_json::Value::Null);
}

#[test]
fn warnings_are_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[group.up]\nnexthops = [{ dev = \"eth1\" }]\n").unwrap();
    let said = check(&[], &path);
    assert_eq!(said.code, Some(0));
    assert_eq!(said.out, format!("{}: 0 rules, 1 group, 1 warning\n", path.display()));
    assert!(said.err.starts_with("warning: no rule of the configuration uses the group up\n"), "{said:?}");
}

/// Drop-ins and lists belong to it.
#[test]
fn all_files_of_a_configuration_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    let parts = folder.path().join("byway.d");
    fs::create_dir(&parts).unwrap();
    fs::write(&path, "[[rule]]\nfrom = \"192.0.2.1\"\ngroup = \"up\"\n").unwrap();
    fs::write(parts.join("up.toml"), "[group.up]\nnexthops = [{ dev = \"eth1\" }]\n").unwrap();
    fs::write(parts.join("10.toml"), "[[rule]]\nfrom-file = \"list.txt\"\ntarget = \"drop\"\n").unwrap();
    fs::write(parts.join("list.txt"), "192.0.2.2\n192.0.2.3 # the last\n").unwrap();
    fs::write(parts.join("old.toml.bak"), "nonsense").unwrap();
    assert_eq!(check(&[], &path).out, format!("{}: 3 rules, 1 group\n", path.display()));
    fs::write(parts.join("list.txt"), "192.0.2.2\n192.0.2.1/33\n").unwrap();
    let said = check(&[], &path);
    assert!(said.err.contains("list.txt:2:1"), "{said:?}");
}

/// Else whoever may put a file there says what this host does. What an editor puts there is none of its files.
#[test]
fn the_folder_beside_it_is_looked_at_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    let parts = folder.path().join("byway.d");
    fs::create_dir(&parts).unwrap();
    fs::write(&path, "[[rule]]\nfrom = \"192.0.2.1\"\ntarget = \"drop\"\n").unwrap();
    symlink("root@host.1234", parts.join(".#up.toml")).unwrap();
    fs::write(parts.join(".up.toml"), "half of it").unwrap();
    assert_eq!(check(&[], &path).code, Some(0));
    fs::set_permissions(&parts, Permissions::from_mode(0o1777)).unwrap();
    let sentence = "everybody may write to FOLDER (user 0, mode 1777), and could change what this host does; take that permission away: `chmod go-w FOLDER`";
    let warned = || check(&[], &path).warnings.join("\n").replace(&parts.display().to_string(), "FOLDER");
    assert_eq!(warned(), sentence);
    fs::set_permissions(&parts, Permissions::from_mode(0o755)).unwrap();
    chown(&parts, Some(NOBODY), None).unwrap();
    assert_eq!(
        warned(),
        "FOLDER belongs to user 65534 (mode 0755), who could change what this host does; give it to root: `chown root FOLDER`"
    );
    chown(&parts, Some(0), None).unwrap();
    assert_eq!(check(&[], &path).warnings, [""; 0]);
}

/// Whoever applies it is refused; `check` changes nothing, and says so all the same.
#[test]
fn a_file_that_others_may_write_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[[rule]]\nfrom = \"192.0.2.1\"\ntarget = \"drop\"\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
    let said = check(&[], &path);
    let file = path.display().to_string();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert_eq!(said.out, format!("{file}: 1 rule, 0 groups, 1 warning\n"));
    let message =
        format!("a group may write to {file} (user 0, mode 0664), and could change what this host does");
    let help = format!("take that permission away: `chmod go-w {file}`");
    assert_eq!(said.warnings, [format!("{message}; {help}")]);
    let json: serde_json::Value = serde_json::from_str(&check(&["--json"], &path).out).unwrap();
    let problem = serde_json::json!({ "severity": "warning", "message": message, "help": help, "place": null, "also": null });
    assert_eq!(json["problems"], serde_json::json!([problem]));
    // The caller may have files, and root.
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let as_nobody = || -> Said { byway_as_nobody("check --offline").arg(&path).output().unwrap().into() };
    assert_eq!(as_nobody().warnings, [""; 0]);
    chown(folder.path(), Some(NOBODY), None).unwrap();
    chown(&path, Some(NOBODY), None).unwrap();
    assert_eq!(as_nobody().warnings, [""; 0]);
    assert_eq!(check(&[], &path).warnings.len(), 1);
}

/// Or else whoever writes a configuration could have root print what only root may read.
#[test]
fn a_link_to_a_file_of_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    let secret = folder.path().join("secret");
    fs::write(&secret, SHADOW).unwrap();
    symlink(&secret, &path).unwrap();
    assert_ne!(check(&[], &path).code, Some(0));
    lchown(&path, Some(NOBODY), None).unwrap();
    assert_eq!(
        refused(&path),
        "FILE is a symbolic link that user 65534 has made to a file of user 0; name the file itself"
    );
    // A link to a file of its own is as good as the file.
    chown(&secret, Some(NOBODY), None).unwrap();
    fs::write(&secret, "").unwrap();
    assert_eq!(check(&[], &path).code, Some(0));
}

/// Nothing of a file that somebody has named as a list, in text or in JSON.
#[test]
fn no_list_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[[rule]]\nfrom-file = \"list\"\ntarget = \"drop\"\n").unwrap();
    fs::write(folder.path().join("list"), format!("192.0.2.7/33 # {SHADOW}{SHADOW}192.0.2.8 {SHADOW}"))
        .unwrap();
    for words in [&[][..], &["--json"]] {
        let said = check(words, &path);
        assert_eq!(said.code, Some(2));
        let all = said.out + &said.err;
        assert!(all.contains("line 2 is not a prefix") && all.contains("line 3 is not a prefix"), "{all}");
        assert!(all.contains("`192.0.2.7/33` is longer"), "{all}");
        for secret in ["root", "$6$", "Zm9v", "c2VjcmV0", "19000", "192.0.2.8"] {
            assert!(!all.contains(secret), "{secret} is printed: {all}");
        }
    }
}

const SHADOW: &str = "root:$6$Zm9v$c2VjcmV0:19000:0:99999:7:::\n";

/// The user that is nobody.
const NOBODY: u32 = 65_534;

#[test]
fn nobody_may_check() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[[rule]]\nfrom = \"192.0.2.1\"\ntarget = \"drop\"\n").unwrap();
    let check = || -> Said { byway_as_nobody("check --offline").arg(&path).output().unwrap().into() };
    let said = check();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    // One that only root may read is root's business.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let said = check();
    assert_eq!(said.code, Some(8));
    assert!(said.err.contains("cannot read") && said.err.contains("Permission denied"), "{said:?}");
}

/// Half of one version and half of the next is neither.
#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "# a comment that goes on\n".repeat(400_000)).unwrap();
    let ends = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            while !ends.load(Ordering::Relaxed) {
                file.write_all(b"#\n").unwrap();
            }
        });
        let refused = (0..10).filter(|_| match check(&[], &path) {
            Said { code: Some(0), .. } => false,
            said => {
                let sentence =
                    format!("byway: {} was changed while it was read; try again\n", path.display());
                assert_eq!((said.code, said.err), (Some(2), sentence));
                true
            }
        });
        let refused = refused.count();
        ends.store(true, Ordering::Relaxed);
        refused
    });
    assert!(refused > 0);
    assert_eq!(check(&[], &path).code, Some(0));
}

#[test]
fn what_is_no_file_of_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert_eq!(refused(&path("none")), "there is no file FILE; check the path, or create the file");
    assert_eq!(refused(folder.path()), "FILE is a folder; name a file");
    mkfifo(&path("pipe"), Mode::S_IRUSR).unwrap();
    assert_eq!(refused(&path("pipe")), "FILE is a pipe; name a file");
    assert_eq!(refused(Path::new("/dev/null")), "FILE is a device; name a file");
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    assert_eq!(refused(&path("socket")), "FILE is a socket; name a file");
    symlink(path("loop"), path("loop")).unwrap();
    assert_eq!(refused(&path("loop")), "FILE is a symbolic link that leads to itself; point it at a file");

    let file = path("byway.toml");
    fs::write(&file, b"# one\n# tw\xff\n").unwrap();
    assert_eq!(refused(&file), "FILE is not UTF-8: line 2 has an invalid byte; save it as UTF-8");

    // A gigabyte of one line, that takes no room on the disk.
    let huge = fs::File::create(path("huge")).unwrap();
    huge.set_len(1 << 30).unwrap();
    assert_eq!(
        refused(&path("huge")),
        "FILE has 1073741824 bytes, more than the limit of 134217728; use shorter prefixes, or several files"
    );
    // A line of as many as are read is one problem, and is not printed whole.
    fs::write(&file, format!("x = \"{}\n", "y".repeat(20_000_000))).unwrap();
    let said = check(&[], &file);
    assert_eq!(said.code, Some(2));
    assert!(said.err.len() < 10_000, "{} bytes are printed", said.err.len());
}
