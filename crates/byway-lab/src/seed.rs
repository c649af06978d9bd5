//! The set-up that Byway was made for: a server answers from a service address, but its replies leave by the wrong
//! interface.
//!
//! ```text
//!   gateway ── 10.111.220.0/24 ── server ── 10.111.221.0/24 ── router ── 10.111.222.0/24 ── client
//!           eth0             eth0        eth1            eth0        eth1             eth0
//! ```
//!
//! The server has 192.168.1.5 on `lo`. Requests from the client reach it through the router, which has a route there.
//! The replies follow the server's default route to the gateway, and are lost there. The same happens with IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Lab, Node, Result};

/// The addresses of one family.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The server's service address.
    pub service: IpAddr,
    /// The router, as the server sees it on `eth1`: the next hop that replies should take.
    pub router: IpAddr,
    /// The server's own address on `eth1`.
    pub server: IpAddr,
    /// The client.
    pub client: IpAddr,
    /// The gateway of the server's default route on `eth0`.
    pub gateway: IpAddr,
}

/// The seed's addresses.
pub const IPV4: Addresses = Addresses {
    service: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 5)),
    router: IpAddr::V4(Ipv4Addr::new(10, 111, 221, 21)),
    server: IpAddr::V4(Ipv4Addr::new(10, 111, 221, 11)),
    client: IpAddr::V4(Ipv4Addr::new(10, 111, 222, 11)),
    gateway: IpAddr::V4(Ipv4Addr::new(10, 111, 220, 1)),
};

const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, network, 0, 0, 0, 0, host))
}

/// The same in IPv6, with addresses for documentation (RFC 3849).
pub const IPV6: Addresses = Addresses {
    service: v6(1, 5),
    router: v6(0x221, 0x21),
    server: v6(0x221, 0x11),
    client: v6(0x222, 0x11),
    gateway: v6(0x220, 1),
};

/// The four hosts.
#[derive(Debug)]
pub struct Seed {
    /// The lab of the hosts.
    pub lab: Lab,
    /// Answers from the service address.
    pub server: Node,
    /// Between server and client.
    pub router: Node,
    /// Asks.
    pub client: Node,
    /// The server's default gateway, which forwards nothing.
    pub gateway: Node,
}

impl Seed {
    /// Builds the hosts in a private lab.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::new`] and of the set-up.
    pub fn new() -> Result<Self> {
        Self::build(Lab::new()?)
    }

    /// Builds the hosts in a given lab.
    ///
    /// # Errors
    ///
    /// Those of the set-up.
    pub fn build(lab: Lab) -> Result<Self> {
        let (server, router) = (lab.node("server")?, lab.node("router")?);
        let (client, gateway) = (lab.node("client")?, lab.node("gateway")?);
        lab.link((&server, "eth0"), (&gateway, "eth0"))?;
        lab.link((&server, "eth1"), (&router, "eth0"))?;
        lab.link((&router, "eth1"), (&client, "eth0"))?;

        for (node, device, addresses) in [
            (&server, "lo", ["192.168.1.5/32", "2001:db8:1::5/128"]),
            (&server, "eth0", ["10.111.220.11/24", "2001:db8:220::11/64"]),
            (&server, "eth1", ["10.111.221.11/24", "2001:db8:221::11/64"]),
            (&gateway, "eth0", ["10.111.220.1/24", "2001:db8:220::1/64"]),
            (&router, "eth0", ["10.111.221.21/24", "2001:db8:221::21/64"]),
            (&router, "eth1", ["10.111.222.21/24", "2001:db8:222::21/64"]),
            (&client, "eth0", ["10.111.222.11/24", "2001:db8:222::11/64"]),
        ] {
            for address in addresses {
                node.address(device, address)?;
            }
        }
        router.forwarding()?;
        for (node, route) in [
            (&server, "default via 10.111.220.1"),
            (&server, "default via 2001:db8:220::1"),
            (&router, "192.168.1.5 via 10.111.221.11"),
            (&router, "2001:db8:1::5 via 2001:db8:221::11"),
            (&client, "default via 10.111.222.21"),
            (&client, "default via 2001:db8:222::21"),
        ] {
            node.route(route)?;
        }
        Ok(Self { lab, server, router, client, gateway })
    }
}
