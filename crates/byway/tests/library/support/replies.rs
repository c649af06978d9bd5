//! Requests to a service, and a rule that sends their replies back.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use byway::{Hook, RuleSpec, TargetSpec};
use byway_lab::{Node, Service, wait_until};

use super::{ANSWER, on, packet, routers::Routers};

pub(crate) const PORT: u16 = 30100;

pub(crate) fn replies(source: &str) -> RuleSpec {
    RuleSpec::reply_to(source.parse().unwrap())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Tcp,
    Udp,
    Icmp,
}

pub(crate) const TRAFFIC: [Traffic; 3] = [Traffic::Tcp, Traffic::Udp, Traffic::Icmp];

/// A client calls the service, and gets an answer or does not.
pub(crate) fn call(
    client: &Node,
    from: Option<IpAddr>,
    to: SocketAddr,
    traffic: Traffic,
    timeout: Duration,
) -> io::Result<()> {
    let said = b"hello".as_slice();
    let heard = match traffic {
        Traffic::Tcp => client.tcp_echo(from, to, said, timeout)?,
        Traffic::Udp => client.udp_echo(from, to, said, timeout)?,
        Traffic::Icmp => return client.ping(from, to.ip(), timeout),
    };
    assert_eq!(heard, said);
    Ok(())
}

pub(crate) fn serve(server: &Node, at: SocketAddr) -> [Service; 2] {
    [server.tcp_serve(at).unwrap(), server.udp_serve(at).unwrap()]
}

/// A server with two routers, and a client of the same address behind each.
pub(crate) fn two_uplinks(v6: bool) -> (Routers, IpAddr, IpAddr) {
    let hosts = Routers::new(v6);
    let (client, service) = (hosts.far(7), hosts.source(5));
    // The kernel sends ICMPv6 errors only from an address that is configured, not only local.
    hosts.server.address("lo", &format!("{service}/{}", if v6 { 128 } else { 32 })).unwrap();
    for (nth, router) in hosts.router.iter().enumerate() {
        let (length, route) = if v6 {
            (128, format!("2001:db8:50::/64 via 2001:db8:{}::2 src {client}", nth + 1))
        } else {
            (32, format!("192.168.0.0/16 via 10.0.{}.2 src {client}", nth + 1))
        };
        router.address("lo", &format!("{client}/{length}")).unwrap();
        router.route(&route).unwrap();
    }
    (hosts, client, service)
}

/// The same, with services at the address and a rule that sends their replies back.
pub(crate) fn two_served_uplinks(hook: Hook, v6: bool) -> (Routers, IpAddr, SocketAddr, [Service; 2]) {
    let (hosts, client, service) = two_uplinks(v6);
    let at = SocketAddr::new(service, PORT);
    let services = serve(&hosts.server, at);
    let spec = replies(&hosts.around(service, 8));
    on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
    (hosts, client, at, services)
}

/// A datagram from a router's client to the server, and where the answer goes.
pub(crate) struct Datagrams {
    pub(crate) server: UdpSocket,
    pub(crate) clients: [UdpSocket; 2],
    pub(crate) client: SocketAddr,
    pub(crate) at: SocketAddr,
}

impl Datagrams {
    pub(crate) fn new(hosts: &Routers, client: IpAddr, service: IpAddr) -> Self {
        Self::from(hosts, SocketAddr::new(client, PORT + 2), service)
    }

    pub(crate) fn from(hosts: &Routers, client: SocketAddr, service: IpAddr) -> Self {
        let bind = |node: &Node, at: SocketAddr| {
            let socket = node.run(|| UdpSocket::bind(at)).unwrap();
            socket.set_read_timeout(Some(ANSWER)).unwrap();
            socket
        };
        let at = SocketAddr::new(service, PORT);
        let clients = [&hosts.router[0], &hosts.router[1]].map(|router| bind(router, client));
        Self { server: bind(&hosts.server, at), clients, client, at }
    }

    pub(crate) fn ask(&self, router: usize) {
        self.clients[router - 1].send_to(b"ask", self.at).unwrap();
        let mut room = [0; 16];
        assert_eq!(self.server.recv_from(&mut room).unwrap().1, self.client);
    }

    pub(crate) fn answer(&self, hosts: &Routers) -> usize {
        let before = hosts.counts(self.at.ip(), self.client.ip());
        self.server.send_to(b"answer", self.client).unwrap();
        let went = || {
            let after = hosts.counts(self.at.ip(), self.client.ip());
            (0..3).find(|nth| after[*nth] > before[*nth])
        };
        assert!(wait_until(ANSWER, || went().is_some()), "the answer went nowhere");
        went().unwrap()
    }
}

/// Two uplinks, datagrams, and a rule that sends their answers back.
pub(crate) struct Steered {
    pub(crate) hosts: Routers,
    pub(crate) udp: Datagrams,
    pub(crate) spec: RuleSpec,
}

impl Steered {
    pub(crate) fn new(hook: Hook, v6: bool, otherwise: TargetSpec) -> Self {
        let (hosts, client, service) = two_uplinks(v6);
        let udp = Datagrams::new(&hosts, client, service);
        let mut spec = replies(&hosts.around(service, 8));
        spec.target = otherwise;
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        Self { hosts, udp, spec }
    }
}

/// A frame with a TCP segment, from one Ethernet address to another.
pub(crate) fn tcp(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    sender: [u8; 6],
    receiver: [u8; 6],
) -> Vec<u8> {
    packet::addressed(packet::tcp(from, to, NUMBERS, flags, &[]), sender, receiver)
}

/// The sequence number and the acknowledged number of such a segment.
pub(crate) const NUMBERS: [u32; 2] = [0x5EED, 0x0B11_4D00];

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
