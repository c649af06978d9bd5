//! `cargo xtask bpf`: builds the eBPF objects that the library and the benchmark embed, and checks the committed ones.

mod programs;
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

/// Rebuild the eBPF objects from their source
#[derive(Args)]
pub(crate) struct Bpf {
    /// Leave the committed objects alone: rebuild elsewhere and compare.
    ///
    /// With the toolchain that built the committed objects the bytes must be the same. With another one the
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
    let record = record(workspace);
    let objects = OBJECTS.map(|(program, object)| (program, workspace.root.join(object)));
    build(workspace, toolchain, &objects)?;
    fs::write(&record, &toolchain.versions).with_context(|| format!("writing {}", record.display()))?;
    for (program, object) in &objects {
        println!("built {}", object.display());
        if *program == BYWAY {
            match programs::account(object) {
                Ok(account) => fs::write(object.with_extension("programs"), account)?,
                // Loading needs privileges, and building does not.
                Err(error) => {
                    eprintln!("what its programs come to in the kernel is not written down: {error:#}")
                }
            }
        }
    }
    Ok(())
}

fn check(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let record = record(workspace);
    let rebuilt = |program: &str| workspace.target.join(format!("bpf/check/{program}.bpf.o"));
    build(workspace, toolchain, &OBJECTS.map(|(program, _)| (program, rebuilt(program))))?;
    let recorded = fs::read_to_string(&record).with_context(|| {
        format!("{} does not say what built the objects: run `cargo xtask bpf`", record.display())
    })?;

    if recorded == toolchain.versions {
        for (program, object) in OBJECTS {
            let object = workspace.root.join(object);
            if read(&object)? != read(&rebuilt(program))? {
                bail!(
                    "{} is not what crates/byway-ebpf builds with the toolchain that is recorded for it: \
                     run `cargo xtask bpf` and commit the result (the rebuilt object is {})",
                    object.display(),
                    rebuilt(program).display()
                );
            }
        }
        println!("the committed objects are what their source builds, to the byte");
        return Ok(());
    }

    println!(
        "the toolchain here differs from the one that built the committed object, so the bytes may differ\n\
         recorded:\n{}here:\n{}testing the rebuilt object instead",
        indented(&recorded),
        indented(&toolchain.versions)
    );
    run::visibly(
        workspace.cargo().args(["test", "--workspace", "--locked"]).env("BYWAY_BPF_OBJECT", rebuilt(BYWAY)),
        "The object that this toolchain builds does not pass the tests.",
    )?;
    println!("the rebuilt object passes the tests");
    Ok(())
}

/// The binary with Byway's own programs.
const BYWAY: &str = "byway";
/// The binaries of the eBPF crate, and where their objects are committed.
const OBJECTS: [(&str, &str); 2] =
    [(BYWAY, "crates/byway/src/kernel/byway.bpf.o"), ("bench", "xtask/src/bench/bench.bpf.o")];

/// The record of what built the committed objects.
fn record(workspace: &Workspace) -> PathBuf {
    workspace.root.join("crates/byway/src/kernel/byway.bpf.toolchain")
}

/// Builds the programs of each binary, and writes them to its object, without debug information but with BTF.
fn build(workspace: &Workspace, toolchain: &Toolchain, objects: &[(&str, PathBuf)]) -> Result<()> {
    let source = workspace.root.join("crates/byway-ebpf");
    let target = workspace.target.join("bpf");
    // The dependencies' sources must exist before the names of their folders can be kept out of the object.
    run::output(toolchain.cargo(&source).args(["fetch", "--locked"]), "")?;

    let flags = rustflags(&source, toolchain)?.join("\x1f");
    let mut cargo = toolchain.cargo(&source);
    cargo.args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "--target-dir"]);
    cargo.arg(&target).env("CARGO_ENCODED_RUSTFLAGS", flags);
    run::visibly(&mut cargo, "")?;

    for (program, object) in objects {
        if let Some(folder) = object.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let built = target.join("bpfel-unknown-none/release").join(program);
        run::output(Command::new(&toolchain.strip).arg("-g").arg(&built).arg("-o").arg(object), "")?;
    }
    Ok(())
}

/// Returns the compiler's flags: for BTF, and to keep names of this machine's folders out of the object, so that the same
/// source gives the same bytes everywhere. If prefixes overlap, the last one counts.
fn rustflags(source: &Path, toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags = vec!["-Clink-arg=--btf".to_owned(), "-Cdebuginfo=2".to_owned()];
    let mut rename =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));

    rename(&toolchain.sysroot, "/rust");
    rename(&toolchain.cargo_home, "/c");
    // The name of a registry's folder depends on the mirror and on the version of cargo.
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
