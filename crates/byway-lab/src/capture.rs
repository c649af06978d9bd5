//! Captures frames on a device, by packet sockets (packet(7)).

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt,
        socket, sockopt::RcvBufForce,
    },
};

use crate::{
    Direction, Frame, Node,
    service::{Background, Stop},
    wait::Deadline,
};

/// What the kernel may hold before the background thread has fetched it, in bytes.
const KERNEL_BUFFER: usize = 16 * 1024 * 1024;

/// The largest packet that the kernel sends through a veth, with its header.
const LARGEST: usize = 512 * 1024;

impl Node {
    /// Captures every frame on a device from now on, in both directions. A frame that leaves is seen after tc's egress
    /// programs, one that comes in before tc's ingress programs; XDP programs come before both.
    ///
    /// Everything is kept until the capture is dropped: not meant for bulk transfers.
    ///
    /// # Errors
    ///
    /// An error if there is no such device; otherwise whatever socket(2) reports, which needs
    /// `CAP_NET_RAW`.
    pub fn capture(&self, device: &str) -> io::Result<Capture> {
        let ifindex = self.ifindex(device)?;
        // The socket receives from every device of the node; frames of other devices are filtered out below.
        let socket = self.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        })?;
        // A larger buffer is a courtesy to a slow machine.
        let _ = setsockopt(&socket, RcvBufForce, &KERNEL_BUFFER);
        let frames = Arc::new(Frames {
            socket,
            ifindex,
            taken: Mutex::new(Taken { list: Vec::new(), buffer: vec![0; LARGEST] }),
            more: Condvar::new(),
        });
        let background = Background::start({
            let frames = Arc::clone(&frames);
            move |stop| frames.fill(stop)
        })?;
        Ok(Capture { frames, background })
    }

    /// Sends one Ethernet frame out of a device as it is, through tc's egress programs.
    ///
    /// # Errors
    ///
    /// An error if there is no such device, or it has no Ethernet address; otherwise whatever
    /// send(2) reports, which takes `CAP_NET_RAW`.
    pub fn send_frame(&self, device: &str, frame: &[u8]) -> io::Result<()> {
        let sent = self.run(|| {
            let address = link_address(device)?;
            let protocol = None; // receives nothing
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            io::Result::Ok(sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty())?)
        })?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// A device's address for a packet socket in the calling thread's network namespace, of no protocol: such a socket
/// receives nothing.
pub(crate) fn link_address(device: &str) -> io::Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no Ethernet device {device}"))
        })
}

/// A capture in the background; it ends when this is dropped.
pub struct Capture {
    frames: Arc<Frames>,
    #[expect(dead_code, reason = "dropping it is what stops the thread")]
    background: Background,
}

impl Capture {
    /// Waits for a frame that `wanted` accepts and returns the first one, which may have come before the call. Returns
    /// `None` if there is none within `timeout`.
    pub fn wait_for(&self, timeout: Duration, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        let deadline = Deadline::after(timeout);
        let mut seen = 0;
        loop {
            // First whether time is up, and then what has come by now: so nothing that came in time is missed.
            let left = deadline.left();
            let taken = self.frames.take();
            if let Some(frame) = taken.list[seen..].iter().find(|frame| wanted(frame)) {
                return Some(frame.clone());
            }
            seen = taken.list.len();
            drop(self.frames.more.wait_timeout(taken, left.ok()?).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Counts the frames so far that `wanted` accepts: all that the device has had by now. It does not wait for one that
    /// is still on its way.
    pub fn count(&self, mut wanted: impl FnMut(&Frame) -> bool) -> usize {
        self.frames.take().list.iter().filter(|frame| wanted(frame)).count()
    }

    /// The frames so far, in order, as [`Capture::count`] sees them.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.take().list.clone()
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Capture")
            .field("frames", &self.frames.take().list.len())
            .finish_non_exhaustive()
    }
}

struct Frames {
    socket: OwnedFd,
    ifindex: u32,
    taken: Mutex<Taken>,
    more: Condvar,
}

struct Taken {
    list: Vec<Frame>,
    buffer: Vec<u8>,
}

impl Frames {
    /// Takes what the kernel holds. Who looks does so too: on a busy machine the background thread may be late by any time.
    fn take(&self) -> MutexGuard<'_, Taken> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Taken { list, buffer } = &mut *taken;
        let before = list.len();
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
                Ok((length, Some(from))) if from.ifindex() == self.ifindex as usize => {
                    let outgoing = from.pkttype() == libc::PACKET_OUTGOING;
                    let direction = if outgoing { Direction::Outgoing } else { Direction::Incoming };
                    list.push(Frame { direction, bytes: buffer[..length].to_vec() });
                }
                // ENETDOWN: a device went down; the others go on.
                Ok(_) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("a capture cannot be read: {error}"),
            }
        }
        if list.len() > before {
            self.more.notify_all();
        }
        taken
    }

    /// Keeps the kernel's buffer from filling up.
    fn fill(&self, stop: &Stop) {
        while stop.wait(self.socket.as_fd(), PollFlags::POLLIN).is_ok() {
            drop(self.take());
        }
    }
}
