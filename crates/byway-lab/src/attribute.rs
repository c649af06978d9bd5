//! Netlink attributes of families that have no crate of their own (netlink(7), linux/netlink.h).

pub(crate) use netlink_packet_core::DefaultNla as Attribute;
use netlink_packet_core::{Emitable, NLA_F_NESTED};

pub(crate) fn text(kind: u16, value: &str) -> Attribute {
    Attribute::new(kind, [value.as_bytes(), &[0]].concat())
}

/// An attribute without a value: its presence is the value.
pub(crate) fn flag(kind: u16) -> Attribute {
    Attribute::new(kind, Vec::new())
}

pub(crate) fn nested(kind: u16, attributes: &[Attribute]) -> Attribute {
    Attribute::new(kind | NLA_F_NESTED, bytes(attributes))
}

pub(crate) fn bytes(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}
