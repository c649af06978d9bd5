//! A node: a network namespace that stands for a host.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use byway_netlink::{Netlink, packet::RouteNetlinkMessage};

use crate::{
    error::{Doing, Result},
    namespace::Namespace,
};

/// A host of a [`crate::Lab`]. Clones are handles on the same host, usable from every thread.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    path: PathBuf,
    namespace: Namespace,
    /// A socket stays in the namespace that it was opened in, so that requests need no change of namespace.
    netlink: Mutex<Netlink>,
}

impl Node {
    pub(crate) fn new(name: &str, path: PathBuf, namespace: Namespace) -> Result<Self> {
        let netlink = namespace.run(Netlink::open).doing(|| format!("opening a netlink socket on {name}"))?;
        let node =
            Self(Arc::new(Inner { name: name.to_owned(), path, namespace, netlink: Mutex::new(netlink) }));
        node.set_explicit_sysctls()?;
        node.set_up("lo", true)?;
        Ok(node)
    }

    /// The name that [`crate::Lab::node`] was given, without a named lab's prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The namespace's file below `/run/netns`: what `--netns PATH` takes, in the lab's mount namespace.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The name for `--netns NAME` and `ip netns`: with a named lab's prefix.
    #[must_use]
    pub fn netns(&self) -> &str {
        self.0.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Runs `work` in a thread inside the node, waits for it and returns its value. The thread shares the caller's
    /// mount namespace. Sockets opened there stay in the node and may be used anywhere.
    ///
    /// # Panics
    ///
    /// If `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace().run(work)
    }

    /// Runs `work` in a background thread inside the node, which lives on until `work` returns.
    ///
    /// # Panics
    ///
    /// If no thread can be created (pthread_create(3)).
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let node = self.clone();
        thread::spawn(move || {
            node.namespace().enter();
            work()
        })
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    pub(crate) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.netlink(|netlink| netlink.change(message, flags))
    }

    pub(crate) fn get(&self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.netlink(|netlink| netlink.get(message))
    }

    pub(crate) fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.netlink(|netlink| netlink.dump(message))
    }

    fn netlink<T>(&self, request: impl FnOnce(&mut Netlink) -> T) -> T {
        request(&mut self.0.netlink.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Node").field("name", &self.name()).field("path", &self.path()).finish()
    }
}
