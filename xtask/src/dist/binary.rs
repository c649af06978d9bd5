//! The binary that is packaged: static, stripped, without the demo, and without the names of this machine's folders.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{run, workspace::Workspace};

/// The most bytes that it may have.
const BYTES_MAX: u64 = 10_000_000;

/// The target of the compiler. With a `--target`, the flags do not apply to build scripts and procedural macros, which
/// cannot be static.
pub(crate) fn target(machine: &str) -> String {
    format!("{machine}-unknown-linux-gnu")
}

/// The name of the architecture in Debian, and in images.
pub(super) fn debian_architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn build(workspace: &Workspace, machine: &str) -> Result<PathBuf> {
    let target = target(machine);
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--profile", "dist", "--locked", "--package", "byway-cli", "--no-default-features"]);
    if machine != env::consts::ARCH {
        let debian = debian_architecture(machine);
        let linker = format!("{machine}-linux-gnu-gcc");
        run::install_missing(&[
            (&linker, &format!("gcc-{}-linux-gnu", machine.replace('_', "-"))),
            (&format!("/usr/{machine}-linux-gnu/lib/libc.a"), &format!("libc6-dev-{debian}-cross")),
        ])?;
        let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        cargo.env(variable, linker);
    }
    cargo.args(["--target", &target]).env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace)?.join("\x1f"));
    run::visibly(&mut cargo, &format!("If there is no `core`: rustup target add {target}"))?;
    let binary = workspace.target.join(target).join("dist/byway");
    check(workspace, &binary)?;
    Ok(binary)
}

/// The folders of this machine, and what stands for them in the binary. Where they overlap the last one counts.
fn renamed(workspace: &Workspace) -> Result<Vec<(PathBuf, &'static str)>> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    let mut renamed = vec![(workspace.target.clone(), "target"), (workspace.root.clone(), ".")];
    // The name of a registry's folder depends on the mirror and on cargo's version.
    let registries = cargo_home.join("registry/src");
    renamed.push((cargo_home, "/c"));
    for registry in fs::read_dir(&registries).into_iter().flatten() {
        renamed.push((registry.with_context(|| format!("reading {}", registries.display()))?.path(), "/c"));
    }
    Ok(renamed)
}

fn rustflags(workspace: &Workspace) -> Result<Vec<String>> {
    let renamed = renamed(workspace)?;
    let renamed = renamed.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    Ok(std::iter::once("-Ctarget-feature=+crt-static".to_owned()).chain(renamed).collect())
}

/// Checks that it is what it should be.
fn check(workspace: &Workspace, binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    if bytes.len() as u64 > BYTES_MAX {
        bail!("{} has {} bytes, more than {BYTES_MAX}", binary.display(), bytes.len());
    }
    let headers = run::output(Command::new("readelf").args(["--program-headers", "--wide"]).arg(binary), "")?;
    if headers.contains("INTERP") {
        bail!("{} is not static: it names a dynamic linker", binary.display());
    }
    for (folder, _) in renamed(workspace)? {
        let name = folder.display().to_string();
        if bytes.windows(name.len()).any(|it| it == name.as_bytes()) {
            bail!("{} names a folder of this machine, {name}", binary.display());
        }
    }
    Ok(())
}
