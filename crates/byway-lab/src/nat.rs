//! Destination NAT by nftables: what kube-proxy does for a service address.

use std::net::{IpAddr, SocketAddr};

use crate::{
    Node,
    attribute::{Attribute, nested, text},
    error::{Doing, Error, Result},
    nftables::{self, Batch, number},
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
const CHAIN: &str = "prerouting";

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
        // NFPROTO_IPV4, NFPROTO_IPV6 (linux/netfilter.h).
        let family = if to.is_ipv4() { 2 } else { 10 };
        let mut batch = Batch::new(family);
        batch.add(nftables::NEW_TABLE, &[text(1, TABLE)]);
        batch.add(nftables::NEW_CHAIN, &chain());
        batch.append(nftables::NEW_RULE, &[text(1, TABLE), text(2, CHAIN), rule(protocol, to, new)]);
        self.run(|| batch.send()).doing(|| format!("translating {to} to {new} on {}", self.name()))
    }
}

/// NFTA_CHAIN_TABLE 1, _NAME 3, _HOOK 4, _TYPE 7; NFTA_HOOK_HOOKNUM 1, _PRIORITY 2 (linux/netfilter/nf_tables.h).
fn chain() -> [Attribute; 4] {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_IP_PRI_NAT_DST: i32 = -100;
    let hook = nested(4, &[number(1, NF_INET_PRE_ROUTING), number(2, NF_IP_PRI_NAT_DST.cast_unsigned())]);
    [text(1, TABLE), text(3, CHAIN), hook, text(7, "nat")]
}

/// The expressions of one rule, which nf_tables runs from the first to the last while they match.
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
        nat(if to.is_ipv4() { 2 } else { 10 }),
    ])
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
