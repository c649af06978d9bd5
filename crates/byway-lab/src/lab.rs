//! A lab: the nodes of one topology and how long they live.

use std::{
    cell::{Cell, RefCell},
    fs::{self, OpenOptions},
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use crate::{
    Bridge, Node,
    error::{Doing, Error, Result},
    link,
    mounts::{self, NETNS, PrivateMounts},
    namespace::Namespace,
};

/// A topology of network namespaces.
///
/// [`Lab::new`] makes a private one, for tests: its thread gets a mount namespace of its own with an empty
/// `/run/netns` and an empty bpffs on `/sys/fs/bpf`, which threads and child processes started from it inherit.
/// Nothing shows on the host, names never clash, and nothing is left behind, whatever ends the process.
///
/// [`Lab::named`] makes one that the whole host sees as `PREFIX-NODE` in `ip netns`, for demonstrations.
///
/// A lab stays on the thread that made it, because mount namespaces belong to threads; nodes may move. Nested labs on one
/// thread must be dropped in reverse order, as Rust drops variables.
#[derive(Debug)]
pub struct Lab {
    /// What a node's name begins with in `/run/netns`.
    prefix: String,
    /// The names to remove on drop, in a lab that the host sees.
    names: RefCell<Vec<PathBuf>>,
    kept: Cell<bool>,
    private: Option<PrivateMounts>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Lab {
    /// Makes a private lab, which vanishes when it is dropped and the last process in it has ended. The calling
    /// thread enters a new mount namespace and goes back when the lab is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] without `CAP_SYS_ADMIN`, `CAP_NET_ADMIN` and `CAP_NET_RAW`; otherwise the mount that failed.
    pub fn new() -> Result<Self> {
        require_capabilities()?;
        Ok(Self::with(String::new(), Some(PrivateMounts::enter()?)))
    }

    /// Makes a lab whose namespaces are `/run/netns/PREFIX-NODE` for the whole host, as `ip netns add` makes them.
    /// They are removed when the lab is dropped, unless [`Lab::keep`] was called.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] as in [`Lab::new`]; [`Error::Invalid`] for a prefix that cannot be part of a file name;
    /// otherwise what mkdir(2) and mount(2) report about `/run/netns`.
    pub fn named(prefix: &str) -> Result<Self> {
        require_capabilities()?;
        check_name(prefix)?;
        mounts::share_names()?;
        Ok(Self::with(format!("{prefix}-"), None))
    }

    fn with(prefix: String, private: Option<PrivateMounts>) -> Self {
        Self {
            prefix,
            names: RefCell::default(),
            kept: Cell::new(false),
            private,
            stays_on_its_thread: PhantomData,
        }
    }

    /// Keeps the namespaces of a named lab after it is dropped, until [`Lab::remove_named`]. A private lab cannot be kept,
    /// because it has no names to find it by.
    pub fn keep(&self) {
        self.kept.set(true);
    }

    /// Removes what a kept (or killed) named lab has left behind, and returns the removed names in order. The namespaces
    /// themselves end with their last process.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] as in [`Lab::new`]; otherwise the name whose removal failed, after all were tried.
    pub fn remove_named(prefix: &str) -> Result<Vec<String>> {
        require_capabilities()?;
        check_name(prefix)?;
        let entries = match fs::read_dir(NETNS) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).doing(|| format!("reading {NETNS}")),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')))
            .collect();
        names.sort();
        let mut outcome = Ok(());
        for name in &names {
            let removed = mounts::remove_name(&Path::new(NETNS).join(name));
            outcome = outcome.and(removed.doing(|| format!("removing network namespace {name}")));
        }
        outcome.map(|()| names)
    }

    /// Adds a node: a network namespace whose loopback device is up and whose sysctls do not depend on the host's.
    ///
    /// Whatever the host's defaults: no forwarding, no `rp_filter`, no ICMP rate limit, no redirects, no router
    /// advertisements, `arp_*` filters off, IPv6 on without duplicate address detection (an address is usable at
    /// once), and ping sockets for everybody. The rest is the kernel's default.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that cannot be a file name; [`Error::System`] where the name is taken (in a
    /// named lab: by a kept lab, see [`Lab::remove_named`]) or the namespace cannot be made.
    pub fn node(&self, name: &str) -> Result<Node> {
        check_name(name)?;
        let path = Path::new(NETNS).join(format!("{}{name}", self.prefix));
        let doing = |what: &str| format!("{what} {}", path.display());
        let namespace = Namespace::create().doing(|| doing("making the network namespace"))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .doing(|| doing("making the network namespace's name"))?;
        self.names.borrow_mut().push(path.clone());
        namespace.mount_on(&path).doing(|| doing("mounting the network namespace on"))?;
        Node::new(name, path, namespace)
    }

    /// Joins two nodes by a veth pair: each end is a node and the device's name there. Both are up. Returns when both
    /// have a carrier and a usable IPv6 link-local address.
    ///
    /// The pair is made inside the namespaces: its names never exist anywhere else. It is removed with either of its
    /// nodes (veth(4)).
    ///
    /// # Errors
    ///
    /// [`Error::System`] for a name that is taken or too long (15 bytes), or if no carrier came within 5 s.
    pub fn link(&self, a: (&Node, &str), b: (&Node, &str)) -> Result<()> {
        link::add_veth(a, b)?;
        for (node, device) in [a, b] {
            node.set_up(device, true)?;
        }
        for (node, device) in [a, b] {
            link::wait_until_usable(node, device)?;
        }
        Ok(())
    }

    /// Joins several nodes to one LAN: a [`Bridge`] in a namespace of its own, named like a node, with a port for
    /// each node and device.
    ///
    /// # Errors
    ///
    /// As for [`Lab::node`] and [`Bridge::plug`].
    pub fn bridge(&self, name: &str, ports: &[(&Node, &str)]) -> Result<Bridge> {
        let bridge = Bridge::new(self.node(name)?)?;
        for (node, device) in ports {
            bridge.plug(node, device)?;
        }
        Ok(bridge)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The names of a private lab go with its mount namespace, but sockets and processes that outlive the lab
        // in that namespace would keep every node alive by its mount.
        if self.private.is_some() || !self.kept.get() {
            for path in self.names.get_mut() {
                let _ = mounts::remove_name(path);
            }
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && !name.starts_with('.') && name.len() <= 100 && name.chars().all(good) {
        Ok(())
    } else {
        Err(Error::invalid(name, "a name of letters, digits, `-`, `_` and `.`"))
    }
}

/// Reports a missing privilege in one sentence and at once, rather than as an EPERM from somewhere later.
fn require_capabilities() -> Result<()> {
    // proc_pid_status(5): a hexadecimal mask; the numbers are those of linux/capability.h.
    let status =
        fs::read_to_string("/proc/thread-self/status").doing(|| "reading this thread's capabilities")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    for (bit, capability) in [(21, "CAP_SYS_ADMIN"), (12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")] {
        if effective & (1 << bit) == 0 {
            return Err(Error::Privilege { doing: "making hosts out of network namespaces", capability });
        }
    }
    Ok(())
}
