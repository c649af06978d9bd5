//! The packet as the kernel hands it to a program, and the helpers that read and change it.

use core::{
    cell::{Cell, UnsafeCell},
    ptr, slice,
};

use aya_ebpf::{
    bindings,
    helpers::generated::{
        bpf_check_mtu, bpf_clone_redirect, bpf_csum_diff, bpf_l4_csum_replace, bpf_set_hash_invalid,
        bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use byway_abi::mark;

/// A packet, by the only name that the verifier accepts for a packet as a function's argument.
#[expect(
    non_camel_case_types,
    reason = "the verifier compares the name (`btf_get_prog_ctx_type`, kernel/bpf/btf.c)"
)]
#[repr(transparent)]
pub struct __sk_buff(UnsafeCell<bindings::__sk_buff>);

/// A packet.
pub type Skb = __sk_buff;

/// A type of which any bytes are a valid value.
///
/// # Safety
///
/// The type consists of numbers, without padding.
pub unsafe trait Plain {}

// SAFETY: it is a number.
unsafe impl Plain for u8 {}
// SAFETY: an array consists of its elements, which are numbers here.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// `BPF_ADJ_ROOM_MAC`: room behind the Ethernet header (include/uapi/linux/bpf.h).
const BEHIND_ETHERNET: u32 = 1;
/// `BPF_MTU_CHK_SEGS` of `bpf_check_mtu`: compare the packet's segments with the MTU (include/uapi/linux/bpf.h).
pub const SEGMENTS: u64 = 1;

/// How near the beginning of the frame [`Skb::words`] looks by itself: no headers but those with extension headers are longer.
const NEAR: u32 = 256;

/// Reads or writes a field. The verifier checks that the program may, and translates it to a field of `struct sk_buff`.
macro_rules! access {
    ($skb:ident, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid packet, and nothing holds a reference to a field of it.
        unsafe { (*$skb.0.get()).$($field)+ }
    };
}

impl Skb {
    /// Returns the packet that a program runs for.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> &Self {
        // SAFETY: the kernel hands a `__sk_buff` that is valid as long as the program runs. `Self` has the same layout.
        unsafe { &*ctx.skb.skb.cast() }
    }

    /// Returns the device that the packet is leaving by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        access!(self, ifindex)
    }

    /// Returns the device that the packet came in by, or 0 if this host has made it.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        access!(self, ingress_ifindex)
    }

    /// Returns to whom the frame is addressed: 0 to this host (`PACKET_HOST`, include/uapi/linux/if_packet.h).
    #[inline(always)]
    pub fn packet_type(&self) -> u32 {
        access!(self, pkt_type)
    }

    /// Returns the length of the whole frame in bytes.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        access!(self, len)
    }

    /// Returns the EtherType in network byte order.
    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        access!(self, protocol)
    }

    /// Returns whether there is a VLAN tag beside the frame.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        access!(self, vlan_present) != 0
    }

    /// Returns how many segments the packet will be cut into. 0 without segmentation offload.
    #[inline(always)]
    pub fn segments(&self) -> u32 {
        access!(self, gso_segs)
    }

    /// Returns how many bytes of payload each segment has. 0 without segmentation offload.
    #[inline(always)]
    pub fn segment_size(&self) -> u32 {
        access!(self, gso_size)
    }

    #[inline(always)]
    pub fn tc_index(&self) -> u32 {
        access!(self, tc_index)
    }

    #[inline(always)]
    pub fn set_tc_index(&self, value: u32) {
        access!(self, tc_index = value);
    }

    /// Returns a word of the scratch field `cb` ([`mark`]).
    #[inline(always)]
    pub fn cb(&self, word: usize) -> u32 {
        access!(self, cb[word])
    }

    /// Writes a word of the scratch field.
    #[inline(always)]
    pub fn set_cb(&self, word: usize, value: u32) {
        access!(self, cb[word] = value);
    }

    /// Returns both words of the mark's secret as one.
    #[inline(always)]
    pub fn secret(&self) -> u64 {
        // SAFETY: the kernel hands a valid packet. Both words are in `cb`, and the first is at a multiple of eight bytes.
        unsafe { (&raw const (*self.0.get()).cb[mark::SECRET_LOW]).cast::<u64>().read() }
    }

    /// Writes both words of the mark's secret.
    #[inline(always)]
    pub fn set_secret(&self, secret: u64) {
        // SAFETY: the kernel hands a valid packet. Both words are in `cb`, and the first is at a multiple of eight bytes.
        unsafe { (&raw mut (*self.0.get()).cb[mark::SECRET_LOW]).cast::<u64>().write(secret) }
    }

    /// Returns a place in the frame, if its bytes are in the linear part.
    ///
    /// The kernel aligns the IP header to four bytes (`NET_IP_ALIGN`), so this loads its words as such. Those of an Ethernet
    /// header are not aligned. The supported machines allow that. On others, the verifier would refuse the program.
    #[inline(always)]
    pub fn at<T: Plain>(&self, offset: usize) -> Option<&T> {
        let start = access!(self, data) as usize + offset;
        if start + size_of::<T>() > access!(self, data_end) as usize {
            return None;
        }
        // SAFETY: the bound is checked above, and any bytes are a valid `T`. Some helpers move the frame. The verifier
        // refuses a program that uses a place from before such a call.
        Some(unsafe { &*(start as *const T) })
    }

    /// Returns a place in the frame, and moves its bytes to the linear part if need be. `None` if the frame is shorter.
    #[inline(always)]
    pub fn pull<T: Plain>(&self, offset: usize) -> Option<&T> {
        if let Some(place) = self.at(offset) {
            return Some(place);
        }
        // SAFETY: the helper takes a length, and checks it.
        if unsafe { bpf_skb_pull_data(self.0.get(), (offset + size_of::<T>()) as u32) } != 0 {
            return None;
        }
        self.at(offset)
    }

    /// Returns the sum of bytes of the frame ([`sum`]), if they are in the linear part.
    #[inline(always)]
    pub fn sum(&self, offset: usize, length: usize, seed: u32) -> Option<u32> {
        let start = access!(self, data) as usize + offset;
        if start + length > access!(self, data_end) as usize {
            return None;
        }
        // SAFETY: the bound is checked above, and nothing moves the frame before the sum is there.
        sum(unsafe { slice::from_raw_parts(start as *const u8, length) }, seed)
    }

    /// Copies words of the frame, without a call of the kernel if they are in its linear part and near its beginning. Returns
    /// `None` if the frame is shorter.
    #[inline(always)]
    pub fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // The verifier wants a bound for what it adds to a place in the frame.
        if offset < NEAR
            && let Some(words) = self.at(offset as usize)
        {
            return Some(*words);
        }
        let mut words = [0; N];
        // SAFETY: the helper writes `N` words to `words`, or fails.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.get().cast(), offset, words.as_mut_ptr().cast(), 4 * N as u32)
        };
        (failed == 0).then_some(words)
    }

    /// Copies bytes of the frame. Returns `None` if it is shorter.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes `N` bytes to `bytes`, or fails.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.get().cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        (failed == 0).then_some(bytes)
    }

    /// Copies bytes of the frame to `to`. Returns whether the frame has them.
    #[inline(always)]
    pub fn load_into(&self, offset: u32, to: &[Cell<u8>]) -> bool {
        let bytes = to.as_ptr().cast_mut().cast();
        // SAFETY: the helper writes as many bytes as `to` has, which may be written because they are cells.
        unsafe { bpf_skb_load_bytes(self.0.get().cast(), offset, bytes, to.len() as u32) == 0 }
    }

    /// Writes bytes into the frame. Returns whether it is long enough.
    #[inline(always)]
    pub fn store(&self, offset: u32, bytes: &[u8]) -> bool {
        // SAFETY: the helper reads as many bytes as `bytes` has, and checks the bounds of the frame.
        unsafe {
            bpf_skb_store_bytes(self.0.get(), offset, bytes.as_ptr().cast(), bytes.len() as u32, 0) == 0
        }
    }

    /// Writes bytes of a map into the frame. Returns whether it is long enough.
    #[inline(always)]
    pub fn store_from(&self, offset: u32, from: &[Cell<u8>]) -> bool {
        // SAFETY: the helper reads as many bytes as `from` has, which nobody writes meanwhile, and checks the frame's bounds.
        unsafe { bpf_skb_store_bytes(self.0.get(), offset, from.as_ptr().cast(), from.len() as u32, 0) == 0 }
    }

    /// Corrects the checksum at `offset`, of a transport header, for a change of two bytes. Returns whether that worked.
    #[inline(always)]
    pub fn replace_in_checksum(&self, offset: u32, old: u16, new: u16) -> bool {
        // SAFETY: the helper takes numbers, and checks the bounds.
        unsafe { bpf_l4_csum_replace(self.0.get(), offset, old.into(), new.into(), 2) == 0 }
    }

    /// Adds room before the frame. Returns whether that worked.
    #[inline(always)]
    pub fn extend_head(&self, length: u32) -> bool {
        // SAFETY: the helper takes numbers, and checks the length.
        unsafe { bpf_skb_change_head(self.0.get(), length, 0) == 0 }
    }

    /// Adds room after the Ethernet header, or removes some if `difference` is negative. Returns whether that worked.
    #[inline(always)]
    pub fn adjust_room(&self, difference: i32) -> bool {
        // SAFETY: the helper takes numbers, and checks that so much is there to remove.
        unsafe { bpf_skb_adjust_room(self.0.get(), difference, BEHIND_ETHERNET, 0) == 0 }
    }

    /// Cuts or extends the frame to a length, and makes it linear. Returns whether that worked.
    #[inline(always)]
    pub fn set_len(&self, length: u32) -> bool {
        // SAFETY: the helper takes a length, and checks it.
        unsafe { bpf_skb_change_tail(self.0.get(), length, 0) == 0 }
    }

    /// Makes the kernel forget the packet's flow.
    #[inline(always)]
    pub fn forget_hash(&self) {
        // SAFETY: the helper takes nothing but the packet.
        unsafe { bpf_set_hash_invalid(self.0.get()) }
    }

    /// Compares the length in `mtu`, or with [`SEGMENTS`] the packet's segments, with the MTU of a device, and writes that to
    /// `mtu`. Returns 0 if it fits, more than 0 if it is too long, and less than 0 if the kernel cannot tell.
    #[inline(always)]
    pub fn check_mtu(&self, ifindex: u32, mtu: &mut u32, flags: u64) -> i64 {
        // SAFETY: the helper reads and writes `mtu`, which is a word, and nothing else.
        unsafe { bpf_check_mtu(self.0.get().cast(), ifindex, mtu, 0, flags) }
    }

    /// Sends a copy out of the device that the packet is leaving by. Returns what the device said.
    #[inline(always)]
    pub fn send_copy(&self) -> i64 {
        // SAFETY: the helper takes numbers.
        unsafe { bpf_clone_redirect(self.0.get(), self.ifindex(), 0) }
    }
}

/// Returns the sum of bytes in words of 32 bits, for a checksum. It is not folded yet.
#[inline(always)]
pub fn sum(bytes: &[u8], seed: u32) -> Option<u32> {
    let from = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the helper reads as many bytes as `bytes` has.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, from, bytes.len() as u32, seed) };
    u32::try_from(sum).ok()
}
