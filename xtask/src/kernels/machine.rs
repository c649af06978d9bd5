//! Virtual machines. A [`Machine`] boots a kernel with a folder of this host as its file system. It has two serial lines: the
//! kernel's console, which goes to a log, and the output of what runs in it.
//!
//! A [`Job`] is a shell script, run as root in a machine on this host's own file system, read-only underneath and with a
//! writable layer that is gone at the end.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::packages::Kernel;
use crate::{run, suite::quoted};

/// What the machine itself and the tests need. One that a kernel lacks or has built in is passed over.
const MODULES: &str = "virtio_pci virtiofs overlay veth bridge dummy sch_ingress cls_bpf act_bpf vxlan sch_netem \
    nf_tables nft_chain_nat nft_nat nf_nat nft_ct tun macvlan af_packet 8021q vrf wireguard bonding ipip ip_gre \
    esp4 esp6 xfrm_user authenc echainiv drbg nf_flow_table nf_flow_table_inet nft_flow_offload ip_vs \
    ip_vs_rr";

/// Comes before the script's exit status, at the end of its output.
const EXIT: &str = "::machine exit ";

const MEMORY: &str = "2048M";

/// Lines of the console to show when a machine dies or hangs.
const TAIL: usize = 60;

/// What to run on which kernel.
pub(crate) struct Job<'a> {
    pub(crate) kernel: &'a Kernel,
    /// A shell script.
    pub(crate) script: &'a str,
    /// Folders that the script needs; they are visible even below /tmp and /run, which start out empty.
    pub(crate) shared: &'a [&'a Path],
    pub(crate) limit: Duration,
}

/// A machine, whatever it does.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    /// What to load before anything else runs.
    pub(crate) modules: &'a str,
    /// Names and contents of files in its first file system. One of them is `init`, the first process.
    pub(crate) files: &'a [(&'a str, &'a str)],
    /// The folder that it has as the virtiofs `host`, and how long it may take what is there for unchanged.
    pub(crate) shared: (&'a Path, Cache),
    /// Further arguments of qemu.
    pub(crate) devices: &'a [&'a str],
    /// Further words of the kernel's command line.
    pub(crate) settings: &'a str,
    pub(crate) limit: Duration,
}

/// What virtiofsd calls `cache`.
#[derive(Clone, Copy)]
pub(crate) enum Cache {
    /// The files hold still while the machine runs. Asking after each again makes starting a program five times slower.
    Always,
    /// The machine writes to them.
    Auto,
}

/// Installs the programs that make and run a machine.
pub(crate) fn install_tools() -> Result<()> {
    run::install_missing(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("cpio", "cpio"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
        ("modprobe", "kmod"),
        // A test calls it.
        ("ipvsadm", "ipvsadm"),
    ])?;
    // Debian 12's qemu brings it along; later it is a package.
    run::install_missing(&[("virtiofsd", "virtiofsd")])
}

impl Job<'_> {
    /// Boots, hands each line of the script's output on, and returns the script's exit status.
    pub(crate) fn run(&self, mut on_line: impl FnMut(&str)) -> Result<u8> {
        let machine = Machine {
            kernel: self.kernel,
            modules: MODULES,
            files: &[("init", &self.init()), ("script", self.script)],
            shared: (Path::new("/"), Cache::Always),
            devices: &["-net", "none"],
            // At random addresses qemu translates the code of each process anew, which takes most of a short one's time.
            settings: "loglevel=5 norandmaps",
            limit: self.limit,
        };
        let mut status = None;
        let console = machine.run(|line| match line.split_once(EXIT) {
            Some((unfinished, text)) => {
                if !unfinished.is_empty() {
                    on_line(unfinished);
                }
                status = text.parse().ok();
            }
            None => on_line(line),
        })?;
        status.with_context(|| {
            format!("the machine died before its script had ended; the end of the console:\n{console}")
        })
    }

    /// The first process: puts the host's files under a writable layer and runs the script there.
    fn init(&self) -> String {
        let mut shared = String::new();
        for folder in self.shared.iter().filter(|f| f.starts_with("/tmp") || f.starts_with("/run")) {
            let _ = write!(shared, " {}", quoted(&folder.to_string_lossy()));
        }
        format!(
            r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*; do
    case $module in
        *-dummy.ko) $b insmod $module numdummies=0 ;; # no interface but lo to begin with
        *) $b insmod $module ;;
    esac
done

layer() {{ # a writable layer over one of the host's folders
    layers=$((layers + 1))
    $b mkdir -p /rw/$layers/upper /rw/$layers/work "$2"
    $b mount -t overlay layer -o "lowerdir=$1,upperdir=/rw/$layers/upper,workdir=/rw/$layers/work" "$2"
}}
die() {{ echo "init: $1"; $b poweroff -f; }}
$b mount -t virtiofs -o ro host /ro || die "the host's files are not there"
$b mount -t tmpfs rw /rw
layer /ro /new || die "there is no layer over the host's files"

$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount -t devtmpfs dev /new/dev
$b ln -s /proc/self/fd /new/dev/fd # udev does this on a host
$b mkdir -p /new/dev/pts /new/dev/shm
$b mount -t devpts pts /new/dev/pts
$b mount -t tmpfs shm /new/dev/shm
$b mount -t tmpfs run /new/run
$b mount -t tmpfs tmp /new/tmp
$b chmod 1777 /new/tmp /new/dev/shm
for folder in{shared}; do layer "/ro$folder" "/new$folder"; done
$b mount -t bpf bpf /new/sys/fs/bpf
$b mount -t cgroup2 cgroup /new/sys/fs/cgroup
$b ip link set lo up

$b stty -F /dev/ttyS1 raw
$b cp /script /new/run/script
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
# Through a pipe, for on a terminal programs print colours.
set -o pipefail
$b chroot /new /bin/sh /run/script </dev/null 2>&1 | $b cat >/dev/ttyS1
status=$?
echo "{EXIT}$status" >/dev/ttyS1
$b poweroff -f
"#
        )
    }
}

impl Machine<'_> {
    /// Boots, and hands on each line of the second serial line until the machine goes off. Returns the end of the console.
    pub(crate) fn run(&self, mut on_line: impl FnMut(&str)) -> Result<String> {
        let folder = tempfile::tempdir().context("creating a folder for the machine")?;
        let console = folder.path().join("console.log");
        let initramfs = self.initramfs(folder.path())?;
        let socket = folder.path().join("files");
        let _files = share_files(&socket, self.shared)?;
        let mut machine = self.start(&socket, &initramfs, &console)?;

        let lines = lines_of(&mut machine.0)?;
        let deadline = Instant::now() + self.limit;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => on_line(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "not done within the time limit of {} minutes; the end of the console:\n{}",
                    self.limit.as_secs() / 60,
                    tail(&console)
                ),
            }
        }
        let end = machine.0.wait().context("waiting for qemu")?;
        if !end.success() {
            bail!("qemu failed ({end}); the end of the console:\n{}", tail(&console));
        }
        Ok(tail(&console))
    }

    fn start(&self, socket: &Path, initramfs: &Path, console: &Path) -> Result<Running> {
        // Never /dev/kvm: where tests run it may be there and not work.
        //
        // One processor. Two machines side by side with one each get through more than one after the other with two. And
        // where the first program of all comes to a hook, or the last one goes, the kernel writes over its own code in every
        // packet's path (static keys): of several processors that qemu emulates, one at times runs the breakpoint that is
        // there in between after it has gone, and the kernel dies of it.
        let mut qemu = dying_with_us("qemu-system-x86_64");
        // A plain processor: what a newer one can do besides costs qemu a tenth more.
        qemu.args(["-accel", "tcg", "-cpu", "Nehalem", "-smp", "1", "-m", MEMORY]);
        // virtiofs needs memory that it can share.
        qemu.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY},share=on"));
        qemu.args(["-numa", "node,memdev=memory"]);
        qemu.arg("-chardev").arg(format!("socket,id=files,path={}", socket.display()));
        qemu.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]).args(self.devices);
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(initramfs);
        let settings = "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on";
        qemu.arg("-append").arg(format!("{settings} {}", self.settings));
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = qemu.spawn().with_context(|| run::cannot_start(&qemu, ""))?;
        Ok(Running(child))
    }

    /// Makes the first file system of the machine: busybox, the modules in the order of their loading, and the files.
    fn initramfs(&self, folder: &Path) -> Result<PathBuf> {
        let root = folder.join("root");
        for name in ["bin", "dev", "modules", "new", "proc", "ro", "rw"] {
            fs::create_dir_all(root.join(name)).context("creating the initramfs")?;
        }
        let busybox = run::find("busybox").context("there is no busybox (package busybox-static)")?;
        fs::copy(busybox, root.join("bin/busybox")).context("copying busybox")?;
        for (position, module) in self.module_files()?.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split('.').next().unwrap_or_default();
            unpack(module, &root.join(format!("modules/{position:03}-{name}.ko")))?;
        }
        for (name, text) in self.files {
            fs::write(root.join(name), text).with_context(|| format!("writing the {name}"))?;
        }

        let image = folder.join("initramfs");
        let pack = format!(
            "chmod 755 init && find . | cpio --quiet -o -H newc >{}",
            quoted(&image.to_string_lossy())
        );
        run::output(Command::new("sh").args(["-c", &pack]).current_dir(&root), "Install the package cpio.")?;
        Ok(image)
    }

    /// The files of the modules, each after those that it depends on.
    fn module_files(&self) -> Result<Vec<PathBuf>> {
        let mut seen = HashSet::new();
        let mut files = vec![];
        for module in self.modules.split_whitespace() {
            let mut modprobe =
                Command::new(run::find("modprobe").context("there is no modprobe (package kmod)")?);
            modprobe.args(["--config", "/dev/null", "--dirname"]).arg(&self.kernel.base);
            modprobe.args(["--set-version", &self.kernel.release, "--show-depends", module]);
            let Ok(listed) = run::output(&mut modprobe, "") else { continue };
            let inserted = listed.lines().filter_map(|line| line.trim().strip_prefix("insmod "));
            files.extend(inserted.map(PathBuf::from).filter(|file| seen.insert(file.clone())));
        }
        Ok(files)
    }
}

/// Starts the daemon that hands a folder to a machine, and waits until it is ready.
fn share_files(socket: &Path, (folder, cache): (&Path, Cache)) -> Result<Running> {
    let help = "It comes with Debian 12's qemu-system-x86, later with the package virtiofsd, and needs root.";
    let program = run::find("virtiofsd").with_context(|| format!("there is no virtiofsd\n{help}"))?;
    let log = socket.with_extension("log");
    let output = fs::File::create(&log).context("creating virtiofsd's log")?;
    let errors = output.try_clone().context("creating virtiofsd's log")?;
    let mut command = dying_with_us(&program.to_string_lossy());
    command.arg(format!("--socket-path={}", socket.display()));
    let cache = match cache {
        Cache::Always => "cache=always",
        Cache::Auto => "cache=auto",
    };
    command.arg("-o").arg(format!("source={}", folder.display()));
    command.args(["-o", cache, "-o", "sandbox=chroot", "--rlimit-nofile=0"]);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = Running(command.spawn().with_context(|| run::cannot_start(&command, help))?);

    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        let ended = child.0.try_wait().context("waiting for virtiofsd")?;
        if ended.is_some() || Instant::now() > deadline {
            bail!("virtiofsd does not share {}\n{}\n{help}", folder.display(), tail(&log));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// A process that ends when this goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that is killed with this process, so that no machine runs on when xtask is.
fn dying_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// The lines of a process's output, through a channel so that waiting for one can have a limit.
fn lines_of(process: &mut Child) -> Result<mpsc::Receiver<String>> {
    let mut output = BufReader::new(process.stdout.take().context("the process has no output")?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = vec![];
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(text.trim_end_matches(['\r', '\n']).to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    Ok(receiver)
}

/// Copies a module, decompressed: older kernels cannot do that themselves.
fn unpack(module: &Path, target: &Path) -> Result<()> {
    let (program, arguments) = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => ("xz", "-dc"),
        Some("zst") => ("zstd", "-dqc"),
        _ => ("cat", "--"),
    };
    let script = format!("{program} {arguments} \"$0\" >\"$1\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(module).arg(target);
    run::output(&mut command, "Install the packages xz-utils and zstd.")?;
    Ok(())
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
