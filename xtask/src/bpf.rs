//! `cargo xtask bpf`: builds the eBPF object that the library embeds, and checks the committed one.

mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{run, workspace::Workspace};
use toolchain::Toolchain;

/// Rebuild the eBPF object from its source
#[derive(Args)]
pub(crate) struct Bpf {
    /// Leave the committed object alone: rebuild elsewhere and compare.
    ///
    /// With the toolchain that built the committed object the bytes must be the same. With another one the
    /// workspace's tests run on the rebuilt object.
    #[arg(long)]
    check: bool,
}

impl Bpf {
    pub(crate) fn exec(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let toolchain = Toolchain::find()?;
        if self.check {
            check(&workspace, &toolchain)?
        } else {
            rebuild(&workspace, &toolchain)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn rebuild(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let (object, record) = committed(workspace);
    build(workspace, toolchain, &object)?;
    fs::write(&record, &toolchain.versions).with_context(|| format!("writing {}", record.display()))?;
    println!("built {}", object.display());
    Ok(())
}

fn check(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let (object, record) = committed(workspace);
    let rebuilt = workspace.target.join("bpf/check/byway.bpf.o");
    build(workspace, toolchain, &rebuilt)?;
    let recorded = fs::read_to_string(&record).with_context(|| {
        format!("{} does not say what built the object: run `cargo xtask bpf`", record.display())
    })?;

    if recorded == toolchain.versions {
        if read(&object)? != read(&rebuilt)? {
            bail!(
                "{} is not what crates/byway-ebpf builds with the toolchain that is recorded for it: \
                 run `cargo xtask bpf` and commit the result (the rebuilt object is {})",
                object.display(),
                rebuilt.display()
            );
        }
        println!("the committed object is what its source builds, to the byte");
        return Ok(());
    }

    println!(
        "the toolchain here differs from the one that built the committed object, so the bytes may differ\n\
         recorded:\n{}here:\n{}testing the rebuilt object instead",
        indented(&recorded),
        indented(&toolchain.versions)
    );
    run::visibly(
        workspace.cargo().args(["test", "--workspace", "--locked"]).env("BYWAY_BPF_OBJECT", &rebuilt),
        "The object that this toolchain builds does not pass the tests.",
    )?;
    println!("the rebuilt object passes the tests");
    Ok(())
}

/// The committed object, and the record of what built it.
fn committed(workspace: &Workspace) -> (PathBuf, PathBuf) {
    let folder = workspace.root.join("crates/byway/src/kernel");
    (folder.join("byway.bpf.o"), folder.join("byway.bpf.toolchain"))
}

/// Builds the programs and puts them, without debug information but with BTF, into `object`.
fn build(workspace: &Workspace, toolchain: &Toolchain, object: &Path) -> Result<()> {
    let source = workspace.root.join("crates/byway-ebpf");
    let target = workspace.target.join("bpf");
    // The sources of the dependencies must be there before their folders' names can be taken out of the object.
    run::output(toolchain.cargo(&source).args(["fetch", "--locked"]), "")?;

    let flags = rustflags(&source, toolchain)?.join("\x1f");
    let mut cargo = toolchain.cargo(&source);
    cargo.args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "--target-dir"]);
    cargo.arg(&target).env("CARGO_ENCODED_RUSTFLAGS", flags);
    run::visibly(&mut cargo, "")?;

    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let built = target.join("bpfel-unknown-none/release/byway");
    run::output(Command::new(&toolchain.strip).arg("-g").arg(&built).arg("-o").arg(object), "")?;
    Ok(())
}

/// The compiler's flags: BTF, and no name of a folder of this machine in the object, so that the same source
/// gives the same bytes everywhere. Where prefixes overlap the last one counts.
fn rustflags(source: &Path, toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags = vec!["-Clink-arg=--btf".to_owned(), "-Cdebuginfo=2".to_owned()];
    let mut rename =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));

    rename(&toolchain.sysroot, "/rust");
    rename(&toolchain.cargo_home, "/c");
    // The name of a registry's folder depends on the mirror and on cargo's version.
    let registries = toolchain.cargo_home.join("registry/src");
    for registry in fs::read_dir(&registries).into_iter().flatten() {
        rename(&registry.with_context(|| format!("reading {}", registries.display()))?.path(), "/c");
    }
    if let Some(crates) = source.parent() {
        rename(crates, "..");
    }
    rename(source, ".");
    Ok(flags)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
