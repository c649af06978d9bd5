//! The redirect itself.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_redir_neigh,
    helpers::generated::{bpf_redirect, bpf_redirect_neigh},
};
use byway_abi::{FAMILY_ON_LINK, NextHop, reply::Way};

use crate::{
    heard,
    packet::{ETHERNET_LEN, Header, Packet},
    skb::Skb,
    verdict::Verdict,
};

/// Adds an Ethernet header if there is none. `bpf_redirect_neigh` removes it again, and drops packets without one.
#[inline(always)]
pub fn push_ethernet(skb: &Skb, packet: Packet, header: Header) -> Option<Packet> {
    if let Header::L3 = header
        && !skb.extend_head(ETHERNET_LEN as u32)
    {
        return None;
    }
    Some(Packet { offset: ETHERNET_LEN as u32, ..packet })
}

/// Redirects a reply to the device of its way, with the Ethernet addresses for it ([`write_addresses`]). `None` if it is too
/// short for them. A packet for a device without an Ethernet header keeps its own, which the kernel removes.
#[inline(always)]
pub fn send_back(skb: &Skb, way: &Way) -> Option<Verdict> {
    if way.addresses != [0; 3] {
        write_addresses(skb, way)?;
    }
    // SAFETY: the helper takes two numbers.
    Some(unsafe { bpf_redirect(way.ifindex, 0) as Verdict })
}

/// Writes the Ethernet addresses of a way's requests in reverse, or instead of the neighbour's the one that has taken its place.
#[inline(always)]
pub fn write_addresses(skb: &Skb, way: &Way) -> Option<()> {
    let [a, b, c] = way.addresses.map(u32::to_ne_bytes);
    // One that has just got its Ethernet header has no protocol in it.
    let [d, e] = (skb.protocol() as u16).to_ne_bytes();
    let mut reversed = [b[2], b[3], c[0], c[1], c[2], c[3], a[0], a[1], a[2], a[3], b[0], b[1], d, e];
    if let Some(neighbour) = heard::successor(way) {
        let [first, second] = neighbour.map(u32::to_ne_bytes);
        reversed[..6].copy_from_slice(&[first[0], first[1], second[0], second[1], second[2], second[3]]);
    }
    skb.store(0, &reversed).then_some(())
}

/// Redirects the packet to a next hop. The helper always gets a neighbour from here. Without one it would ask the routing
/// table, and leak a route on many kernels (CVE-2025-40183).
#[inline(always)]
pub fn redirect(next_hop: &NextHop, packet: &Packet) -> Verdict {
    let size = size_of::<bpf_redir_neigh>() as i32;
    if next_hop.family == FAMILY_ON_LINK {
        let mut neighbour = [packet.family, 0, 0, 0, 0];
        neighbour[1..].copy_from_slice(&packet.destination);
        // SAFETY: `neighbour` has the layout of `struct bpf_redir_neigh`: a family and sixteen bytes of address.
        return unsafe {
            bpf_redirect_neigh(next_hop.ifindex, neighbour.as_mut_ptr().cast(), size, 0) as Verdict
        };
    }
    let neighbour = ptr::from_ref(&next_hop.family).cast::<bpf_redir_neigh>().cast_mut();
    // SAFETY: `family` and `gateway` have the layout of `struct bpf_redir_neigh`, and the helper only reads them.
    unsafe { bpf_redirect_neigh(next_hop.ifindex, neighbour, size, 0) as Verdict }
}
