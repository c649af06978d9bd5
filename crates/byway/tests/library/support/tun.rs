//! Tun devices: what a device sends, a program reads from a file, and what the program writes, the device receives
//! (Documentation/networking/tuntap.rst).

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use byway_lab::{Error, Node};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest packet that a device sends.
const LARGEST: usize = 64 * 1024;

/// A program that carries packets between the tun devices of two nodes, until it is dropped. The devices go with it.
pub(crate) struct Wire {
    /// Closing it is the signal to stop.
    signal: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Joins two nodes; both devices are on.
    pub(crate) fn new(a: (&Node, &str), b: (&Node, &str)) -> byway_lab::Result<Self> {
        Self::with_delay(a, b, Duration::ZERO)
    }

    /// Joins two nodes by a wire that each packet takes so long to pass.
    pub(crate) fn with_delay(a: (&Node, &str), b: (&Node, &str), delay: Duration) -> byway_lab::Result<Self> {
        let files = [open(a)?, open(b)?];
        for (node, device) in [a, b] {
            node.set_up(device, true)?;
        }
        let (signal, stop) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || carry(&files, delay, &stop));
        Ok(Self { signal: Some(signal), thread: Some(thread) })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.signal.take());
        let _ = self.thread.take().unwrap().join();
    }
}

fn carry(files: &[File; 2], delay: Duration, stop: &UnixStream) {
    let mut packet = vec![0; LARGEST];
    // When each packet is to arrive, and where.
    let mut under_way: VecDeque<(Instant, usize, Vec<u8>)> = VecDeque::new();
    loop {
        let left = under_way.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(PollTimeout::MAX)
        });
        let mut descriptors = [files[0].as_fd(), files[1].as_fd(), stop.as_fd()]
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        poll(&mut descriptors, timeout).unwrap();
        let [ready_a, ready_b, stopped] = descriptors.map(|descriptor| descriptor.any().unwrap_or(true));
        if stopped {
            return;
        }
        for (ready, from, to) in [(ready_a, 0, 1), (ready_b, 1, 0)] {
            if ready && let Ok(length) = (&files[from]).read(&mut packet) {
                under_way.push_back((Instant::now() + delay, to, packet[..length].to_vec()));
            }
        }
        while under_way.front().is_some_and(|(due, ..)| *due <= Instant::now())
            && let Some((_, to, packet)) = under_way.pop_front()
        {
            // Like a cable: what the other end does not take is lost.
            let _ = (&files[to]).write(&packet);
        }
    }
}

fn open((node, device): (&Node, &str)) -> byway_lab::Result<File> {
    node.run(|| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = match options.open("/dev/net/tun") {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                return Err(Error::KernelLacks { kind: "tun".into() });
            }
            file => file.unwrap(),
        };
        // SAFETY: all of ifreq may be zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(made, 0, "making {device}: {}", io::Error::last_os_error());
        Ok(file)
    })
}
