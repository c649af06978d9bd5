//! The packet as the kernel hands it to a program, and what its helpers do with it.

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

/// A packet, by the only name under which the verifier takes a function's argument for one.
#[expect(
    non_camel_case_types,
    reason = "the verifier compares the name (`btf_get_prog_ctx_type`, kernel/bpf/btf.c)"
)]
#[repr(transparent)]
pub struct __sk_buff(UnsafeCell<bindings::__sk_buff>);

/// A packet.
pub type Skb = __sk_buff;

/// What any bytes make a valid value of.
///
/// # Safety
///
/// The type is made of numbers, without padding.
pub unsafe trait Plain {}

// SAFETY: a number.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// `BPF_ADJ_ROOM_MAC`: room behind the Ethernet header (include/uapi/linux/bpf.h).
const BEHIND_ETHERNET: u32 = 1;
/// The flag of `bpf_check_mtu` that judges a segmentation-offload packet by its segments (likewise).
pub const SEGMENTS: u64 = 1;

/// Reads a field, or writes it. The verifier checks which, and turns it into one of the kernel's own `struct sk_buff`.
macro_rules! access {
    ($skb:ident, $($field:tt)+) => {
        // SAFETY: the kernel has made the packet, and nothing holds a reference to a field of it.
        unsafe { (*$skb.0.get()).$($field)+ }
    };
}

impl Skb {
    /// The packet that a program runs for.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> &Self {
        // SAFETY: the kernel hands a valid `__sk_buff`, which is there as long as the program runs. `Self` lies as that does.
        unsafe { &*ctx.skb.skb.cast() }
    }

    /// The device that it is leaving by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        access!(self, ifindex)
    }

    /// Its length in bytes, all of the frame.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        access!(self, len)
    }

    /// Its EtherType in network byte order.
    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        access!(self, protocol)
    }

    /// Whether it has a VLAN tag beside the frame.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        access!(self, vlan_present) != 0
    }

    /// How many segments it is cut into, 0 where it is not one of segmentation offload.
    #[inline(always)]
    pub fn segments(&self) -> u32 {
        access!(self, gso_segs)
    }

    /// How much each of them carries in bytes, likewise.
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

    /// A word of the scratch fields ([`mark`]).
    #[inline(always)]
    pub fn cb(&self, word: usize) -> u32 {
        access!(self, cb[word])
    }

    /// Writes one.
    #[inline(always)]
    pub fn set_cb(&self, word: usize, value: u32) {
        access!(self, cb[word] = value);
    }

    /// The two words of the mark's secret as one.
    #[inline(always)]
    pub fn secret(&self) -> u64 {
        // SAFETY: as in `access`. Both words are there, and the first is at a multiple of eight bytes.
        unsafe { (&raw const (*self.0.get()).cb[mark::SECRET_LOW]).cast::<u64>().read() }
    }

    /// Writes them.
    #[inline(always)]
    pub fn set_secret(&self, secret: u64) {
        // SAFETY: likewise.
        unsafe { (&raw mut (*self.0.get()).cb[mark::SECRET_LOW]).cast::<u64>().write(secret) }
    }

    /// A place in the frame, where its bytes lie in the linear part.
    ///
    /// The kernel aligns the IP header to four bytes (`NET_IP_ALIGN`), so words of it are loaded as such. Those of an Ethernet
    /// header are not aligned, which the machines that run this do not mind; the verifier of one that does would refuse the program.
    #[inline(always)]
    pub fn at<T: Plain>(&self, offset: usize) -> Option<&T> {
        let start = access!(self, data) as usize + offset;
        if start + size_of::<T>() > access!(self, data_end) as usize {
            return None;
        }
        // SAFETY: the bound is checked above, and any bytes make a `T`. Some helpers move the frame; the verifier refuses a
        // program that goes to a place in it afterwards.
        Some(unsafe { &*(start as *const T) })
    }

    /// A place in the frame, wherever the bytes lie; nothing where it is shorter.
    #[inline(always)]
    pub fn pull<T: Plain>(&self, offset: usize) -> Option<&T> {
        if let Some(place) = self.at(offset) {
            return Some(place);
        }
        // SAFETY: the helper checks the length.
        if unsafe { bpf_skb_pull_data(self.0.get(), (offset + size_of::<T>()) as u32) } != 0 {
            return None;
        }
        self.at(offset)
    }

    /// The sum of bytes of the frame ([`sum`]), where they lie in the linear part.
    #[inline(always)]
    pub fn sum(&self, offset: usize, length: usize, seed: u32) -> Option<u32> {
        let start = access!(self, data) as usize + offset;
        if start + length > access!(self, data_end) as usize {
            return None;
        }
        // SAFETY: the bound is checked above, and the frame stays where it is until the next call.
        sum(unsafe { slice::from_raw_parts(start as *const u8, length) }, seed)
    }

    /// Copies bytes of the frame, wherever they lie; nothing where it is shorter.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes `N` bytes to `bytes`, or fails.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.get().cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        (failed == 0).then_some(bytes)
    }

    /// Copies bytes of the frame into `to`. Says whether they are there.
    #[inline(always)]
    pub fn load_into(&self, offset: u32, to: &[Cell<u8>]) -> bool {
        let bytes = to.as_ptr().cast_mut().cast();
        // SAFETY: the helper writes as many bytes as `to` has, which are cells, or fails.
        unsafe { bpf_skb_load_bytes(self.0.get().cast(), offset, bytes, to.len() as u32) == 0 }
    }

    /// Writes bytes into the frame. Says whether there is room for them.
    #[inline(always)]
    pub fn store(&self, offset: u32, bytes: &[u8]) -> bool {
        // SAFETY: the helper reads as many bytes as there are, and checks the bounds of the frame.
        unsafe {
            bpf_skb_store_bytes(self.0.get(), offset, bytes.as_ptr().cast(), bytes.len() as u32, 0) == 0
        }
    }

    /// The same with bytes of a map.
    #[inline(always)]
    pub fn store_from(&self, offset: u32, from: &[Cell<u8>]) -> bool {
        // SAFETY: as in `store`; nobody writes the cells meanwhile.
        unsafe { bpf_skb_store_bytes(self.0.get(), offset, from.as_ptr().cast(), from.len() as u32, 0) == 0 }
    }

    /// Puts the checksum at `offset`, of a transport header, right after two bytes that it covers have changed.
    #[inline(always)]
    pub fn replace_in_checksum(&self, offset: u32, old: u16, new: u16) -> bool {
        // SAFETY: the helper checks the bounds.
        unsafe { bpf_l4_csum_replace(self.0.get(), offset, old.into(), new.into(), 2) == 0 }
    }

    /// Makes room ahead of the frame.
    #[inline(always)]
    pub fn extend_head(&self, length: u32) -> bool {
        // SAFETY: the helper takes numbers.
        unsafe { bpf_skb_change_head(self.0.get(), length, 0) == 0 }
    }

    /// Makes room behind the Ethernet header, or takes some away where `difference` is negative.
    #[inline(always)]
    pub fn adjust_room(&self, difference: i32) -> bool {
        // SAFETY: the helper takes numbers, and checks the length.
        unsafe { bpf_skb_adjust_room(self.0.get(), difference, BEHIND_ETHERNET, 0) == 0 }
    }

    /// Makes the frame as long as this, and one piece.
    #[inline(always)]
    pub fn set_len(&self, length: u32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { bpf_skb_change_tail(self.0.get(), length, 0) == 0 }
    }

    /// Makes the kernel forget which flow it is of.
    #[inline(always)]
    pub fn forget_hash(&self) {
        // SAFETY: the helper takes the packet alone.
        unsafe { bpf_set_hash_invalid(self.0.get()) }
    }

    /// Judges a length, or with [`SEGMENTS`] the packet's own segments, by the MTU of a device, which `mtu` is afterwards. Returns
    /// 0, or more than 0 where it is too long, or less where that cannot be told.
    #[inline(always)]
    pub fn check_mtu(&self, ifindex: u32, mtu: &mut u32, flags: u64) -> i64 {
        // SAFETY: the helper reads and writes `mtu` alone.
        unsafe { bpf_check_mtu(self.0.get().cast(), ifindex, mtu, 0, flags) }
    }

    /// Sends a copy out of the device that the packet is leaving by. Returns what that made of it.
    #[inline(always)]
    pub fn send_copy(&self) -> i64 {
        // SAFETY: the helper takes numbers.
        unsafe { bpf_clone_redirect(self.0.get(), self.ifindex(), 0) }
    }
}

/// The sum of bytes, four at a time, not folded yet.
#[inline(always)]
pub fn sum(bytes: &[u8], seed: u32) -> Option<u32> {
    let from = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the helper reads as many bytes as there are.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, from, bytes.len() as u32, seed) };
    u32::try_from(sum).ok()
}
