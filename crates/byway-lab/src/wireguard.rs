//! WireGuard tunnels (generic netlink; linux/wireguard.h).

use std::{fs::File, io, io::Read as _, net::SocketAddr};

use byway_netlink::packet::link::InfoKind;
use netlink_packet_core::{
    Emitable, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute,
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_GENERIC};

use crate::{
    Lab, Node,
    error::{Doing, Result},
};

type Key = [u8; WireguardAttribute::WG_KEY_LEN];

impl Lab {
    /// Joins two nodes by a WireGuard tunnel. Each end is a node, the device's name there, and the address at which the other
    /// node reaches it. Both devices are up, and each accepts every packet from the other. Keys are new each time. The first
    /// packet waits for the handshake.
    ///
    /// # Errors
    ///
    /// [`crate::Error::KernelLacks`] if the kernel has no WireGuard; [`crate::Error::System`] for a name that is taken or too long
    /// (15 bytes), or a port that is in use.
    pub fn wireguard(&self, a: (&Node, &str, SocketAddr), b: (&Node, &str, SocketAddr)) -> Result<()> {
        let keys = [add(a)?, add(b)?];
        for ((node, device, _), (_, _, endpoint), key) in [(a, b, keys[1]), (b, a, keys[0])] {
            node.wireguard(vec![
                WireguardAttribute::IfName(device.to_owned()),
                WireguardAttribute::Peers(vec![peer(key, endpoint)]),
            ])
            .doing(|| format!("giving {device} on {} its peer", node.name()))?;
            node.set_up(device, true)?;
        }
        Ok(())
    }
}

/// Makes one end, and returns its public key, which the kernel works out.
fn add((node, device, address): (&Node, &str, SocketAddr)) -> Result<Key> {
    node.add_link(device, InfoKind::Wireguard, None, None)?;
    let doing = || format!("giving {device} on {} its key", node.name());
    let mut key = Key::default();
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut key)).doing(doing)?;
    node.wireguard(vec![
        WireguardAttribute::IfName(device.to_owned()),
        WireguardAttribute::PrivateKey(key),
        WireguardAttribute::ListenPort(address.port()),
    ])
    .doing(doing)?;
    node.wireguard_key(device).doing(|| format!("reading the public key of {device} on {}", node.name()))
}

fn peer(key: Key, endpoint: SocketAddr) -> WireguardPeer {
    let everything =
        [(WireguardAddressFamily::Ipv4, [0; 4].into()), (WireguardAddressFamily::Ipv6, [0_u16; 8].into())];
    let allowed = everything.map(|(family, address)| {
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(address),
            WireguardAllowedIpAttr::Cidr(0),
        ])
    });
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(key),
        WireguardPeerAttribute::Endpoint(endpoint),
        WireguardPeerAttribute::AllowedIps(allowed.into()),
    ])
}

impl Node {
    fn wireguard(&self, attributes: Vec<WireguardAttribute>) -> io::Result<()> {
        let message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
        self.run(|| GenericNetlink::open()?.to_wireguard(message, NLM_F_ACK)).map(drop)
    }

    fn wireguard_key(&self, device: &str) -> io::Result<Key> {
        let attributes = vec![WireguardAttribute::IfName(device.to_owned())];
        let message = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        let answers = self.run(|| GenericNetlink::open()?.to_wireguard(message, NLM_F_DUMP))?;
        let key =
            answers.iter().flat_map(|answer| &answer.attributes).find_map(|attribute| match attribute {
                WireguardAttribute::PublicKey(key) => Some(*key),
                _ => None,
            });
        key.ok_or_else(|| io::Error::other("it has none"))
    }
}

/// A socket for one request.
struct GenericNetlink(Socket);

impl GenericNetlink {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Self(socket))
    }

    fn to_wireguard(&self, message: WireguardMessage, flags: u16) -> io::Result<Vec<WireguardMessage>> {
        // The kernel gives each family a number of its own choice.
        let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
        let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let answers = self.request(GenlMessage::from_payload(question), NLM_F_ACK)?;
        let number = answers.iter().flat_map(|answer| &answer.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(number) => Some(*number),
            _ => None,
        });
        let number = number.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(number);
        self.request(message, flags)
    }

    fn request<T>(&self, message: GenlMessage<T>, flags: u16) -> io::Result<Vec<T>>
    where
        T: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug,
    {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.0.send(&buffer, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<GenlMessage<T>>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Netlink messages are aligned to four bytes (NLMSG_ALIGN).
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner.payload),
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(ErrorMessage { code: None, .. }) => {
                        return Ok(answers);
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}
