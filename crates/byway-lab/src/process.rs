//! Programs inside a node.

use std::{
    io,
    ops::{Deref, DerefMut},
    process::{Child, Command, ExitStatus, Output},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Node, wait_until};

impl Node {
    /// Runs a program inside the node to its end and collects its output ([`Command::output`]). The program also
    /// sees the lab's mounts: `/run/netns` and `/sys/fs/bpf`, for a private lab.
    ///
    /// # Errors
    ///
    /// Whatever fork(2) and execve(2) report.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        // A child process begins in the namespaces of the thread that makes it.
        self.run(|| command.output())
    }

    /// Starts a program inside the node, with standard streams as the command says.
    ///
    /// # Errors
    ///
    /// Whatever fork(2) and execve(2) report.
    pub fn start(&self, command: &mut Command) -> io::Result<Process> {
        self.run(|| command.spawn()).map(Process)
    }
}

/// A program that runs inside a node; killed when this is dropped. Derefs to the [`Child`], for its streams.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Sends the program a signal, by its number (signal(7)).
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number that is no signal; `ESRCH` where the program has ended and was waited for.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let process = i32::try_from(self.0.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(process), Signal::try_from(number)?)?)
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when it has not ended within `timeout`.
    pub fn wait_for(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        let mut status = Ok(None);
        let _ = wait_until(timeout, || {
            status = self.0.try_wait();
            !matches!(status, Ok(None))
        });
        status?.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
