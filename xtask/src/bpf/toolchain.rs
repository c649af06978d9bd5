//! Finds a Rust that can build for BPF: Debian's, which brings `core` prebuilt, or rustup's nightly, which
//! builds it from source.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::run;

const TO_INSTALL: &str = "\
To build the eBPF object install one of these two toolchains.

Debian's (12 with its security suite):
  apt-get install --no-install-recommends rustc-web cargo-web libstd-rust-web-dev-bpf \\
      llvm-22 llvm-22-dev libpolly-22-dev libzstd-dev
  LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \\
      --no-default-features --features llvm-22

rustup's:
  rustup toolchain install nightly --component rust-src,llvm-tools
  cargo install bpf-linker --locked";

/// A Rust that can build the eBPF crate, with the tools that go with it.
pub(crate) struct Toolchain {
    kind: Kind,
    /// Where the compiler keeps its own crates.
    pub(crate) sysroot: PathBuf,
    pub(crate) cargo_home: PathBuf,
    /// llvm-strip: it keeps BTF, which binutils' strip does not know.
    pub(crate) strip: PathBuf,
    linker: PathBuf,
    /// The versions that determine the bytes of the object, as recorded beside it.
    pub(crate) versions: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Debian,
    Nightly,
}

impl Toolchain {
    /// Finds a complete toolchain, or says everything that must be installed for one.
    pub(crate) fn find() -> Result<Toolchain> {
        let cargo_home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
            .context("neither CARGO_HOME nor HOME is set")?;

        let (kind, sysroot) = match (debian_sysroot(), nightly_sysroot()) {
            (Ok(sysroot), _) => (Kind::Debian, sysroot),
            (Err(_), Ok(sysroot)) => (Kind::Nightly, sysroot),
            (Err(debian), Err(nightly)) => {
                bail!("no Rust here can build for BPF\n{debian:#}\n{nightly:#}\n\n{TO_INSTALL}")
            }
        };
        let in_cargo_home = cargo_home.join("bin/bpf-linker");
        let linker = if in_cargo_home.is_file() { Some(in_cargo_home) } else { run::find("bpf-linker") };
        let Some(linker) = linker else { bail!("bpf-linker is not installed\n\n{TO_INSTALL}") };
        let Some(strip) = find_strip(&sysroot) else { bail!("llvm-strip is not installed\n\n{TO_INSTALL}") };

        let rustc = run::output(rustc(kind).arg("-vV"), TO_INSTALL)?;
        let linker_version = run::output(Command::new(&linker).arg("--version"), TO_INSTALL)?;
        let compiler =
            rustc.lines().filter(|line| line.starts_with("rustc ") || line.starts_with("LLVM version"));
        let versions = compiler.chain([linker_version.trim()]).map(|line| format!("{line}\n")).collect();
        Ok(Toolchain { kind, sysroot, cargo_home, strip, linker, versions })
    }

    /// Returns this toolchain's cargo in `folder`, without the settings of the cargo that runs this xtask.
    pub(crate) fn cargo(&self, folder: &Path) -> Command {
        let mut command = match self.kind {
            Kind::Debian => Command::new("/usr/bin/cargo"),
            Kind::Nightly => rustup_run("cargo"),
        };
        clean(&mut command, self.kind);
        command.current_dir(folder);
        match self.kind {
            // aya-ebpf uses a nightly feature.
            Kind::Debian => command.env("RUSTC_BOOTSTRAP", "1"),
            Kind::Nightly => command.env("CARGO_UNSTABLE_BUILD_STD", "core"),
        };
        command.env("PATH", self.path()).env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }

    /// Debian's rustc must come before rustup's stand-in of the same name.
    fn path(&self) -> OsString {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = match self.kind {
            Kind::Debian => vec!["/usr/bin".into(), "/bin".into()],
            Kind::Nightly => env::split_paths(&inherited).collect(),
        };
        folders.extend(self.linker.parent().map(Path::to_owned));
        env::join_paths(folders).unwrap_or(inherited)
    }
}

/// Returns the sysroot of Debian's Rust, if it has `core` for BPF.
fn debian_sysroot() -> Result<PathBuf> {
    for program in ["/usr/bin/rustc", "/usr/bin/cargo"] {
        if !Path::new(program).is_file() {
            bail!("Debian's Rust: there is no {program}");
        }
    }
    let sysroot = sysroot(Kind::Debian)?;
    let core = sysroot.join("lib/rustlib/bpfel-unknown-none/lib");
    if !core.is_dir() {
        bail!("Debian's Rust: there is no {}", core.display());
    }
    Ok(sysroot)
}

/// Returns the sysroot of rustup's nightly, if it has the sources of `core`.
fn nightly_sysroot() -> Result<PathBuf> {
    let sysroot = sysroot(Kind::Nightly).context("rustup's nightly is not installed")?;
    let core = sysroot.join("lib/rustlib/src/rust/library/core");
    if !core.is_dir() {
        bail!("rustup's nightly: there is no {} (component rust-src)", core.display());
    }
    Ok(sysroot)
}

fn sysroot(kind: Kind) -> Result<PathBuf> {
    Ok(run::output(rustc(kind).args(["--print", "sysroot"]), "")?.trim().into())
}

fn rustc(kind: Kind) -> Command {
    let mut command = match kind {
        Kind::Debian => Command::new("/usr/bin/rustc"),
        Kind::Nightly => rustup_run("rustc"),
    };
    clean(&mut command, kind);
    command
}

fn rustup_run(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// Removes the variables that the outer `cargo xtask` and its caller set for their own build, because they would choose the
/// compiler, the flags or the folders of this one. Those for registries and the network stay.
fn clean(command: &mut Command, kind: Kind) {
    const OUTER: [&str; 9] = [
        "CARGO_BIN",
        "CARGO_BUILD_",
        "CARGO_CRATE_",
        "CARGO_ENCODED_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "RUSTC",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = OUTER.iter().any(|prefix| text.starts_with(prefix))
            || matches!(&*text, "CARGO" | "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "LD_LIBRARY_PATH")
            || (matches!(kind, Kind::Debian) && text.starts_with("RUSTUP_"));
        if outer {
            command.env_remove(&name);
        }
    }
}

/// Finds llvm-strip: the newest of Debian's, which have their version in the name, then one in `PATH`, then rustup's.
fn find_strip(sysroot: &Path) -> Option<PathBuf> {
    let versioned = fs::read_dir("/usr/bin").into_iter().flatten().flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.strip_prefix("llvm-strip-")?.parse().ok()?;
        Some((version, entry.path()))
    });
    versioned.max().map(|(_, file)| file).or_else(|| run::find("llvm-strip")).or_else(|| {
        let targets = fs::read_dir(sysroot.join("lib/rustlib")).ok()?.flatten();
        targets.map(|target| target.path().join("bin/llvm-strip")).find(|file| file.is_file())
    })
}
