//! Reads what the messages' crate cannot: without the attributes that it stumbles over.
//!
//! The kernel takes any bytes for the name and the alias of a device, or the name of a filter. The crate takes only text, and
//! gives up the whole message. To its user, such a device would not exist.

use netlink_packet_core::{NetlinkDeserializable, NetlinkMessage};

/// Length of the header of a netlink message (`struct nlmsghdr`, linux/netlink.h).
const HEADER: usize = 16;
/// Length of the header of an attribute (`struct rtattr`, rtnetlink(7)).
const ATTRIBUTE: usize = 4;

/// Reads a message of rtnetlink without the attributes that keep it from being read.
pub(crate) fn read<T: NetlinkDeserializable>(message: &[u8]) -> Option<NetlinkMessage<T>> {
    let length = u32::from_ne_bytes(*message.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let message = message.get(..length)?;
    let (mut readable, mut attributes) =
        message.split_at_checked(HEADER + family_header(kind)?).map(|(a, b)| (a.to_vec(), b))?;
    finish(&mut readable);
    let mut read = NetlinkMessage::deserialize(&readable).ok()?;
    while let Some(length) = attributes.first_chunk().map(|length| usize::from(u16::from_ne_bytes(*length))) {
        if length < ATTRIBUTE || length > attributes.len() {
            break;
        }
        let attribute;
        (attribute, attributes) = attributes.split_at(length.next_multiple_of(4).min(attributes.len()));
        let mut longer = readable.clone();
        longer.extend(attribute);
        finish(&mut longer);
        // What an attribute means may depend on those before it, so they are read together.
        if let Ok(message) = NetlinkMessage::deserialize(&longer) {
            (readable, read) = (longer, message);
        }
    }
    Some(read)
}

/// Writes the length of a message into its header.
fn finish(message: &mut [u8]) {
    let length = (message.len() as u32).to_ne_bytes();
    message[..length.len()].copy_from_slice(&length);
}

/// The length of the header behind that of netlink, by the type of a message (linux/rtnetlink.h).
fn family_header(kind: u16) -> Option<usize> {
    Some(match kind {
        // struct ifinfomsg
        16..=19 => 16,
        // struct ifaddrmsg
        20..=23 => 8,
        // struct rtmsg, struct ndmsg, struct fib_rule_hdr
        24..=35 => 12,
        // struct tcmsg: queueing disciplines, classes, filters
        36..=47 => 20,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, NetlinkHeader, NetlinkPayload};
    use netlink_packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    };

    use super::*;

    /// `IFLA_IFALIAS` (linux/if_link.h).
    const ALIAS: u16 = 20;

    fn bytes(attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.attributes = attributes;
        let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn an_attribute_that_is_no_text_costs_only_itself() {
        let name = || LinkAttribute::IfName("eth0".into());
        let (mtu, odd) =
            (LinkAttribute::Mtu(1500), LinkAttribute::Other(DefaultNla::new(ALIAS, b"b\xfcro\0".to_vec())));
        let message = bytes(vec![name(), odd, mtu.clone()]);
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&message).unwrap_err();
        let read = read::<RouteNetlinkMessage>(&message).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = read.payload else {
            panic!("{read:?}")
        };
        assert_eq!((link.header.index, link.attributes), (7, vec![name(), mtu]));
    }

    #[test]
    fn what_is_cut_off_is_no_panic() {
        let message = bytes(vec![LinkAttribute::IfName("eth0".into()), LinkAttribute::Mtu(1500)]);
        for length in 0..message.len() {
            let _ = read::<RouteNetlinkMessage>(&message[..length]);
        }
        for (nth, byte) in (0..message.len()).flat_map(|nth| [0, 1, 0xff].map(|byte| (nth, byte))) {
            let mut message = message.clone();
            message[nth] = byte;
            let _ = read::<RouteNetlinkMessage>(&message);
        }
    }
}
