//! Servers in the background that stop when they are dropped.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Node;

/// A server in the background of a node. It stops, and closes its socket and its connections, when it is dropped.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    #[expect(dead_code, reason = "dropping it is what stops the thread")]
    background: Background,
}

impl Service {
    /// The address that it listens on. If port 0 was requested, this has the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn new(address: SocketAddr, background: Background) -> Self {
        Self { address, background }
    }

    /// Listens for TCP connections and serves each in a thread of its own.
    pub(crate) fn tcp(
        node: &Node,
        address: SocketAddr,
        serve: impl Fn(Connection<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = node.run(|| TcpListener::bind(address))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let background = Background::start(move |stop| accept(&listener, stop, &serve))?;
        Ok(Self::new(address, background))
    }
}

fn accept(
    listener: &TcpListener,
    stop: &Stop,
    serve: &(impl Fn(Connection<'_>) -> io::Result<()> + Send + Sync),
) {
    thread::scope(|scope| {
        while stop.wait(listener.as_fd(), PollFlags::POLLIN).is_ok() {
            // Do not stop if a client has gone before it was accepted.
            let Ok(connection) = Connection::accept(listener, stop) else { continue };
            scope.spawn(move || {
                // A failing connection shows at the client.
                let _ = serve(connection);
            });
        }
    });
}

/// A thread. Dropping this stops it and waits for its end.
#[derive(Debug)]
pub(crate) struct Background {
    /// Closing it is the signal: a condition that poll(2) sees beside sockets, and that stays.
    signal: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(work: impl FnOnce(&Stop) + Send + 'static) -> io::Result<Self> {
        let (signal, stop) = UnixStream::pair()?;
        let thread = thread::Builder::new().spawn(move || work(&Stop(stop)))?;
        Ok(Self { signal: Some(signal), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.signal.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The background thread's side of its [`Background`].
pub(crate) struct Stop(UnixStream);

impl Stop {
    /// Waits for `events` on a descriptor. Returns an error when it is time to stop.
    pub(crate) fn wait(&self, descriptor: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
        loop {
            let mut descriptors =
                [PollFd::new(descriptor, events), PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            let [descriptor, stop] = descriptors;
            if stop.any().unwrap_or(true) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the service has been stopped"));
            }
            if descriptor.any().unwrap_or(true) {
                return Ok(());
            }
        }
    }

    /// Tries `attempt` until it does not block any more.
    pub(crate) fn retry<T>(
        &self,
        descriptor: BorrowedFd<'_>,
        events: PollFlags,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(descriptor, events)?,
                result => return result,
            }
        }
    }
}

/// A server's side of a TCP connection: reads and writes fail when the service stops.
pub(crate) struct Connection<'a> {
    stream: TcpStream,
    stop: &'a Stop,
}

impl<'a> Connection<'a> {
    pub(crate) fn accept(listener: &TcpListener, stop: &'a Stop) -> io::Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, stop })
    }
}

impl Read for Connection<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.retry(self.stream.as_fd(), PollFlags::POLLIN, || (&self.stream).read(buffer))
    }
}

impl Write for Connection<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stop.retry(self.stream.as_fd(), PollFlags::POLLOUT, || (&self.stream).write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
