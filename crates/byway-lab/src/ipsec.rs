//! IPsec: what is encrypted on its way, by ESP (RFC 4303) with keys that everybody knows (XFRM_MSG_NEWSA,
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
    /// What follows the IP header, which stays.
    Transport,
    /// The whole packet, behind a new IP header.
    Tunnel,
}

/// One direction of a protected connection: what two hosts have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Esp {
    /// What is carried.
    pub mode: EspMode,
    /// Which packets are protected: those from this address,
    pub from: IpAddr,
    /// to this one.
    pub to: IpAddr,
    /// Where the ESP packets are from and where they are for. In transport mode the same as `from` and `to`.
    pub ends: (IpAddr, IpAddr),
    /// The security parameters index, which tells connections apart.
    pub spi: u32,
}

/// What a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EspPolicy {
    /// What the node sends and forwards has to leave protected.
    Out,
    /// What comes in for the node has to come protected.
    In,
}

impl Node {
    /// Adds the state that encrypts at one end and decrypts at the other (`ip xfrm state add … proto esp`): AES in CBC
    /// mode and HMAC of SHA-256.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] where there is such a state, with `EPROTONOSUPPORT` from a kernel without ESP, and
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

    /// Adds the policy that demands the protection (`ip xfrm policy add … dir out|in tmpl … proto esp`). While there is
    /// no state for it, what the policy is about is dropped.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] where there is such a policy, and with `EPROTONOSUPPORT` from a kernel without IPsec.
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

/// With a key of so many bytes, which both ends know since it is always the same.
fn algorithm(name: &str, key: u8) -> Alg {
    let mut alg_name = [0; XFRM_ALG_NAME_LEN];
    alg_name[..name.len()].copy_from_slice(name.as_bytes());
    Alg { alg_name, alg_key_len: u32::from(key) * 8, alg_key: (0..key).collect() }
}
