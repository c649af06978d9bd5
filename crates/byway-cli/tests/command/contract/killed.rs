//! An apply that is killed at its system calls that may change anything.
#![cfg(target_arch = "x86_64")] // which call it is, is in the registers

use std::{fs, process::Command};

use byway_lab::seed::{IPV4, Seed};
use nix::{
    libc::{
        SYS_bpf, SYS_brk, SYS_clock_gettime, SYS_close, SYS_epoll_create1, SYS_fcntl, SYS_fstat, SYS_fstatfs,
        SYS_getdents64, SYS_getpid, SYS_getrandom, SYS_getsockname, SYS_getsockopt, SYS_lseek, SYS_mmap,
        SYS_mprotect, SYS_munmap, SYS_newfstatat, SYS_poll, SYS_read, SYS_readlink, SYS_recvfrom,
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_setsockopt, SYS_sigaltstack, SYS_statfs, SYS_statx,
    },
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::support::{ANSWER, done, pins};

/// Calls that change nothing that another process sees: to be killed on the way into the next one is the same.
const HARMLESS: &[i64] = &[
    SYS_brk,
    SYS_clock_gettime,
    SYS_close,
    SYS_epoll_create1,
    SYS_fcntl,
    SYS_fstat,
    SYS_fstatfs,
    SYS_getdents64,
    SYS_getpid,
    SYS_getrandom,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_lseek,
    SYS_mmap,
    SYS_mprotect,
    SYS_munmap,
    SYS_newfstatat,
    SYS_poll,
    SYS_read,
    SYS_readlink,
    SYS_recvfrom,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_setsockopt,
    SYS_sigaltstack,
    SYS_statfs,
    SYS_statx,
];

/// Commands of bpf(2) that only look: BPF_MAP_LOOKUP_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_OBJ_GET, BPF_OBJ_GET_INFO_BY_FD,
/// BPF_PROG_QUERY, BPF_BTF_LOAD.
const LOOKS: &[u64] = &[1, 4, 7, 15, 16, 18];

fn may_change_anything(process: Pid) -> bool {
    let registers = ptrace::getregs(process).unwrap();
    let call = registers.orig_rax as i64;
    !HARMLESS.contains(&call) && (call != SYS_bpf || !LOOKS.contains(&registers.rdi))
}

/// Runs `byway WORDS` and kills it on its way into a system call: the one of this number, counted from its start, of those that
/// may change anything. Says whether it came that far.
fn kill_at(seed: &Seed, words: &str, call: usize) -> bool {
    // It stops before it becomes the command, so that the first call is seen as well.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        &format!("kill -STOP $$; exec {} {words} >/dev/null 2>&1", env!("CARGO_BIN_EXE_byway")),
    ]);
    let process = seed.server.start(&mut shell).unwrap();
    let id = Pid::from_raw(i32::try_from(process.id()).unwrap());
    assert_eq!(waitpid(id, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(id, Signal::SIGSTOP)));
    ptrace::seize(id, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC).unwrap();
    kill(id, Signal::SIGCONT).unwrap();

    let (mut is_byway, mut goes_in, mut calls) = (false, false, 0);
    loop {
        match waitpid(id, None).unwrap() {
            WaitStatus::PtraceEvent(_, Signal::SIGTRAP, event) => {
                is_byway |= event == ptrace::Event::PTRACE_EVENT_EXEC as i32;
            }
            WaitStatus::PtraceSyscall(_) if is_byway => {
                // It stops on the way in and on the way out, first of all out of execve(2).
                if goes_in && may_change_anything(id) {
                    if calls == call {
                        kill(id, Signal::SIGKILL).unwrap();
                    }
                    calls += 1;
                }
                goes_in = !goes_in;
            }
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0, "{words} failed");
                return false;
            }
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => return true,
            _ => {}
        }
        // A signal on its way is not handed on: there is none but the one that let it go on.
        let _ = ptrace::syscall(id, None);
    }
}

#[test]
fn an_apply_is_killed_at_some_system_calls() {
    killed_at_each(8);
}

/// Kills an apply at each system call of so many.
///
/// There are two configurations that have next to nothing in common, one of which holds at any time, and whose rule for the
/// service address does not change: whatever an apply is doing when it is killed, it works.
pub(crate) fn killed_at_each(step: usize) {
    let seed = Seed::new().unwrap();
    // Nobody is waited for.
    seed.router.address("eth0", "10.111.221.77/24").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let vip = "[[rule]]\nfrom = \"192.168.1.5\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n";
    let texts = [
        format!("attach = [\"eth0\"]\n{vip}"),
        format!(
            "attach = [\"eth0\", \"eth1\"]\n{vip}\
             [group.up]\nnexthops = [{{ via = \"10.111.221.77\", dev = \"eth1\" }}, {{ dev = \"eth1\" }}]\n\
             [[rule]]\nfrom = [\"192.168.1.6\", \"192.168.1.7\"]\ngroup = \"up\"\n\
             [[rule]]\nfrom = \"192.168.1.0/24\"\nto = \"203.0.113.0/24\"\ntarget = \"drop\"\n"
        ),
    ];
    let files = ["one.toml", "two.toml"].map(|name| folder.path().join(name).display().to_string());
    for (file, text) in files.iter().zip(&texts) {
        fs::write(file, text).unwrap();
    }
    let apply = |nth: usize| done(&seed.server, &format!("apply {}", files[nth]));
    let [second, first] = [1, 0].map(|nth| {
        apply(nth);
        done(&seed.server, "export")
    });
    let exports = [first, second];

    let mut holds = 0;
    let mut calls: usize = 0;
    let mut applied = [0, 0];
    loop {
        let next = 1 - holds;
        let goes_back = (calls / step).is_multiple_of(8);
        if goes_back {
            // The killed one is not the first that is killed, and leaves something to go back to.
            for nth in [next, holds] {
                apply(nth);
            }
        }
        let was_killed = kill_at(&seed, &format!("apply {}", files[next]), calls);
        // All of one of the two holds. What is left over of the other is tidied by the next change.
        let said = done(&seed.server, "export");
        // Rules are swapped at once. A new group comes ahead of them, and attachments, which are programs on several devices,
        // one by one around them.
        let rules = |text: &str| text[text.find("[[rule]]").unwrap()..].to_owned();
        let now = [1, 0].into_iter().find(|nth| rules(&said) == rules(&exports[*nth]));
        let Some(now) = now else { panic!("killed at call {calls}, neither of the two holds: {said}") };
        assert!(
            seed.client.ping(None, IPV4.service, ANSWER).is_ok(),
            "killed at call {calls}, the service does not answer"
        );
        if !was_killed {
            assert_eq!(now, next);
            break;
        }
        applied[usize::from(now == next)] += 1;
        holds = now;
        // One can go back one apply: the one that was killed, or the one before where that has changed nothing.
        if goes_back {
            let before = if said == exports[1 - next] { next } else { 1 - next };
            done(&seed.server, "rollback");
            let said = done(&seed.server, "export");
            assert_eq!(rules(&said), rules(&exports[before]), "killed at call {calls}, and gone back");
            holds = before;
        }
        calls += step;
    }
    println!("killed at {calls} calls; {} times it was too early, {} times late", applied[0], applied[1]);
    assert!(calls > 50 && applied[0] > 10 && applied[1] > 0);
    fs::write(&files[0], "attach = []\n").unwrap();
    done(&seed.server, &format!("apply {}", files[0]));
    assert_eq!(pins(), Vec::<String>::new());
}
