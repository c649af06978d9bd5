//! A server with a default gateway on `eth0` and a router each on `eth1` and `eth2`. All of 192.168.0.0/16 and
//! 2001:db8:50::/64 is the server's.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use byway::{NextHopSpec, RuleSpec, Selector, TargetSpec};
use byway_lab::{Capture, Frame, Lab, Node, Traffic, wait_until};

use super::ANSWER;

/// Fewer packets than the kernel keeps for a neighbour.
const SENT_AT_MOST: u32 = 200;

/// Where a packet can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Gateway,
    Router1,
    Router2,
}

pub(crate) struct Routers {
    pub(crate) lab: Lab,
    pub(crate) server: Node,
    pub(crate) gateway: Node,
    pub(crate) router: [Node; 2],
    /// The routers' addresses, as the server sees them.
    pub(crate) via: [IpAddr; 2],
    v6: bool,
    /// What gateway, router 1 and router 2 get.
    heard: [Capture; 3],
}

impl Routers {
    pub(crate) fn new(v6: bool) -> Self {
        let lab = Lab::new().unwrap();
        let node = |name| lab.node(name).unwrap();
        let (server, gateway, router) = (node("server"), node("gateway"), [node("r1"), node("r2")]);
        for (nth, node) in [&gateway, &router[0], &router[1]].into_iter().enumerate() {
            let device = format!("eth{nth}");
            lab.link((&server, &device), (node, "eth0")).unwrap();
            let address = |host| {
                if v6 { format!("2001:db8:{nth}::{host}/64") } else { format!("10.0.{nth}.{host}/24") }
            };
            server.address(&device, &address(2)).unwrap();
            node.address("eth0", &address(1)).unwrap();
        }
        server.route(if v6 { "default via 2001:db8:0::1" } else { "default via 10.0.0.1" }).unwrap();
        server
            .route(if v6 { "local 2001:db8:50::/64 dev lo" } else { "local 192.168.0.0/16 dev lo" })
            .unwrap();
        if v6 {
            // The socket wants an address that is configured, not only local.
            server.sysctl("net.ipv6.ip_nonlocal_bind", "1").unwrap();
        }
        let ip = |v6_text: &str, v4_text: &str| if v6 { v6_text } else { v4_text }.parse().unwrap();
        Self {
            heard: [&gateway, &router[0], &router[1]].map(|node| node.capture("eth0").unwrap()),
            via: [ip("2001:db8:1::1", "10.0.1.1"), ip("2001:db8:2::1", "10.0.2.1")],
            lab,
            server,
            gateway,
            router,
            v6,
        }
    }

    /// An address far away, and one to send from: `far(7)`, `source(7)`.
    pub(crate) fn far(&self, last: u16) -> IpAddr {
        self.pick([0x2001, 0xDB8, 0xFA, 0, 0, 0, 0, last], [203, 0, (last >> 8) as u8, last as u8])
    }

    pub(crate) fn source(&self, last: u16) -> IpAddr {
        self.pick([0x2001, 0xDB8, 0x50, 0, 0, 0, 0, last], [192, 168, (last >> 8) as u8, last as u8])
    }

    fn pick(&self, v6: [u16; 8], v4: [u8; 4]) -> IpAddr {
        if self.v6 { v6.into() } else { v4.into() }
    }

    /// `bits` of the addresses of [`Routers::source`] or [`Routers::far`] left to vary: `wide("192.168.0.0", 8)`.
    pub(crate) fn around(&self, address: IpAddr, bits: u8) -> String {
        let length = if self.v6 { 128 - bits } else { 32 - bits };
        byway::Prefix::holding(address, length).unwrap().to_string()
    }

    /// A next hop: router 1 or router 2.
    pub(crate) fn hop(&self, router: usize) -> NextHopSpec {
        NextHopSpec::ViaDev(self.via[router - 1], format!("eth{router}"))
    }

    /// The address of the server (2) or of its neighbour (1) on the link of this number.
    pub(crate) fn on_link(&self, link: usize, host: u8) -> String {
        if self.v6 { format!("2001:db8:{link}::{host}/64") } else { format!("10.0.{link}.{host}/24") }
    }

    /// Gives a device its address again that has been down: an IPv6 address goes with the link.
    pub(crate) fn address_again(&self, node: &Node, device: &str, address: &str) {
        if self.v6 {
            node.address(device, address).unwrap();
        }
    }

    /// Sends a packet and says where it went.
    pub(crate) fn way(&self, from: IpAddr, to: IpAddr) -> Way {
        let before = self.counts(from, to);
        self.send(from, to);
        let arrived = wait_until(ANSWER, || self.counts(from, to) != before);
        assert!(arrived, "the packet from {from} to {to} went nowhere");
        let ways = [Way::Gateway, Way::Router1, Way::Router2];
        let after = self.counts(from, to);
        let went: Vec<Way> = (0..3).filter(|nth| after[*nth] > before[*nth]).map(|nth| ways[nth]).collect();
        assert_eq!(went.len(), 1, "the packet from {from} to {to} went to {went:?}");
        went[0]
    }

    /// Sends until a packet goes this way, now and then: of packets that wait for their neighbour the kernel keeps no more
    /// than 277 of this size, and drops the first (`unres_qlen_bytes` of Linux's ip-sysctl documentation).
    pub(crate) fn goes(&self, from: IpAddr, to: IpAddr, way: Way) -> bool {
        let before = self.counts(from, to)[way as usize];
        (0..SENT_AT_MOST).any(|_| {
            self.send(from, to);
            wait_until(ANSWER / SENT_AT_MOST, || self.counts(from, to)[way as usize] > before)
        })
    }

    pub(crate) fn send(&self, from: IpAddr, to: IpAddr) {
        self.server.run(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            // A packet that a program drops is an error of the socket's for some kernels.
            let _ = socket.send_to(b"hello", SocketAddr::new(to, 9));
        });
    }

    /// How many packets of this kind gateway, router 1 and router 2 have got.
    pub(crate) fn counts(&self, from: IpAddr, to: IpAddr) -> [usize; 3] {
        let is_it = |frame: &Frame| frame.source() == Some(from) && frame.destination() == Some(to);
        self.heard.each_ref().map(|capture| capture.count(is_it))
    }

    /// What each of them has got.
    pub(crate) fn heard(&self) -> &[Capture; 3] {
        &self.heard
    }
}

/// Between two rounds of packets: captures can follow.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// Waits until a packet of each flow has been sent from now on.
pub(crate) fn goes_on(traffic: &Traffic, flows: &[(IpAddr, IpAddr)]) {
    // One that is on its way now may have been decided before.
    let enough = traffic.sent() + flows.len() + 1;
    assert!(wait_until(ANSWER, || traffic.sent() >= enough), "nothing is sent");
}

/// A rule as a test writes it.
pub(crate) fn rule(source: &str, destination: Option<&str>, target: TargetSpec) -> RuleSpec {
    RuleSpec::new(
        Selector::new(source.parse().unwrap(), destination.map(|text| text.parse().unwrap())),
        target,
    )
}
