//! The part of nf_tables' netlink protocol that a few rules need (linux/netfilter/nfnetlink.h, nf_tables.h).
//!
//! Attribute numbers stand with their kernel names where they are used; numbers are in network byte order, unlike
//! rtnetlink's.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::attribute::{self, Attribute, nested, text};

/// `NFT_MSG_NEWTABLE`.
pub(crate) const NEW_TABLE: u16 = 0;
/// `NFT_MSG_NEWCHAIN`.
pub(crate) const NEW_CHAIN: u16 = 3;
/// `NFT_MSG_NEWRULE`.
pub(crate) const NEW_RULE: u16 = 6;
/// `NFT_MSG_NEWSET`.
pub(crate) const NEW_SET: u16 = 9;
/// `NFT_MSG_NEWSETELEM`.
pub(crate) const NEW_SET_ELEMENT: u16 = 12;
/// `NFT_MSG_NEWFLOWTABLE`.
pub(crate) const NEW_FLOWTABLE: u16 = 22;

/// `NFT_REG_1`: 16 bytes that one expression leaves for the next.
pub(crate) const REGISTER_1: u32 = 1;
/// `NFT_REG_2`.
pub(crate) const REGISTER_2: u32 = 2;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

pub(crate) fn number(kind: u16, value: u32) -> Attribute {
    Attribute::new(kind, value.to_be_bytes().into())
}

/// `NFTA_RULE_EXPRESSIONS` 4: a list of `NFTA_LIST_ELEM` 1.
pub(crate) fn expressions(list: &[Vec<Attribute>]) -> Attribute {
    let elements: Vec<Attribute> = list.iter().map(|expression| nested(1, expression)).collect();
    nested(4, &elements)
}

/// `NFTA_EXPR_NAME` 1, `_DATA` 2.
fn expression(name: &str, data: &[Attribute]) -> Vec<Attribute> {
    vec![text(1, name), nested(2, data)]
}

/// Loads the transport protocol's number: `NFTA_META_DREG` 1, `_KEY` 2; `NFT_META_L4PROTO` 16.
pub(crate) fn transport_protocol() -> Vec<Attribute> {
    expression("meta", &[number(1, REGISTER_1), number(2, 16)])
}

/// Which device's name: `NFT_META_IIFNAME`, `NFT_META_OIFNAME`.
#[derive(Clone, Copy)]
pub(crate) enum Name {
    Input = 6,
    Output = 7,
}

/// Loads a device's name: `NFTA_META_DREG` 1, `_KEY` 2.
pub(crate) fn interface_name(name: Name) -> Vec<Attribute> {
    expression("meta", &[number(1, REGISTER_1), number(2, name as u32)])
}

/// The base of an offset in a packet: `enum nft_payload_bases`.
#[derive(Clone, Copy)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// Loads a part of the packet: `NFTA_PAYLOAD_DREG` 1, `_BASE` 2, `_OFFSET` 3, `_LEN` 4.
pub(crate) fn payload(base: Base, offset: u32, length: u32) -> Vec<Attribute> {
    expression(
        "payload",
        &[number(1, REGISTER_1), number(2, base as u32), number(3, offset), number(4, length)],
    )
}

/// Ends the rule unless the first register holds `value`: `NFTA_CMP_SREG` 1, `_OP` 2 (`NFT_CMP_EQ` 0), `_DATA` 3.
pub(crate) fn compare(value: &[u8]) -> Vec<Attribute> {
    expression("cmp", &[number(1, REGISTER_1), number(2, 0), data(3, value)])
}

/// Ends the rule if the first register holds `value`: `NFT_CMP_NEQ` 1.
pub(crate) fn compare_not(value: &[u8]) -> Vec<Attribute> {
    expression("cmp", &[number(1, REGISTER_1), number(2, 1), data(3, value)])
}

/// What is known about the packet's connection: `NFT_CT_DIRECTION`, `NFT_CT_MARK`.
#[derive(Clone, Copy)]
pub(crate) enum Known {
    /// 0 for a packet in the direction of the first one.
    Direction = 1,
    Mark = 3,
}

/// Loads it: `NFTA_CT_DREG` 1, `_KEY` 2.
pub(crate) fn connection(known: Known) -> Vec<Attribute> {
    expression("ct", &[number(1, REGISTER_1), number(2, known as u32)])
}

/// Marks the packet's connection with what is in the first register: `NFTA_CT_KEY` 2, `_SREG` 4.
pub(crate) fn set_connection_mark() -> Vec<Attribute> {
    expression("ct", &[number(2, Known::Mark as u32), number(4, REGISTER_1)])
}

/// Ends the rule unless the set holds what is in the first register: `NFTA_LOOKUP_SET` 1, `_SREG` 2.
pub(crate) fn lookup(set: &str) -> Vec<Attribute> {
    expression("lookup", &[text(1, set), number(2, REGISTER_1)])
}

/// Marks the packet with what is in the first register: `NFTA_META_KEY` 2 (`NFT_META_MARK` 3), `_SREG` 3.
pub(crate) fn set_mark() -> Vec<Attribute> {
    expression("meta", &[number(2, 3), number(3, REGISTER_1)])
}

/// Loads a constant: `NFTA_IMMEDIATE_DREG` 1, `_DATA` 2.
pub(crate) fn immediate(register: u32, value: &[u8]) -> Vec<Attribute> {
    expression("immediate", &[number(1, register), data(2, value)])
}

/// Translates the destination to the address and the port in the two registers: `NFTA_NAT_TYPE` 1 (`NFT_NAT_DNAT` 1),
/// `_FAMILY` 2, `_REG_ADDR_MIN` 3, `_REG_PROTO_MIN` 5.
pub(crate) fn nat(family: u8) -> Vec<Attribute> {
    let registers = [number(3, REGISTER_1), number(5, REGISTER_2)];
    expression("nat", &[&[number(1, 1), number(2, family.into())], &registers[..]].concat())
}

/// Translates the source to the address in the first register: `NFTA_NAT_TYPE` 1 (`NFT_NAT_SNAT` 0), `_FAMILY` 2,
/// `_REG_ADDR_MIN` 3.
pub(crate) fn source_nat(family: u8) -> Vec<Attribute> {
    expression("nat", &[number(1, 0), number(2, family.into()), number(3, REGISTER_1)])
}

/// `NF_INET_PRE_ROUTING` and `NF_INET_POST_ROUTING` (linux/netfilter.h).
pub(crate) const PRE_ROUTING: u32 = 0;
pub(crate) const POST_ROUTING: u32 = 4;
/// `NF_IP_PRI_MANGLE`, and the priorities of both kinds of NAT (linux/netfilter_ipv4.h).
pub(crate) const MANGLE: i32 = -150;
pub(crate) const NAT_DESTINATION: i32 = -100;
pub(crate) const NAT_SOURCE: i32 = 100;

/// A chain that packets pass: `NFTA_CHAIN_TABLE` 1, `_NAME` 3, `_HOOK` 4, `_TYPE` 7; `NFTA_HOOK_HOOKNUM` 1, `_PRIORITY` 2.
pub(crate) fn chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> [Attribute; 4] {
    let hook = nested(4, &[number(1, hook), number(2, priority.cast_unsigned())]);
    [text(1, table), text(3, name), hook, text(7, kind)]
}

/// A device's name as it stands in a register: all of `IFNAMSIZ`.
pub(crate) fn padded(device: &str) -> Vec<u8> {
    let mut name = device.as_bytes().to_vec();
    name.resize(16, 0);
    name
}

/// Adds the packet's flow to a flowtable: `NFTA_FLOW_TABLE_NAME` 1.
pub(crate) fn flow_add(flowtable: &str) -> Vec<Attribute> {
    expression("flow_offload", &[text(1, flowtable)])
}

/// Drops the packet: `NFTA_IMMEDIATE_DREG` 1 (`NFT_REG_VERDICT` 0), `_DATA` 2; `NFTA_DATA_VERDICT` 2,
/// `NFTA_VERDICT_CODE` 1 (`NF_DROP` 0).
pub(crate) fn drop() -> Vec<Attribute> {
    expression("immediate", &[number(1, 0), nested(2, &[nested(2, &[number(1, 0)])])])
}

/// `NFTA_DATA_VALUE` 1.
fn data(kind: u16, value: &[u8]) -> Attribute {
    nested(kind, &[Attribute::new(1, value.into())])
}

/// Requests that the kernel carries out together or not at all.
pub(crate) struct Batch {
    family: u8,
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    /// For tables of one family: `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(crate) fn new(family: u8) -> Self {
        let mut batch = Self { family, bytes: Vec::new(), sequence: 0 };
        batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
        batch
    }

    /// Adds an object unless it exists.
    pub(crate) fn add(&mut self, request: u16, attributes: &[Attribute]) {
        self.request(request, NLM_F_CREATE, attributes);
    }

    /// Adds an object after the existing ones.
    pub(crate) fn append(&mut self, request: u16, attributes: &[Attribute]) {
        self.request(request, NLM_F_CREATE | NLM_F_APPEND, attributes);
    }

    fn request(&mut self, request: u16, flags: u16, attributes: &[Attribute]) {
        let kind = (NFNL_SUBSYS_NFTABLES << 8) | request;
        self.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, self.family, 0, attributes);
    }

    /// `struct nlmsghdr`, then `struct nfgenmsg`, whose resource is in network byte order.
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[Attribute]) {
        let body = attribute::bytes(attributes);
        let length = u32::try_from(16 + 4 + body.len()).expect("one rule is short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
        self.sequence += 1;
    }

    /// Sends the batch in the calling thread's network namespace and waits for the kernel's answer to each request.
    pub(crate) fn send(mut self) -> io::Result<()> {
        let requests = self.sequence - 1;
        self.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&self.bytes, 0)?;
        let mut acknowledged = 0;
        while acknowledged < requests {
            let (datagram, _) = socket.recv_from_full()?;
            acknowledged += acknowledgements(&datagram)?;
        }
        Ok(())
    }
}

/// Counts the acknowledgements in a datagram, or returns the first error.
fn acknowledgements(datagram: &[u8]) -> io::Result<u32> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a malformed answer from nf_tables");
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let mut count = 0;
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = word(rest, 0).ok_or_else(malformed)? as usize;
        let kind = rest.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        if kind == Some(NLMSG_ERROR) {
            match word(rest, 16).ok_or_else(malformed)?.cast_signed() {
                0 => count += 1,
                code => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Ok(count)
}
