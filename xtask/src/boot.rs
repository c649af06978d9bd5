//! `cargo xtask boot`: the package on a Debian that boots with systemd, from its installation to its purge.
//!
//! debootstrap makes the file system, qemu boots it (`kernels/machine.rs`), and `boot/trial.sh` runs in it, one phase each
//! time. The machine's first two cards lead to the other two, which are two routers in network namespaces, so no packet
//! leaves it, and it reaches nobody.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    dist::{self, Dist},
    kernels::{
        self,
        machine::{Cache, Machine},
        packages,
    },
    run,
    workspace::Workspace,
};

const KERNEL: &str = "6.12";

/// What runs at each boot, in this order: functions of `trial.sh`.
const PHASES: &[&str] = &["upgrade", "reboot", "late_uplink", "agent", "removal"];

/// Beside what debootstrap installs by itself.
const PACKAGES: &str = "bash-completion,bpftool,dbus,ifupdown,iproute2,iputils-ping,kmod,man-db,systemd-sysv";

/// The machine's cards: eth0 and eth2 on one wire, eth1 and eth3 on the other.
const CARDS: [&str; 4] = ["0", "1", "0", "1"];

const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module; done
$b mount -t virtiofs host /new || { echo 'init: the file system is not there'; $b poweroff -f; }
$b umount /proc
$b mount --move /dev /new/dev
exec $b switch_root /new /lib/systemd/systemd
";

/// Files of the trial, and where they belong in the machine.
const FILES: &[(&str, u32, &str)] = &[
    ("trial.sh", 0o755, include_str!("boot/trial.sh")),
    ("etc/systemd/system/trial.service", 0o644, include_str!("boot/trial.service")),
    ("etc/systemd/system/routers.service", 0o644, include_str!("boot/routers.service")),
    ("etc/network/interfaces", 0o644, include_str!("boot/interfaces")),
];

/// Try the package on a Debian that boots: upgrade under traffic, reboot, an uplink that comes late, the agent, removal
///
/// The machine runs under qemu, with a kernel and packages from this machine's Debian mirrors. Nothing in it reaches the
/// network.
#[derive(Args, Default)]
pub(crate) struct Boot {
    /// The .deb to try, instead of building one
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
    /// The .deb to upgrade from, instead of building one of the source before the programs last changed
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
}

impl Boot {
    pub(crate) fn exec(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let folder = workspace.target.join("boot");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let previous = match self.previous {
            Some(file) => file,
            None => previous(&workspace, &folder)?,
        };
        let package = match self.package {
            Some(file) => file,
            None => Dist::new(None).build()?,
        };

        let kernel = kernels::find(&[KERNEL.parse().map_err(anyhow::Error::msg)?])?.remove(0).kernel;
        let root = folder.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        run::output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(debian()?).arg(&root), "")?;
        furnish(&root, &[("previous.deb", &previous), ("byway.deb", &package)])?;

        let mut failed = vec![];
        for phase in PHASES {
            fs::write(root.join("phase"), phase).context("writing the name of the phase")?;
            let outcome = boot(&kernel, &root)?;
            println!("{phase}: {} passed, {} failed", outcome.passed, outcome.failed);
            if outcome.failed > 0 {
                failed.push(*phase);
            }
        }
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
    }
}

/// What one boot came to.
#[derive(Default)]
struct Outcome {
    passed: u32,
    failed: u32,
}

/// Boots once, and shows what the trial says.
fn boot(kernel: &packages::Kernel, root: &Path) -> Result<Outcome> {
    let mut devices = vec![];
    let cards = CARDS.iter().enumerate().map(|(card, wire)| {
        (
            format!("hubport,id=wire{card},hubid={wire}"),
            format!("virtio-net-pci,netdev=wire{card},mac=52:54:00:00:00:0{card}"),
        )
    });
    let cards: Vec<_> = cards.collect();
    for (port, card) in &cards {
        devices.extend(["-netdev", port, "-device", card]);
    }
    let machine = Machine {
        kernel,
        modules: "virtio_pci virtiofs virtio_net",
        files: &[("init", INIT)],
        shared: (root, Cache::Auto),
        devices: &devices,
        settings: "net.ifnames=0 loglevel=5 systemd.show_status=error",
        limit: Duration::from_secs(15 * 60),
    };
    let (mut outcome, mut has_ended) = (Outcome::default(), false);
    let console = machine.run(|line| {
        match line.split(' ').next() {
            Some("ok") => outcome.passed += 1,
            Some("FAILED") => outcome.failed += 1,
            Some("end") => has_ended = true,
            _ => {}
        }
        println!("  {line}");
    })?;
    if !has_ended || outcome.passed == 0 {
        bail!("the trial did not get to its end; the end of the console:\n{console}");
    }
    Ok(outcome)
}

/// Puts the trial into a Debian.
fn furnish(root: &Path, packages: &[(&str, &Path)]) -> Result<()> {
    for (name, file) in packages {
        fs::copy(file, root.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    for (name, mode, text) in FILES {
        let file = root.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        fs::set_permissions(&file, Permissions::from_mode(*mode))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    let units = root.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).with_context(|| format!("creating {}", wants.display()))?;
    for unit in ["routers.service", "trial.service"] {
        symlink(Path::new("..").join(unit), wants.join(unit)).with_context(|| format!("enabling {unit}"))?;
    }
    // They would hold dpkg's lock at times, and wait for a network.
    for unit in ["apt-daily.timer", "apt-daily-upgrade.timer"] {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("masking {unit}"))?;
    }
    Ok(())
}

/// A Debian of this machine's release, made once.
fn debian() -> Result<PathBuf> {
    run::install_missing(&[("debootstrap", "debootstrap")])?;
    let cache = kernels::cache("debian")?;
    let codename = packages::codename()?;
    let (debian, list) = (cache.join(&codename), cache.join(format!("{codename}.packages")));
    if debian.exists() && fs::read_to_string(&list).is_ok_and(|packages| packages == PACKAGES) {
        return Ok(debian);
    }
    if debian.exists() {
        fs::remove_dir_all(&debian).with_context(|| format!("removing {}", debian.display()))?;
    }
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let scratch = tempfile::tempdir_in(&cache).context("creating a folder for Debian")?;
    let root = scratch.path().join("root");
    eprintln!("making a Debian {codename}");
    let debootstrap = run::find("debootstrap").context("there is no debootstrap")?;
    let mut debootstrap = Command::new(debootstrap);
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), &codename]);
    run::output(
        debootstrap.arg(&root).arg(packages::mirror(false)?),
        "It needs root, and the Debian mirror.",
    )?;
    fs::rename(&root, &debian).with_context(|| format!("moving Debian to {}", debian.display()))?;
    fs::write(&list, PACKAGES).with_context(|| format!("writing {}", list.display()))?;
    Ok(debian)
}

/// Builds the source as it was before the eBPF programs last changed, so that an upgrade from there replaces them. The
/// binary comes into a package of today: what is tried is the take-over in the kernel, and today's maintainer scripts.
fn previous(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        run::output(git.args(arguments).current_dir(&workspace.root), "Run it in a clone with its history.")
    };
    let change = git(&["log", "-1", "--format=%H", "--", "crates/byway/src/kernel/byway.bpf.o"])?;
    let commit = format!("{}^", change.trim());
    let source = folder.join("previous");
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| format!("removing {}", source.display()))?;
    }
    fs::create_dir_all(&source).with_context(|| format!("creating {}", source.display()))?;
    let archive = folder.join("previous.tar");
    git(&["archive", "--format=tar", "--output", &archive.to_string_lossy(), &commit])?;
    run::output(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&source), "")?;
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;

    eprintln!(
        "building the version of {}, to upgrade from",
        git(&["log", "-1", "--format=%h, %s", &commit])?.trim()
    );
    let target = folder.join("previous-target");
    let mut cargo = workspace.cargo();
    cargo.current_dir(&source).args(["build", "--release", "--locked", "--package", "byway-cli"]);
    cargo.args(["--no-default-features", "--target", &dist::target(env::consts::ARCH)]);
    cargo.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_RELEASE_STRIP", "true");
    run::visibly(cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static"), "")?;
    let binary = target.join(dist::target(env::consts::ARCH)).join("release/byway");
    // The package of this source goes to the same place.
    let package = folder.join("previous.deb");
    fs::copy(Dist::new(Some(binary)).build()?, &package)
        .with_context(|| format!("writing {}", package.display()))?;
    Ok(package)
}
