//! Next hops: where they lead, and which of their gateways Byway keeps resolved.

use crate::DEVICE_NAME_LEN;

/// How many slots there are for next hops. Slot 0 stays empty.
pub const MAX_NEXT_HOPS: u32 = 1_024;

/// `family` of a [`NextHop`] without a gateway: the packet's own destination is the neighbour.
pub const FAMILY_ON_LINK: u32 = 0;
/// `family` of a [`NextHop`] through an IPv4 gateway (`AF_INET`).
pub const FAMILY_IPV4: u32 = 2;
/// `family` of a [`NextHop`] through an IPv6 gateway (`AF_INET6`).
pub const FAMILY_IPV6: u32 = 10;

/// Bit of [`NextHop::flags`]: somebody has taken the next hop out of service.
pub const NEXT_HOP_DOWN: u32 = 1;
/// Bit of [`NextHop::flags`]: nothing uses the slot, so another next hop may get it. Its content stays until then, for
/// packets that wait for their neighbour.
pub const NEXT_HOP_FREE: u32 = 2;
/// Bit of [`NextHop::flags`]: the request named no device, so the one comes from the routing table. No program reads it.
pub const NEXT_HOP_BY_ROUTE: u32 = 4;
/// Bit of [`NextHop::flags`]: the device does not exist yet, and `ifindex` is 0. No program reads the bit, because the slot
/// of `NEXT_HOP_DEVICES` is empty.
pub const NEXT_HOP_WAITING: u32 = 8;
/// Bit of [`NextHop::flags`]: the next hop has a health check, so the array `VERDICTS` says something of it.
pub const NEXT_HOP_CHECKED: u32 = 16;
/// Bit of [`NextHop::flags`]: the request named no gateway, so the one is that of the device's default route from DHCP. No
/// program reads it. Without a gateway, which is 0.0.0.0 then, `ifindex` is 0, too.
pub const NEXT_HOP_DHCP: u32 = 32;
/// Bit of [`NextHop::flags`]: the same of the default route from a router advertisement, and `::`.
pub const NEXT_HOP_RA: u32 = 64;

/// Value of the array `NEXT_HOPS`, by slot. Programs read it.
///
/// `family` and `gateway` have the layout of the kernel's `struct bpf_redir_neigh` (include/uapi/linux/bpf.h), so
/// that the program can pass a pointer to them to `bpf_redirect_neigh`. The same slot of the array `NEXT_HOP_DEVICES`
/// contains the device itself. The kernel empties that when the device goes (kernel/bpf/devmap.c), so that nothing mistakes
/// a later device with the same ifindex for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// The device that packets leave by. 0 if the slot has never been used, or while the next hop waits for the device.
    pub ifindex: u32,
    /// Any of [`NEXT_HOP_DOWN`], [`NEXT_HOP_FREE`], [`NEXT_HOP_BY_ROUTE`], [`NEXT_HOP_WAITING`], [`NEXT_HOP_CHECKED`],
    /// [`NEXT_HOP_DHCP`] and [`NEXT_HOP_RA`].
    pub flags: u32,
    /// [`FAMILY_ON_LINK`], [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// The gateway in network byte order. An IPv4 address is in the first four bytes, and the rest is 0.
    pub gateway: [u8; 16],
    /// The device's MTU in bytes when the next hop was added, or at the last change since then. For kernels that do not
    /// tell a program the current MTU (`bpf_check_mtu`, Linux 5.12); 0 on others.
    pub mtu: u32,
    /// The device's name when the next hop was added, padded with zeros. All zeros if no route has named a device yet.
    pub device: [u8; DEVICE_NAME_LEN],
}

/// Key of `NEIGHBOURS`: a gateway that the kernel keeps resolved for Byway, until Byway removes it. The value is 1.
/// No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NeighbourKey {
    /// The device that the gateway is on.
    pub ifindex: u32,
    /// The gateway's family, as in [`NextHop`].
    pub family: u32,
    /// The gateway, as in [`NextHop`].
    pub gateway: [u8; 16],
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<NextHop>() == 3 * 4 + 16 + 4 + DEVICE_NAME_LEN);
    assert!(size_of::<NeighbourKey>() == 4 + 4 + 16);
};
