//! What a socket of this host says about a segment that comes in: whoever does not see a connection does not know its numbers.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock};
use byway_abi::FAMILY_IPV4;

use crate::{
    skb::Skb,
    transport::{self, Transport},
};

/// The state of a socket that waits for connections (`BPF_TCP_LISTEN`, include/uapi/linux/bpf.h).
const LISTEN: u32 = 10;
/// The network namespace of the packet (`BPF_F_CURRENT_NETNS`).
const CURRENT_NETNS: u64 = -1_i64 as u64;
/// How far a number may be from the one that comes next. Segments overtake each other, and when a connection moves, all that
/// was on the other way may be lost. Whoever guesses both numbers is right once in four million times.
const NEAR: u32 = 1 << 20;

/// Returns 0 if this host has the connection of a TCP segment, and its numbers say that the other end has not sent it. Returns 1
/// if they do not, or if there is no such socket: the host may forward the connection. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn may_have_sent(skb: &Skb, family: u32, offset: u32) -> u32 {
    let Some(transport) = transport::find(skb, family, offset) else { return 1 };
    let Some([_, sequence, acknowledged]) = skb.words(transport.offset) else { return 1 };
    let Some([una, next, received]) = numbers(skb, family, offset, &transport) else { return 1 };
    let (sequence, acknowledged) = (u32::from_be(sequence), u32::from_be(acknowledged));
    let continues = sequence.wrapping_sub(received.wrapping_sub(NEAR)) <= 2 * NEAR;
    // What has just been sent may be acknowledged before the socket knows that it is out.
    let sent = next.wrapping_sub(una).wrapping_add(2 * NEAR);
    let acknowledges = acknowledged.wrapping_sub(una.wrapping_sub(NEAR)) <= sent;
    (continues && acknowledges).into()
}

/// Returns the numbers of a connection that this host has: the first one that the other end has not acknowledged, the next one to
/// send, and the next one to receive.
#[inline(always)]
fn numbers(skb: &Skb, family: u32, offset: u32, transport: &Transport) -> Option<[u32; 3]> {
    let [ports]: [u32; 1] = skb.words(transport.offset)?;
    // `struct bpf_sock_tuple`: the addresses and ports as the packet has them.
    let mut tuple = [0; 9];
    let length = if family == FAMILY_IPV4 {
        let addresses: [u32; 2] = skb.words(offset + 12)?;
        tuple[..2].copy_from_slice(&addresses);
        tuple[2] = ports;
        12
    } else {
        let addresses: [u32; 8] = skb.words(offset + 8)?;
        tuple[..8].copy_from_slice(&addresses);
        tuple[8] = ports;
        36
    };
    let context = ptr::from_ref(skb).cast_mut().cast();
    // SAFETY: the helper reads as many bytes of `tuple` as it is told.
    let socket = unsafe { bpf_skc_lookup_tcp(context, tuple.as_mut_ptr().cast(), length, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: it is a socket, and this holds a reference to it. One that is not complete yet, or is over, is no TCP socket here.
    let tcp = unsafe { bpf_tcp_sock(socket) };
    // SAFETY: likewise.
    let is_listening = unsafe { (*socket).state } == LISTEN;
    let numbers = if tcp.is_null() || is_listening {
        None
    } else {
        // SAFETY: it is a connection's socket as long as there is the reference.
        Some(unsafe { [(*tcp).snd_una, (*tcp).snd_nxt, (*tcp).rcv_nxt] })
    };
    // SAFETY: the reference is from above, and nothing uses the socket any more.
    unsafe { bpf_sk_release(socket.cast()) };
    numbers
}
