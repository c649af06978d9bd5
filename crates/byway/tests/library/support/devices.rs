//! A server with a default gateway and a router, each behind a device of some kind. A service far away is behind the
//! router alone, so that the server gets an answer from it only by a rule.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use byway::{Attach, Hook, NextHopSpec, RuleSpec, RuleStatus, TargetSpec};
use byway_lab::{Bonding, Capture, Error, Frame, Lab, Node, Service, wait_until};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt::BindToDevice,
};

use super::{ANSWER, SILENCE, lacking, on, pins, routers::rule, the_rule, tun};

/// The kinds of devices that join two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Veth,
    /// The server's address is on a bridge, with a veth as its port.
    Bridge,
    Bond(Bonding),
    Vlan,
    Macvlan,
    Tun,
    WireGuard,
    IpIp,
    Gre,
}

impl Kind {
    /// It has neighbours, with Ethernet addresses.
    fn is_ethernet(self) -> bool {
        !matches!(self, Self::Tun | Self::WireGuard | Self::IpIp | Self::Gre)
    }

    pub(crate) fn carries_ipv6(self) -> bool {
        self != Self::IpIp
    }
}

/// What was made; nothing where this kernel has no such devices, which it says. With `BYWAY_ALL_DEVICES=1` that is a
/// failure.
pub(crate) fn unless_lacking<T>(made: byway_lab::Result<T>) -> Option<T> {
    match made {
        Err(Error::KernelLacks { kind }) => {
            lacking(&kind);
            None
        }
        made => Some(made.unwrap()),
    }
}

pub(crate) struct Hosts {
    pub(crate) lab: Lab,
    pub(crate) server: Node,
    pub(crate) gateway: Node,
    pub(crate) router: Node,
    /// The server's devices to the gateway and to the router.
    pub(crate) uplink: String,
    pub(crate) side: String,
    /// The device that the server's sockets are bound to.
    pub(crate) bound_to: Option<&'static str>,
    v6: bool,
    wires: Vec<tun::Wire>,
    services: Vec<Service>,
    /// What the gateway and the router get.
    gateway_hears: Option<Capture>,
    router_hears: Option<Capture>,
}

impl Hosts {
    /// The hosts without anything between them.
    pub(crate) fn apart(v6: bool) -> Self {
        let lab = Lab::new().unwrap();
        let node = |name| lab.node(name).unwrap();
        Self {
            server: node("server"),
            gateway: node("gateway"),
            router: node("router"),
            lab,
            uplink: String::new(),
            side: String::new(),
            bound_to: None,
            v6,
            wires: Vec::new(),
            services: Vec::new(),
            gateway_hears: None,
            router_hears: None,
        }
    }

    /// The server leads to the gateway by the first kind of device, and to the router by the second.
    pub(crate) fn joined(uplink: Kind, side: Kind, v6: bool) -> byway_lab::Result<Self> {
        let mut hosts = Self::apart(v6);
        let to_gateway = hosts.join(0, uplink)?;
        hosts.connect_uplink(&to_gateway.0, &to_gateway.1, uplink.is_ethernet())?;
        let to_router = hosts.join(1, side)?;
        hosts.connect_side(&to_router.0, &to_router.1)?;
        hosts.server.address("lo", &hosts.host(hosts.source()))?;
        hosts.serve();
        Ok(hosts)
    }

    /// Makes a device at the server and one at the gateway (0) or the router (1), and returns their names.
    pub(crate) fn join(&mut self, nth: u8, kind: Kind) -> byway_lab::Result<(String, String)> {
        let (lab, server) = (&self.lab, &self.server);
        let peer = if nth == 0 { &self.gateway } else { &self.router };
        let name = |kind: &str| format!("{kind}{nth}");
        let link = |device: &str, at_peer: &str| lab.link((server, device), (peer, at_peer));
        // The addresses at the outside of a tunnel.
        let ends = [[172, 31, nth, 2], [172, 31, nth, 1]].map(std::net::Ipv4Addr::from);
        let underlay = || {
            link(&name("eth"), "eth0")?;
            server.address(&name("eth"), &format!("{}/24", ends[0]))?;
            peer.address("eth0", &format!("{}/24", ends[1]))
        };
        match kind {
            Kind::Veth => {
                link(&name("eth"), "eth0")?;
                Ok((name("eth"), "eth0".into()))
            }
            Kind::Bridge => {
                link(&name("eth"), "eth0")?;
                server.bridge(&name("br"), &[&name("eth")])?;
                Ok((name("br"), "eth0".into()))
            }
            Kind::Bond(bonding) => {
                let ports = [name("a"), name("b")];
                for port in &ports {
                    link(port, port)?;
                }
                let ports = ports.each_ref().map(String::as_str);
                server.bond(&name("bond"), bonding, &ports)?;
                match bonding {
                    // At its other end is a switch.
                    Bonding::ActiveBackup => peer.bridge("br0", &ports)?,
                    Bonding::BalanceRoundRobin => peer.bond("br0", bonding, &ports)?,
                }
                Ok((name("bond"), "br0".into()))
            }
            Kind::Vlan => {
                link(&name("eth"), "eth0")?;
                let device = format!("eth{nth}.10");
                server.vlan(&device, &name("eth"), 10)?;
                peer.vlan("eth0.10", "eth0", 10)?;
                Ok((device, "eth0.10".into()))
            }
            Kind::Macvlan => {
                link(&name("eth"), "eth0")?;
                server.macvlan(&name("mv"), &name("eth"))?;
                Ok((name("mv"), "eth0".into()))
            }
            Kind::Tun => {
                self.wires.push(tun::Wire::new((server, &name("tun")), (peer, "tun0"))?);
                Ok((name("tun"), "tun0".into()))
            }
            Kind::WireGuard => {
                underlay()?;
                let end = |end| SocketAddr::new(IpAddr::V4(end), 51_820 + u16::from(nth));
                lab.wireguard((server, &name("wg"), end(ends[0])), (peer, "wg0", end(ends[1])))?;
                Ok((name("wg"), "wg0".into()))
            }
            Kind::IpIp => {
                underlay()?;
                server.ipip(&name("ipip"), ends[0], ends[1])?;
                peer.ipip("ipip9", ends[1], ends[0])?;
                Ok((name("ipip"), "ipip9".into()))
            }
            Kind::Gre => {
                underlay()?;
                server.gre(&name("tunnel"), ends[0], ends[1])?;
                peer.gre("tunnel9", ends[1], ends[0])?;
                Ok((name("tunnel"), "tunnel9".into()))
            }
        }
    }

    /// Gives the way to the gateway its addresses and the default route.
    pub(crate) fn connect_uplink(
        &mut self,
        device: &str,
        at_gateway: &str,
        has_neighbours: bool,
    ) -> byway_lab::Result<()> {
        self.server.address(device, &self.network(0, 2))?;
        self.gateway.address(at_gateway, &self.network(0, 1))?;
        if has_neighbours {
            self.server.route(&format!("default via {} dev {device}", self.address(0, 1)))?;
        } else {
            self.server.route(&format!("{} default dev {device}", if self.v6 { "-6" } else { "-4" }))?;
        }
        self.gateway_hears = Some(self.gateway.capture(at_gateway).unwrap());
        self.uplink = device.into();
        Ok(())
    }

    /// Gives the way to the router its addresses, and the router the service and its way back.
    pub(crate) fn connect_side(&mut self, device: &str, at_router: &str) -> byway_lab::Result<()> {
        self.server.address(device, &self.network(1, 2))?;
        self.router.address(at_router, &self.network(1, 1))?;
        self.router.route(&format!("{} via {}", self.host(self.source()), self.address(1, 2)))?;
        self.router_hears = Some(self.router.capture(at_router).unwrap());
        self.side = device.into();
        Ok(())
    }

    /// Starts the service, which is at the router.
    pub(crate) fn serve(&mut self) {
        self.router.address("lo", &self.host(self.far().ip())).unwrap();
        self.services.push(self.router.udp_serve(self.far()).unwrap());
        self.services.push(self.router.tcp_serve(self.far()).unwrap());
    }

    /// The server's service address, which rules are for.
    pub(crate) fn source(&self) -> IpAddr {
        self.pick("2001:db8:50::5", "192.168.0.5")
    }

    /// The service far away.
    pub(crate) fn far(&self) -> SocketAddr {
        SocketAddr::new(self.pick("2001:db8:fa::7", "203.0.113.7"), 7)
    }

    /// The `last` address of the network to the gateway (0) or to the router (1): 1 is theirs, 2 the server's.
    pub(crate) fn address(&self, network: u8, last: u8) -> IpAddr {
        self.pick(&format!("2001:db8:{network}::{last}"), &format!("10.0.{network}.{last}"))
    }

    /// The same, with the length of that network.
    pub(crate) fn network(&self, network: u8, last: u8) -> String {
        format!("{}/{}", self.address(network, last), if self.v6 { 64 } else { 24 })
    }

    /// An address with the length of a prefix of its own.
    pub(crate) fn host(&self, address: IpAddr) -> String {
        format!("{address}/{}", if self.v6 { 128 } else { 32 })
    }

    fn pick(&self, v6: &str, v4: &str) -> IpAddr {
        if self.v6 { v6 } else { v4 }.parse().unwrap()
    }

    /// The router as a next hop.
    pub(crate) fn via(&self) -> NextHopSpec {
        NextHopSpec::ViaDev(self.address(1, 1), self.side.clone())
    }

    /// The router's device as a next hop.
    pub(crate) fn dev(&self) -> NextHopSpec {
        NextHopSpec::Dev(self.side.clone())
    }

    fn rule(&self, next_hop: NextHopSpec) -> RuleSpec {
        rule(&self.source().to_string(), None, TargetSpec::NextHop(next_hop))
    }

    /// Calls the service from the service address with one datagram.
    pub(crate) fn call(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        let Some(device) = self.bound_to else {
            return self.server.udp_echo(Some(self.source()), self.far(), b"hello", timeout);
        };
        let (from, to) = (self.source(), self.far());
        self.server.run(|| echo_bound_to(device, from, to, timeout))
    }

    /// How many packets from the service address to the service the gateway has got, and the router.
    pub(crate) fn heard(&self) -> [usize; 2] {
        let is_it = |frame: &Frame| is_between(frame, self.source(), self.far().ip());
        let at_router = self.router_hears.as_ref().map_or(0, |capture| capture.count(is_it));
        [self.gateway_heard(self.source()), at_router]
    }

    /// How many packets from an address to the service the gateway has got.
    pub(crate) fn gateway_heard(&self, source: IpAddr) -> usize {
        let is_it = |frame: &Frame| is_between(frame, source, self.far().ip());
        self.gateway_hears.as_ref().map_or(0, |capture| capture.count(is_it))
    }

    /// How many packets from the service address to the service the gateway has got, of all that were sent up to now. A capture
    /// may be late, and what the last connection still sent has gone there as well. So this waits for a packet from another
    /// address, which is behind them.
    fn heard_so_far(&self) -> usize {
        if self.gateway_hears.is_some() && self.bound_to.is_none() {
            let any: IpAddr = if self.far().is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = self.server.run(|| UdpSocket::bind((any, 0))).unwrap();
            socket.connect(self.far()).unwrap();
            let own = socket.local_addr().unwrap().ip();
            let before = self.gateway_heard(own);
            socket.send(b"behind").unwrap();
            assert!(wait_until(ANSWER, || self.gateway_heard(own) > before), "nothing from {own}");
        }
        self.heard()[0]
    }

    /// The whole story: without a rule packets go to the gateway, with it they go to the router and nowhere else, each
    /// departs and arrives, and in the end nothing of Byway is left.
    pub(crate) fn tell(&self, hook: Hook, next_hop: &NextHopSpec) {
        let context = format!("{hook:?} {} to {next_hop}", self.uplink);
        let [at_gateway, at_router] = self.heard();
        self.call(SILENCE).expect_err("the gateway does not lead to the service");
        if self.gateway_hears.is_some() {
            assert!(wait_until(ANSWER, || self.heard()[0] > at_gateway), "{context}: {:?}", self.heard());
        }
        self.redirect(hook, next_hop.clone());
        let at_gateway = self.heard_so_far();
        for _ in 0..5 {
            let answer = self.call(ANSWER);
            assert_eq!(answer.unwrap_or_else(|error| self.fail(hook, &context, &error)), b"hello");
        }
        if self.bound_to.is_none() {
            // More than one packet of segmentation offload.
            let payload: Vec<u8> = (0..200_000_u32).map(|nth| nth as u8).collect();
            let answer = self.server.tcp_echo(Some(self.source()), self.far(), &payload, ANSWER);
            let answer = answer.unwrap_or_else(|error| self.fail(hook, &context, &error));
            assert!(answer == payload, "{context}");
        }
        let status = || the_rule(&self.server);
        let all_arrived = |status: &RuleStatus| status.departed.packets == status.arrived.packets;
        assert!(wait_until(ANSWER, || all_arrived(&status())), "{context}: {:?}", status());
        assert!(status().departed.packets >= 5, "{context}: {:?}", status());
        assert_eq!(status().no_next_hop.packets, 0, "{context}");
        assert!(wait_until(ANSWER, || self.heard()[1] >= at_router + 5), "{context}: {:?}", self.heard());
        assert_eq!(self.heard()[0], at_gateway, "{context}: nothing goes to the gateway any more");

        self.undo(hook);
    }

    /// Attaches to the device that leads to the gateway, and adds a rule for the service address.
    pub(crate) fn redirect(&self, hook: Hook, next_hop: NextHopSpec) {
        let (uplink, rule) = (self.uplink.as_str(), self.rule(next_hop));
        on(&self.server, hook, |byway| byway.attach(&Attach::devices([uplink]))).unwrap();
        on(&self.server, hook, |byway| byway.add(&rule)).unwrap();
    }

    /// Takes everything back.
    pub(crate) fn undo(&self, hook: Hook) {
        on(&self.server, hook, |byway| byway.flush()).unwrap();
        on(&self.server, hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new(), "{hook:?} {}", self.uplink);
    }

    fn fail(&self, hook: Hook, context: &str, error: &io::Error) -> Vec<u8> {
        let attachments = on(&self.server, hook, |byway| byway.attachments());
        let (status, heard) = (the_rule(&self.server), self.heard());
        panic!("{context}: {error}; the gateway and the router heard {heard:?}; {status:?} {attachments:?}")
    }
}

/// Calls an echo service by a device, which may be that of a routing domain.
fn echo_bound_to(device: &str, from: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<Vec<u8>> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, BindToDevice, &OsString::from(device))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    let socket = UdpSocket::from(socket);
    socket.send_to(b"hello", to)?;
    socket.set_read_timeout(Some(timeout))?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

/// Whether a packet is from one address to another, with an Ethernet header or without.
fn is_between(frame: &Frame, source: IpAddr, destination: IpAddr) -> bool {
    if frame.source() == Some(source) && frame.destination() == Some(destination) {
        return true;
    }
    let at = |offset: usize, address: IpAddr| match address {
        IpAddr::V4(v4) => frame.bytes.get(offset..offset + 4) == Some(&v4.octets()[..]),
        IpAddr::V6(v6) => frame.bytes.get(offset..offset + 16) == Some(&v6.octets()[..]),
    };
    match (frame.bytes.first().map(|first| first >> 4), source) {
        (Some(4), IpAddr::V4(_)) => at(12, source) && at(16, destination),
        (Some(6), IpAddr::V6(_)) => at(8, source) && at(24, destination),
        _ => false,
    }
}
