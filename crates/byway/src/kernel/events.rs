//! What the network stack tells: that devices, addresses, routes or rules have changed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
        socket,
        sockopt::{RcvBuf, RcvBufForce},
    },
};

use crate::error::{Error, Result};

/// The groups of rtnetlink, as bits (include/uapi/linux/rtnetlink.h).
const GROUPS: u32 = group(libc::RTNLGRP_LINK)
    | group(libc::RTNLGRP_IPV4_IFADDR)
    | group(libc::RTNLGRP_IPV4_ROUTE)
    | group(libc::RTNLGRP_IPV4_RULE)
    | group(libc::RTNLGRP_IPV6_IFADDR)
    | group(libc::RTNLGRP_IPV6_ROUTE)
    | group(libc::RTNLGRP_IPV6_RULE);

const fn group(number: libc::c_uint) -> u32 {
    1 << (number - 1)
}

/// Bytes of messages that the kernel keeps for a reader that is busy. It takes as much memory only if it has to.
const BUFFER: usize = 4 << 20;

/// Tells when devices, addresses, routes or routing rules of a network namespace change, for a caller of
/// [`Byway::follow`](crate::Byway::follow). Its descriptor is readable when something has changed (poll(2)).
#[derive(Debug)]
pub struct NetworkEvents {
    socket: OwnedFd,
}

/// How many events there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// Messages that were read.
    pub messages: u64,
    /// How often the kernel had no room for more, so messages are missing (`ENOBUFS`, netlink(7)).
    pub overruns: u64,
}

impl NetworkEvents {
    /// Listens in the calling thread's network namespace. It keeps up to `buffer` bytes of messages, or 4 MiB.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn open(buffer: Option<usize>) -> Result<Self> {
        Self::listen(GROUPS, buffer.unwrap_or(BUFFER))
    }

    /// Listens to changes of neighbours instead.
    pub(crate) fn of_neighbours() -> Result<Self> {
        Self::listen(group(libc::RTNLGRP_NEIGH), BUFFER)
    }

    fn listen(groups: u32, buffer: usize) -> Result<Self> {
        let action = "listen to changes of the network";
        let listen = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let protocol = SockProtocol::NetlinkRoute;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            // Only CAP_NET_ADMIN may have more than net.core.rmem_max.
            setsockopt(&socket, RcvBufForce, &buffer).or_else(|_| setsockopt(&socket, RcvBuf, &buffer))?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(Self { socket })
        };
        listen().map_err(|errno: Errno| Error::kernel(action, errno))
    }

    /// Takes all messages that are there. Does not wait.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn take(&mut self) -> Result<EventCounts> {
        let mut taken = EventCounts::default();
        // What has changed is read anew anyway, so the messages themselves do not matter.
        let mut start = [0; 16];
        loop {
            let fd = self.socket.as_raw_fd();
            match recv(fd, &mut start, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => taken.messages += 1,
                Err(Errno::EAGAIN) => return Ok(taken),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => taken.overruns += 1,
                Err(errno) => return Err(Error::kernel("listen to changes of the network", errno)),
            }
        }
    }
}

impl AsFd for NetworkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
