//! The binary, called as a person calls it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, pipe},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        LazyLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use byway_lab::{Node, Process, seed::Seed};
use tempfile::TempDir;

/// Long enough for an answer that comes, on the slowest machine: an emulated one that has less than half a processor, where one
/// load of the programs takes seconds. No test waits for it but one that fails.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// Long enough to be sure that none comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// How often something is tried that is to go wrong never: less often on an emulated machine, which is ten times slower
/// (`cargo xtask kernels`).
pub(crate) fn rounds(number: u32) -> u32 {
    if std::env::var_os("BYWAY_EMULATED").is_some() { number / 4 } else { number }
}

/// `byway WORDS`
pub(crate) fn byway(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
    command.args(words.split_whitespace()).env_remove("SUDO_UID");
    command
}

/// The user and the group of somebody without any privilege.
const NOBODY: u32 = 65_534;

/// `byway WORDS`, called by somebody without any privilege.
///
/// The binary may lie where only root may look, so it is started by an open file. A copy elsewhere would not do: the
/// kernel starts no file that is open for writing (ETXTBSY, execve(2)), and a test beside this one that forks while the
/// copy is written holds it open until its own execve(2).
pub(crate) fn byway_as_nobody(words: &str) -> Command {
    static BINARY: LazyLock<File> = LazyLock::new(|| File::open(env!("CARGO_BIN_EXE_byway")).unwrap());
    let mut command = Command::new(format!("/proc/self/fd/{}", BINARY.as_raw_fd()));
    command.args(words.split_whitespace()).uid(NOBODY).gid(NOBODY);
    command
}

/// What a command has said and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    /// What it has written to standard error, but for the warnings.
    pub(crate) err: String,
    pub(crate) warnings: Vec<String>,
}

impl Said {
    pub(crate) fn of(code: Option<i32>, out: String, err: &str) -> Self {
        let (mut warnings, mut others) = (Vec::new(), String::new());
        for line in err.split_inclusive('\n') {
            match line.strip_prefix("byway: warning: ") {
                Some(warning) => warnings.push(warning.trim_end().to_owned()),
                None => others += line,
            }
        }
        Self { code, out, err: others, warnings }
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let out = String::from_utf8(output.stdout).unwrap();
        Self::of(output.status.code(), out, std::str::from_utf8(&output.stderr).unwrap())
    }
}

/// Calls `byway WORDS` in a host.
pub(crate) fn call(node: &Node, words: &str) -> Said {
    node.output(&mut byway(words)).unwrap().into()
}

/// Starts `byway WORDS` in a host. What it says is nobody's.
pub(crate) fn start(node: &Node, words: &str) -> Process {
    node.start(byway(words).stdout(Stdio::null()).stderr(Stdio::null())).unwrap()
}

/// Calls it, expects it to do its work, and returns what it said.
pub(crate) fn done(node: &Node, words: &str) -> String {
    let said = call(node, words);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "byway {words}: {said:?}");
    said.out
}

/// Calls it, expects it to do what it can and to let the rest wait, and returns what it said.
pub(crate) fn waiting(node: &Node, words: &str) -> String {
    let said = call(node, words);
    assert_eq!((said.code, said.err.as_str()), (Some(4), ""), "byway {words}: {said:?}");
    said.out
}

/// Calls it, expects a refusal, and returns its sentence. `exit_codes.rs` says which refusal has which exit code.
pub(crate) fn refused(node: &Node, words: &str) -> String {
    let said = call(node, words);
    assert!(matches!(said.code, Some(2 | 5..=8)) && said.out.is_empty(), "byway {words}: {said:?}");
    let sentence = said.err.strip_prefix("byway: ").and_then(|rest| rest.strip_suffix('\n')).unwrap();
    assert!(!sentence.contains('\n'), "more than a sentence: {sentence}");
    sentence.to_owned()
}

/// What Byway has pinned in this lab. A lab has a BPF file system of its own.
pub(crate) fn pins() -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/sys/fs/bpf/byway") else { return Vec::new() };
    folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A configuration in a folder of its own.
pub(crate) struct ConfigFile {
    _folder: TempDir,
    pub(crate) path: PathBuf,
}

impl ConfigFile {
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("byway.toml");
        fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }

    pub(crate) fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// A command about it.
    pub(crate) fn words(&self, command: &str) -> String {
        format!("{command} {}", self.path.display())
    }
}

/// The rule that the seed's server needs.
pub(crate) const VIP: &str = "
[[rule]]
from = \"192.168.1.5\"
via = \"10.111.221.21\"
dev = \"eth1\"
";

/// Calls it on the server, and returns its JSON.
pub(crate) fn json(seed: &Seed, words: &str) -> serde_json::Value {
    serde_json::from_str(&done(&seed.server, words)).unwrap()
}

/// An agent, and what it says.
pub(crate) struct Agent {
    process: Process,
    pub(crate) lines: Receiver<String>,
}

impl Agent {
    pub(crate) fn start(node: &Node, words: &str) -> Self {
        let (reader, writer) = pipe().unwrap();
        let mut command = byway(words);
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let process = node.start(&mut command).unwrap();
        // Otherwise this process keeps the pipe open.
        drop(command);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Self { process, lines }
    }

    /// The next line that it says.
    #[track_caller]
    pub(crate) fn says(&self) -> String {
        self.lines.recv_timeout(ANSWER).unwrap()
    }

    pub(crate) fn signal(&self, number: i32) {
        self.process.signal(number).unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        self.process.wait_for(ANSWER).unwrap().code()
    }
}

/// Whether the client gets an answer from the service address over IPv4.
pub(crate) fn works(seed: &Seed, timeout: Duration) -> bool {
    seed.client.ping(None, byway_lab::seed::IPV4.service, timeout).is_ok()
}
