//! NAT by nftables: what kube-proxy does for a service address, and what hides who asks.

use std::net::{IpAddr, SocketAddr};

use crate::{
    Node,
    attribute::{Attribute, text},
    error::{Doing, Error, Result},
    nftables::{self, Batch},
};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

const TABLE: &str = "byway-lab";
const PREROUTING: &str = "prerouting";
const POSTROUTING: &str = "postrouting";

impl Node {
    /// Translates packets for `to` to another destination, `new`; the kernel translates the replies back. The
    /// same as
    ///
    /// ```text
    /// table ip byway-lab {
    ///     chain prerouting {
    ///         type nat hook prerouting priority dstnat;
    ///         tcp dport PORT ip daddr ADDRESS dnat to NEW:PORT
    ///     }
    /// }
    /// ```
    ///
    /// (nft(8)), with `ip6` for IPv6. Rules add up. What the node itself sends is not translated.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the families differ; otherwise what nf_tables reports, such as `EOPNOTSUPP` from a
    /// kernel without it.
    pub fn dnat(&self, protocol: Protocol, to: SocketAddr, new: SocketAddr) -> Result<()> {
        if to.is_ipv4() != new.is_ipv4() {
            return Err(Error::invalid(new, "an address of the same family as the translated one"));
        }
        let mut batch = Batch::new(family(to.ip()));
        batch.add(nftables::NEW_TABLE, &[text(1, TABLE)]);
        batch.add(nftables::NEW_CHAIN, &chain(PREROUTING, nftables::PRE_ROUTING, nftables::NAT_DESTINATION));
        batch.append(nftables::NEW_RULE, &[text(1, TABLE), text(2, PREROUTING), rule(protocol, to, new)]);
        self.run(|| batch.send()).doing(|| format!("translating {to} to {new} on {}", self.name()))
    }
}

impl Node {
    /// Translates the source of packets that leave by a device to an address of this node; the kernel translates the replies
    /// back. The same as
    ///
    /// ```text
    /// table ip byway-lab {
    ///     chain postrouting {
    ///         type nat hook postrouting priority srcnat;
    ///         oifname DEVICE snat to ADDRESS
    ///     }
    /// }
    /// ```
    ///
    /// (nft(8)), with `ip6` for IPv6.
    ///
    /// # Errors
    ///
    /// What nf_tables reports, such as `EOPNOTSUPP` from a kernel without it.
    pub fn snat(&self, device: &str, address: IpAddr) -> Result<()> {
        use nftables::{Name, compare, immediate, interface_name, padded, source_nat};
        let family = family(address);
        let mut batch = Batch::new(family);
        let rule = nftables::expressions(&[
            interface_name(Name::Output),
            compare(&padded(device)),
            immediate(nftables::REGISTER_1, &octets(address)),
            source_nat(family),
        ]);
        batch.add(nftables::NEW_TABLE, &[text(1, TABLE)]);
        batch.add(nftables::NEW_CHAIN, &chain(POSTROUTING, nftables::POST_ROUTING, nftables::NAT_SOURCE));
        batch.append(nftables::NEW_RULE, &[text(1, TABLE), text(2, POSTROUTING), rule]);
        self.run(|| batch.send())
            .doing(|| format!("translating what leaves by {device} to {address} on {}", self.name()))
    }
}

fn chain(name: &str, hook: u32, priority: i32) -> [Attribute; 4] {
    nftables::chain(TABLE, name, "nat", hook, priority)
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6` (linux/netfilter.h).
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn rule(protocol: Protocol, to: SocketAddr, new: SocketAddr) -> Attribute {
    use nftables::{Base, compare, immediate, nat, payload, transport_protocol};
    // The destination address's place in an IPv4 and in an IPv6 header.
    let place = if to.is_ipv4() { 16 } else { 24 };
    let address = octets(to.ip());
    nftables::expressions(&[
        transport_protocol(),
        compare(&[protocol.number()]),
        payload(Base::Network, place, u32::try_from(address.len()).unwrap_or_default()),
        compare(&address),
        payload(Base::Transport, 2, 2),
        compare(&to.port().to_be_bytes()),
        immediate(nftables::REGISTER_1, &octets(new.ip())),
        immediate(nftables::REGISTER_2, &new.port().to_be_bytes()),
        nat(family(to.ip())),
    ])
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
