//! Runs other programs. A failure shows the command, its output, and advice.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs a command to its end, and returns its standard output. `help` is the advice for a failure.
pub(crate) fn output(command: &mut Command, help: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command, help))?;
    if !output.status.success() {
        bail!(
            "{} failed ({})\n{}{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            help
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose output goes straight to the terminal.
pub(crate) fn visibly(command: &mut Command, help: &str) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| cannot_start(command, help))?;
    if !status.success() {
        bail!("{} failed ({status}), see above\n{help}", shown(command));
    }
    Ok(())
}

/// Returns the error for a program that does not even start.
pub(crate) fn cannot_start(command: &Command, help: &str) -> String {
    format!("cannot run {}\n{help}", shown(command))
}

/// Finds a program, first in `PATH` and then in the folders of administrators' tools.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/qemu", "/usr/libexec"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Installs the packages whose program, or other file by its whole name, is not there.
pub(crate) fn install_missing(wanted: &[(&str, &str)]) -> Result<()> {
    let missing = wanted.iter().filter(|(program, _)| find(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Returns the commands that install Debian packages. `apt-get update` runs only if the lists are too old.
fn install(packages: &[&str]) -> Result<()> {
    let help = format!("As root: apt-get update && apt-get install {}", packages.join(" "));
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "-y", "--no-install-recommends"]).args(packages);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    eprintln!("installing {}", packages.join(" "));
    if output(&mut install(), &help).is_ok() {
        return Ok(());
    }
    output(Command::new("apt-get").arg("update"), &help)?;
    output(&mut install(), &help)?;
    Ok(())
}

/// Returns the command as one would type it.
fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let line: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    match command.get_current_dir() {
        Some(folder) if folder != Path::new(".") => format!("`{}` in {}", line.join(" "), folder.display()),
        _ => format!("`{}`", line.join(" ")),
    }
}
