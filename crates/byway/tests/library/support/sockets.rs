//! What a UDP or TCP socket knows of the sizes of packets (ip(7), ipv6(7)), and transfers of many.

use std::{
    io::{self, Read, Write},
    mem,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use byway_lab::Node;

/// What a socket does about the path MTU. The numbers are the same for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// IPv4 without DF. With IPv6 that means the same as `Want`.
    Dont,
    /// The kernel's default for UDP: with DF, and what is too big for the path as it is known is sent in fragments.
    Want,
    /// What is too big for the path as it is known is refused (`EMSGSIZE`).
    Do,
    /// With DF, and whatever the path is known to be: as large as the device takes it.
    Probe,
}

pub(crate) fn set_discovery(socket: &impl AsRawFd, v6: bool, discovery: Discovery) {
    let value = match discovery {
        Discovery::Dont => libc::IP_PMTUDISC_DONT,
        Discovery::Want => libc::IP_PMTUDISC_WANT,
        Discovery::Do => libc::IP_PMTUDISC_DO,
        Discovery::Probe => libc::IP_PMTUDISC_PROBE,
    };
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    // SAFETY: the option's value is an int, which is there during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// The MTU of the path to where a socket is connected, as the kernel knows it now.
pub(crate) fn path_mtu(socket: &impl AsRawFd, v6: bool) -> u32 {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut value: libc::c_int = 0;
    let mut length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int, and both it and its length are there during the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    value as u32
}

/// The MTU of the path from one address to another, as a node knows it now.
pub(crate) fn known_mtu(node: &Node, from: IpAddr, to: IpAddr) -> u32 {
    let socket = bound(node, from);
    socket.connect((to, 9)).unwrap();
    path_mtu(&socket, from.is_ipv6())
}

pub(crate) fn bound(node: &Node, address: IpAddr) -> UdpSocket {
    node.run(|| UdpSocket::bind((address, 0))).unwrap()
}

/// Enough for many packets of segmentation offload.
const BYTES: usize = 5_000_000;
pub(crate) const TRANSFER: Duration = Duration::from_secs(60);

pub(crate) fn connect(node: &Node, from: IpAddr, to: SocketAddr) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    node.run(|| {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).unwrap();
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
        TcpStream::from(socket)
    })
}

/// Sends bytes from one end to the other, and compares them.
pub(crate) fn transfer(mut from: &TcpStream, mut to: &TcpStream, why: &str) {
    let sent: Vec<u8> = (0..BYTES).map(|at| (at / 1_000 + at % 251) as u8).collect();
    let mut received = vec![0; BYTES];
    thread::scope(|scope| {
        let sending = scope.spawn(|| from.write_all(&sent));
        to.read_exact(&mut received).unwrap_or_else(|error| panic!("{why}: {error}"));
        sending.join().unwrap().unwrap();
    });
    assert!(sent == received, "{why}");
}
