//! What network namespaces leave that are gone. The pins of one that exists stay, whatever keeps it.

use std::{
    fs::{self, File},
    io::Read,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use byway::{Attach, Byway, Error, Hook, Leftovers};
use byway_lab::{Lab, Node, Process, wait_until};

use crate::support::{ANSWER, add_bridge, any_hook, delete_clsact_qdisc, hooks, on, pins};

const FOLDER: &str = "/sys/fs/bpf/byway";

/// A host with pins, and their folder.
fn host(lab: &Lab, name: &str, hook: byway::Hook) -> (Node, PathBuf) {
    let before = pins();
    let host = lab.node(name).unwrap();
    host.run(|| add_bridge("eth0", 7));
    on(&host, hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    let new: Vec<String> = pins().into_iter().filter(|pin| !before.contains(pin)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    (host, new[0].clone().into())
}

/// Takes the name of a host away, and everything of the lab's that keeps it.
fn forget(host: Node) {
    nix::mount::umount2(host.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    fs::remove_file(host.path()).unwrap();
}

fn gc(host: &Node) -> Leftovers {
    host.run(|| Byway::open().unwrap().gc().unwrap())
}

/// Expects that the folder goes, once the kernel has removed the namespace, and that it is the only one.
fn goes(caller: &Node, folder: &Path) {
    let mut found = Leftovers::default();
    let is_found = wait_until(ANSWER, || {
        found = gc(caller);
        !found.removed.is_empty()
    });
    assert!(is_found, "{found:?}");
    assert_eq!((found.removed, found.unknown), (vec![folder.to_owned()], vec![]));
    assert!(!folder.exists());
}

fn stays(caller: &Node, folder: &Path) {
    assert_eq!(gc(caller), Leftovers::default());
    assert!(folder.join("departure").exists());
}

/// Expects that a process keeps a host that has no name any more, as long as it waits for a line.
fn keeps(mut process: Process, host: Node, caller: &Node, folder: &Path) {
    // It waits once it has said something.
    process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    forget(host);
    stays(caller, folder);
    drop(process.stdin.take());
    process.wait().unwrap();
    goes(caller, folder);
}

#[test]
fn the_pins_of_a_namespace_that_is_gone_are_removed() {
    for hook in hooks() {
        let lab = Lab::new().unwrap();
        let caller = lab.node("caller").unwrap();
        let (other, others) = host(&lab, "other", *hook);
        let (host, folder) = host(&lab, "host", *hook);
        let run = Path::new("/run/byway").join(folder.file_name().unwrap());
        fs::create_dir_all(run.join("before")).unwrap();
        stays(&caller, &folder);
        forget(host);
        goes(&caller, &folder);
        assert!(!run.exists(), "its rollback copy");
        stays(&caller, &others);
        on(&other, *hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new(), "no lock is left either");
    }
}

#[test]
fn the_next_change_of_another_namespace_does_it() {
    let lab = Lab::new().unwrap();
    let (other, others) = host(&lab, "other", any_hook());
    let (host, folder) = host(&lab, "host", any_hook());
    forget(host);
    let is_gone = wait_until(ANSWER, || {
        on(&other, any_hook(), |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        !folder.exists()
    });
    assert!(is_gone);
    assert!(others.exists());
}

#[test]
fn a_socket_keeps_a_namespace() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    let socket = host.run(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    forget(host);
    stays(&caller, &folder);
    drop(socket);
    goes(&caller, &folder);
}

#[test]
fn a_descriptor_keeps_a_namespace() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    let file = File::open(host.path()).unwrap();
    forget(host);
    stays(&caller, &folder);
    drop(file);
    goes(&caller, &folder);
}

#[test]
fn a_mount_in_another_mount_namespace_keeps_a_namespace() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    // A copy of all mounts, in which nothing that happens here shows. Its process is in another network namespace.
    let mut away = Command::new("unshare");
    away.args(["--mount", "--propagation", "private", "sh", "-c", "echo; read line"]);
    let away = caller.start(away.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    keeps(away, host, &caller, &folder);
}

#[test]
fn a_process_in_other_namespaces_keeps_a_namespace() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    let mut away = Command::new("unshare");
    away.args(["--mount", "--pid", "--fork", "--uts", "sh", "-c", "umount -l \"$0\"; echo; read line"]);
    away.arg(host.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let away = host.start(&mut away).unwrap();
    keeps(away, host, &caller, &folder);
}

#[test]
fn a_folder_of_which_nothing_is_certain_stays() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    // As an older byway leaves it.
    let note = folder.join("NAMESPACE");
    fs::remove_file(&note).unwrap();
    let found = gc(&caller);
    assert_eq!((found.removed, found.unknown.len()), (vec![], 1));
    assert_eq!(found.unknown[0].path, folder);
    assert_eq!(gc(&host), Leftovers::default(), "there it is known to exist");
    on(&host, any_hook(), |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    assert!(note.exists(), "the next change notes it");
    stays(&caller, &folder);
    forget(host);
    goes(&caller, &folder);
}

/// What a Byway leaves that is killed while it makes or removes pins.
#[test]
fn half_a_folder_goes_too() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    let half = Path::new(FOLDER).join(format!("unfinished-{}", folder.file_name().unwrap().display()));
    fs::rename(&folder, &half).unwrap();
    fs::create_dir(Path::new(FOLDER).join("netns-1")).unwrap();
    fs::create_dir(Path::new(FOLDER).join("lock-netns-2")).unwrap();
    assert_eq!(gc(&caller), Leftovers::default());
    assert_eq!(pins(), [half.display().to_string()], "the empty ones say nothing");
    for pin in fs::read_dir(&half).unwrap().map(|pin| pin.unwrap().path()) {
        if pin.is_file() && !pin.ends_with("NAMESPACE") {
            fs::remove_file(pin).unwrap();
        }
    }
    forget(host);
    goes(&caller, &half);
    assert_eq!(pins(), Vec::<String>::new());
}

/// Before Linux 5.14 the folders of two namespaces may have the same name, one after the other.
#[test]
fn a_namespace_does_not_inherit_the_pins_of_another() {
    let lab = Lab::new().unwrap();
    let caller = lab.node("caller").unwrap();
    let (heir, own) = host(&lab, "heir", any_hook());
    on(&heir, any_hook(), |byway| byway.detach_all()).unwrap();
    let (host, folder) = host(&lab, "host", any_hook());
    on(&host, any_hook(), |byway| byway.add(&"from 192.0.2.7 drop".parse().unwrap())).unwrap();
    fs::rename(&folder, &own).unwrap();
    forget(host);
    let rules = || heir.run(|| Byway::open().unwrap().rules().unwrap());
    assert!(wait_until(ANSWER, || rules().is_empty()), "{:?}", rules());
    assert!(own.exists());
    on(&heir, any_hook(), |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    assert_eq!(rules(), []);
    assert_eq!(gc(&caller), Leftovers::default());
    assert!(own.exists(), "these are its own");
}

/// What errors about damaged and missing pins tell people to do. A filter stays on its device, and the next change names it.
#[test]
fn without_its_pins_a_host_begins_anew() {
    for hook in hooks() {
        let lab = Lab::new().unwrap();
        let (host, folder) = host(&lab, "host", *hook);
        fs::remove_file(folder.join("META")).unwrap();
        let attach = |name: &'static str| {
            on(&host, *hook, move |byway| byway.attach(&Attach::devices([name])).map(drop))
        };
        let named = attach("eth0").unwrap_err();
        assert!(matches!(&named, Error::MissingPin { folder: of, name } if *of == folder && name == "META"));
        fs::remove_dir_all(&folder).unwrap();
        if *hook == Hook::Clsact {
            let refused = attach("eth0").unwrap_err();
            assert!(refused.sentence().contains("`tc filter del dev eth0 egress pref 2842`"), "{refused}");
            host.run(|| delete_clsact_qdisc("eth0"));
        }
        attach("eth0").unwrap();
        on(&host, *hook, Byway::detach_all).unwrap();
        assert!(pins().is_empty());
    }
}
