//! Frames by the million, for measurements (packet(7), sendmmsg(2)).

use std::{
    fmt,
    io::{self, IoSlice},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt,
        socket, sockopt::SndBufForce,
    },
};

use crate::{Node, capture::link_address};

/// The send buffer of one sender, in bytes. The sender never waits: a slower receiver has to drop frames.
const UNDER_WAY: usize = 64 * 1024 * 1024;

impl Node {
    /// Opens a sender of many frames out of a device, for the calling thread. They go the way of [`Node::send_frame`].
    ///
    /// # Errors
    ///
    /// An error if there is no such device, or it has no Ethernet address; otherwise whatever socket(2) and bind(2)
    /// report, which need `CAP_NET_RAW`, and setsockopt(2), which needs `CAP_NET_ADMIN`.
    pub fn frame_sender(&self, device: &str) -> io::Result<FrameSender> {
        let socket = self.run(|| {
            let address = link_address(device)?;
            let protocol = None; // receives nothing
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            setsockopt(&socket, SndBufForce, &UNDER_WAY)?;
            bind(socket.as_raw_fd(), &address)?;
            io::Result::Ok(socket)
        })?;
        Ok(FrameSender { socket, headers: MultiHeaders::preallocate(FrameSender::BATCH, None) })
    }
}

/// Sends frames out of one device, many with one system call.
pub struct FrameSender {
    socket: OwnedFd,
    headers: MultiHeaders<LinkAddr>,
}

impl FrameSender {
    /// How many frames go out with one call at most.
    pub const BATCH: usize = 64;

    /// Sends up to [`FrameSender::BATCH`] frames, and returns how many it has sent. It stops at the first frame that the
    /// device drops for lack of room. (The veth of an older kernel does not report this, and such frames count as sent.)
    ///
    /// # Errors
    ///
    /// Whatever sendmmsg(2) reports about the first of them.
    pub fn send<const LENGTH: usize>(&mut self, frames: &[[u8; LENGTH]]) -> io::Result<usize> {
        let frames = &frames[..frames.len().min(Self::BATCH)];
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let nowhere_else = [const { None }; Self::BATCH];
        let flags = MsgFlags::empty();
        match sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &slices, nowhere_else, [], flags) {
            Ok(sent) => Ok(sent.count()),
            Err(Errno::ENOBUFS) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FrameSender").field("socket", &self.socket).finish_non_exhaustive()
    }
}
