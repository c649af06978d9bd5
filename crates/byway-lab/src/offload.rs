//! Offloads of a device, switched on and off as ethtool(8) does: by the generic netlink family `ethtool`
//! (Documentation/networking/ethtool-netlink.rst in the kernel's source).

use std::{collections::BTreeSet, io};

use byway_netlink::Netlink;
use netlink_packet_core::{
    DecodeError, Emitable, NLA_HEADER_SIZE, NlasIterator, ParseableParametrized, parse_string,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::{
    Node,
    attribute::{Attribute, bytes, flag, nested, text},
    error::{Doing, Result},
};

/// Work on packets that the kernel leaves to a device, by the names of ethtool(8). A veth does not do this work: it passes
/// the packet on as it is. Once a device on the way has the offload switched off, the kernel does the work there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offload {
    /// `tx-checksumming`: the device fills in the checksums of packets that leave.
    TxChecksum,
    /// `tcp-segmentation-offload`: the device segments TCP packets. Needs [`Offload::TxChecksum`].
    TcpSegmentation,
    /// `tx-udp-segmentation`: the same for UDP (`UDP_SEGMENT`, udp(7)).
    UdpSegmentation,
    /// `generic-segmentation-offload`: the kernel segments right before the device what the device cannot segment.
    GenericSegmentation,
    /// `generic-receive-offload`: merges incoming segments. A veth does so from Linux 5.13.
    GenericReceive,
}

impl Offload {
    /// The kernel's names of the features that one name of ethtool's stands for (`netdev_features_strings`,
    /// net/ethtool/common.c; `off_flag_def`, ethtool's common.c). A device has some of them.
    fn features(self) -> &'static [&'static str] {
        match self {
            Self::TxChecksum => &[
                "tx-checksum-ipv4",
                "tx-checksum-ip-generic",
                "tx-checksum-ipv6",
                "tx-checksum-fcoe-crc",
                "tx-checksum-sctp",
            ],
            Self::TcpSegmentation => &[
                "tx-tcp-segmentation",
                "tx-tcp-ecn-segmentation",
                "tx-tcp-mangleid-segmentation",
                "tx-tcp6-segmentation",
            ],
            Self::UdpSegmentation => &["tx-udp-segmentation"],
            Self::GenericSegmentation => &["tx-generic-segmentation"],
            Self::GenericReceive => &["rx-gro"],
        }
    }
}

impl Node {
    /// Whether a device has an offload that can be switched. For a veth this depends on the kernel: Linux 5.10 has no
    /// [`Offload::UdpSegmentation`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] if there is no such device.
    pub fn has_offload(&self, device: &str, offload: Offload) -> Result<bool> {
        self.run(|| Ethtool::open()?.changeable(device, offload))
            .map(|features| !features.is_empty())
            .doing(|| format!("asking for {offload:?} of {device} on {}", self.name()))
    }

    /// Switches an offload of a device on or off (`ethtool -K DEVICE tx|tso|gso|gro|tx-udp-segmentation on|off`), also
    /// while the device is up. The kernel switches dependent offloads with it: there is no TCP
    /// segmentation without checksums.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] if there is no such device, where it has no such offload to switch, or where the
    /// kernel leaves it as it was, such as segmentation on a device that does no checksums.
    pub fn set_offload(&self, device: &str, offload: Offload, on: bool) -> Result<()> {
        let doing = || {
            let state = if on { "on" } else { "off" };
            format!("switching {offload:?} of {device} on {} {state}", self.name())
        };
        self.run(|| Ethtool::open()?.set(device, offload, on)).doing(doing)
    }
}

/// The family's socket, and its number, which the kernel gives to families as they come.
struct Ethtool {
    socket: Netlink<GenlMessage<Message>>,
    family: u16,
}

impl Ethtool {
    fn open() -> io::Result<Self> {
        let mut controller = Netlink::<GenlMessage<GenlCtrl>>::open_protocol(NETLINK_GENERIC)?;
        let name = GenlCtrlAttrs::FamilyName(Message::family_name().to_owned());
        let request = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let family = controller.get(GenlMessage::from_payload(request))?.payload;
        let family = family.nlas.iter().find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(number) => Some(*number),
            _ => None,
        });
        let family = family.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { socket: Netlink::open_protocol(NETLINK_GENERIC)?, family })
    }

    /// The features of an offload that the device has.
    fn changeable(&mut self, device: &str, offload: Offload) -> io::Result<Vec<&'static str>> {
        let changeable = self.features(device, Features::HARDWARE)?;
        Ok(offload.features().iter().copied().filter(|name| changeable.contains(*name)).collect())
    }

    fn set(&mut self, device: &str, offload: Offload, on: bool) -> io::Result<()> {
        let features = self.changeable(device, offload)?;
        if features.is_empty() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the device has none to switch"));
        }
        let bits: Vec<Attribute> = features.iter().map(|name| bit(name, on)).collect();
        let wanted = nested(Features::WANTED, &[nested(Bitset::BITS, &bits)]);
        // The kernel acknowledges even what it does not do.
        self.ask(Message { command: Message::FEATURES_SET, attributes: bytes(&[header(device), wanted]) })?;
        let active = self.features(device, Features::ACTIVE)?;
        match features.iter().find(|name| active.contains(**name) != on) {
            None => Ok(()),
            Some(name) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("the kernel leaves {name} as it was")))
            }
        }
    }

    /// The names in one of the sets of a device's features.
    fn features(&mut self, device: &str, set: u16) -> io::Result<BTreeSet<String>> {
        let answer =
            self.ask(Message { command: Message::FEATURES_GET, attributes: bytes(&[header(device)]) })?;
        answer.names(set).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn ask(&mut self, request: Message) -> io::Result<Message> {
        let mut request = GenlMessage::from_payload(request);
        request.set_resolved_family_id(self.family);
        self.socket.get(request).map(|answer| answer.payload)
    }
}

/// `ETHTOOL_A_FEATURES_*` (linux/ethtool_netlink.h).
struct Features;

impl Features {
    const HEADER: u16 = 1;
    const HARDWARE: u16 = 2;
    const WANTED: u16 = 3;
    const ACTIVE: u16 = 4;
}

/// `ETHTOOL_A_BITSET_*`, and of each bit `ETHTOOL_A_BITSET_BITS_*` and `ETHTOOL_A_BITSET_BIT_*`.
struct Bitset;

impl Bitset {
    const NOMASK: u16 = 1;
    const BITS: u16 = 3;
    const BIT: u16 = 1;
    const BIT_NAME: u16 = 2;
    const BIT_VALUE: u16 = 3;
}

fn header(device: &str) -> Attribute {
    const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
    nested(Features::HEADER, &[text(ETHTOOL_A_HEADER_DEV_NAME, device)])
}

fn bit(name: &str, on: bool) -> Attribute {
    let mut bit = vec![text(Bitset::BIT_NAME, name)];
    bit.extend(on.then(|| flag(Bitset::BIT_VALUE)));
    nested(Bitset::BIT, &bit)
}

/// A message of the family.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    command: u8,
    /// As they lie in the message.
    attributes: Vec<u8>,
}

impl Message {
    const FEATURES_GET: u8 = 11;
    const FEATURES_SET: u8 = 12;

    /// The names of the bits that are set in a bitset: of a list without a mask all of them, else those with a value.
    fn names(&self, set: u16) -> std::result::Result<BTreeSet<String>, DecodeError> {
        let Some(bitset) = find(&self.attributes, set)? else { return Ok(BTreeSet::new()) };
        let no_mask = find(bitset, Bitset::NOMASK)?.is_some();
        let mut names = BTreeSet::new();
        for bit in NlasIterator::new(find(bitset, Bitset::BITS)?.unwrap_or_default()) {
            let bit = bit?;
            if no_mask || find(bit.value(), Bitset::BIT_VALUE)?.is_some() {
                names.insert(parse_string(find(bit.value(), Bitset::BIT_NAME)?.unwrap_or_default())?);
            }
        }
        Ok(names)
    }
}

/// The value of the first attribute of a kind, out of several that lie one behind the other.
fn find(attributes: &[u8], kind: u16) -> std::result::Result<Option<&[u8]>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            let length = attribute.length().into();
            return Ok(attribute.into_inner().get(NLA_HEADER_SIZE..length));
        }
    }
    Ok(None)
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.attributes);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> std::result::Result<Self, DecodeError> {
        Ok(Self { command: header.cmd, attributes: buffer.to_vec() })
    }
}
