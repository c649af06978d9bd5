//! IPsec: ESP (RFC 4303) with well-known keys (XFRM_MSG_NEWSA,
//! XFRM_MSG_NEWPOLICY; ip-xfrm(8), linux/xfrm.h).

use std::{io, net::IpAddr};

use byway_netlink::{NLM_F_CREATE, NLM_F_EXCL, Netlink};
use netlink_packet_xfrm::{
    Alg, UserPolicyInfo, UserSaInfo, UserTemplate, XFRM_ALG_NAME_LEN, XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL,
    XFRM_POLICY_ALLOW, XFRM_POLICY_IN, XFRM_POLICY_OUT, XfrmAttrs, XfrmMessage, policy, state,
};
use netlink_sys::protocols::NETLINK_XFRM;

use crate::{
    Node,
    error::{Doing, Result},
};

/// IANA's protocol number.
const ESP: u8 = 50;

/// What ESP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EspMode {
    /// Transport mode: everything after the IP header, which stays.
    Transport,
    /// Tunnel mode: the whole packet, after a new IP header.
    Tunnel,
}

/// One direction of a protected connection, as both hosts have to configure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Esp {
    /// What is carried.
    pub mode: EspMode,
    /// Which packets are protected: those from this address,
    pub from: IpAddr,
    /// to this one.
    pub to: IpAddr,
    /// The source and the destination of the ESP packets. In transport mode these are the same as `from` and `to`.
    pub ends: (IpAddr, IpAddr),
    /// The security parameters index, which tells connections apart.
    pub spi: u32,
}

/// The direction of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EspPolicy {
    /// Packets that the node sends and forwards must leave protected.
    Out,
    /// Packets for the node must come protected.
    In,
}

impl Node {
    /// Adds the state that encrypts at one end and decrypts at the other (`ip xfrm state add … proto esp`): AES in CBC
    /// mode and HMAC of SHA-256.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] if there is such a state, with `EPROTONOSUPPORT` from a kernel without ESP, and
    /// `ENOENT` from one without the algorithms.
    pub fn esp_state(&self, esp: &Esp) -> Result<()> {
        let mut info = UserSaInfo { mode: esp.mode.number(), ..UserSaInfo::default() };
        info.source(&esp.ends.0);
        info.destination(&esp.ends.1);
        info.id.proto = ESP;
        info.id.spi = esp.spi;
        let nlas = vec![
            XfrmAttrs::EncryptionAlg(algorithm("cbc(aes)", 16)),
            XfrmAttrs::AuthenticationAlg(algorithm("hmac(sha256)", 32)),
        ];
        self.xfrm(XfrmMessage::AddSa(state::ModifyMessage { user_sa_info: info, nlas }))
            .doing(|| format!("adding the state of {esp:?} on {}", self.name()))
    }

    /// Adds the policy that demands the protection (`ip xfrm policy add … dir out|in tmpl … proto esp`). Without a
    /// state, packets that match the policy are dropped.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] if there is such a policy, and with `EPROTONOSUPPORT` from a kernel without IPsec.
    pub fn esp_policy(&self, esp: &Esp, policy: EspPolicy) -> Result<()> {
        let mut info = UserPolicyInfo {
            direction: match policy {
                EspPolicy::Out => XFRM_POLICY_OUT,
                EspPolicy::In => XFRM_POLICY_IN,
            },
            action: XFRM_POLICY_ALLOW,
            ..UserPolicyInfo::default()
        };
        let host = if esp.from.is_ipv4() { 32 } else { 128 };
        info.selector.source_prefix(&esp.from, host);
        info.selector.destination_prefix(&esp.to, host);
        let mut template = UserTemplate::default();
        template.source(&esp.ends.0);
        template.destination(&esp.ends.1);
        template.protocol(ESP);
        template.mode(esp.mode.number());
        let nlas = vec![XfrmAttrs::Template(vec![template])];
        self.xfrm(XfrmMessage::AddPolicy(policy::ModifyMessage { user_policy_info: info, nlas }))
            .doing(|| format!("adding policy {policy:?} of {esp:?} on {}", self.name()))
    }

    fn xfrm(&self, message: XfrmMessage) -> io::Result<()> {
        self.run(|| Netlink::open_protocol(NETLINK_XFRM)?.change(message, NLM_F_CREATE | NLM_F_EXCL))
    }
}

impl EspMode {
    fn number(self) -> u8 {
        match self {
            Self::Transport => XFRM_MODE_TRANSPORT,
            Self::Tunnel => XFRM_MODE_TUNNEL,
        }
    }
}

/// With a key of this many bytes, which is always the same, so both ends know it.
fn algorithm(name: &str, key: u8) -> Alg {
    let mut alg_name = [0; XFRM_ALG_NAME_LEN];
    alg_name[..name.len()].copy_from_slice(name.as_bytes());
    Alg { alg_name, alg_key_len: u32::from(key) * 8, alg_key: (0..key).collect() }
}
