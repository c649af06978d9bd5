//! Why words are not a rule, group or next hop, and what to write instead.

use std::net::IpAddr;

use thiserror::Error;

use crate::model::{
    Family, FlowError, Learned, MSS_MAX, MSS_MIN, OwnerError, Prefix, PrefixError, Selectable, Selector,
    WEIGHT_MAX, in_one_sentence, zoned,
};

/// Why words are not a rule, group or next hop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// An unexpected word, and what was expected.
    #[error("`{0}` does not belong here")]
    Unknown(String, String),
    /// A word of ip-rule(8), ip-route(8) or tc(8) that Byway does not have, and what it has instead.
    #[error("byway has no `{0}`")]
    NotHere(&'static str, &'static str),
    /// A keyword without its value, and what value it needs.
    #[error("`{0}` needs {1} after it")]
    NoValue(&'static str, &'static str),
    /// `reply-to` and a target, without the word between them.
    #[error(
        "`reply-to` stands alone or with `dev IF`, and says after `else` what becomes of packets that are no replies"
    )]
    NoElse,
    /// A keyword that may appear only once.
    #[error("`{0}` is there twice")]
    Twice(&'static str),
    /// A rule without `from`.
    #[error("a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`")]
    NoSource,
    /// A source of `all` addresses, where nothing says which family is meant.
    #[error("`{0}` is {ipv4} or {ipv6}, and a rule has one source", ipv4 = Prefix::all(Family::V4), ipv6 = Prefix::all(Family::V6))]
    NoFamily(String),
    /// A prefix of another family than the one that was asked for.
    #[error("{0} is {family}, and {1} was asked for", family = .0.family())]
    OtherFamily(Prefix, Family),
    /// A rule without a target.
    #[error(
        "the rule {0} needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `reply-to`, `pass` or `drop`"
    )]
    NoTarget(Selector),
    /// Nothing where a target was expected.
    #[error(
        "a target is `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `pass` or `drop`"
    )]
    NoTargetAlone,
    /// Keywords of two targets.
    #[error("a rule has one target: `{0}` cannot be combined with `{1}`")]
    TwoTargets(&'static str, &'static str),
    /// A gateway that is not an address.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Gateway(String),
    /// A gateway that the host learns, without the device.
    #[error("`via {0}` means the gateway that the host learns on a device, and none is named")]
    NoDevice(Learned),
    /// A weight that is not a number.
    #[error("`{0}` is not a weight")]
    Weight(String),
    /// Something other than an [`OnDown`](crate::OnDown).
    #[error("`on-down` cannot be `{0}`")]
    OnDown(String),
    /// Something other than an [`Mss`](crate::Mss).
    #[error("`mss` cannot be `{0}`")]
    Mss(String),
    /// Neither a gateway nor a device.
    #[error("a next hop needs `via ADDR`, `via ADDR dev IF` or `dev IF`")]
    NoNextHop,
    /// A group without next hops.
    #[error("the group {0} needs next hops, like `nexthop via 192.0.2.1 dev eth1 weight 2`")]
    NoMembers(String),
    /// A group without a name.
    #[error("a group needs a name, like `uplinks nexthop ...`")]
    NoGroup,
    /// A keyword of a selection, what it is for, and what was to be chosen from.
    #[error("`{0}` is for {of}, not for {2}", of = one_of(.1))]
    NotOf(&'static str, &'static [Selectable], Selectable),
    /// Something other than `loss` after `with`.
    #[error("`with {0}` is not valid")]
    With(String),
    /// Something other than [`SortBy`](crate::SortBy) after `sort by`.
    #[error("`sort by {0}` is not valid")]
    Sort(String),
    /// Something other than a number from 1 after `head`.
    #[error("`head {0}` is not valid")]
    Head(String),
    /// Something other than an [`Owner`](crate::Owner) after `owner`.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A source or a destination that is not a prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Words that are not a flow.
    #[error(transparent)]
    Flow(#[from] FlowError),
}

impl GrammarError {
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Unknown(_, expected) => return Some(format!("expected {expected}")),
            Self::NotHere(_, instead) => instead,
            Self::Twice(_) => "use it once",
            Self::NoFamily(_) => "write one of them; two rules cover both",
            Self::OtherFamily(..) => "name one of that family",
            Self::NoTargetAlone => "name one",
            Self::NoDevice(_) => "name it with `dev`",
            Self::Gateway(text) => return Some(gateway_help(text)),
            Self::Weight(_) => return Some(format!("write a number from 1 to {WEIGHT_MAX}")),
            Self::OnDown(_) => "write `pass` or `drop`",
            Self::Mss(_) => {
                return Some(format!("write `auto`, `off` or a number of bytes from {MSS_MIN} to {MSS_MAX}"));
            }
            Self::NotOf(..) => "leave it out",
            Self::With(_) => "write `with loss`",
            Self::Sort(_) => "write `sort by` and `packets`, `bytes`, `loss` or `rate`",
            Self::Head(_) => "write `head N` with a number from 1",
            Self::Owner(error) => return error.help(),
            Self::Prefix(error) => return error.help(),
            Self::Flow(error) => return error.help(),
            // These say what is missing, which is what to write.
            Self::NoValue(..)
            | Self::NoElse
            | Self::NoSource
            | Self::NoTarget(_)
            | Self::TwoTargets(..)
            | Self::NoNextHop
            | Self::NoMembers(_)
            | Self::NoGroup => return None,
        };
        Some(help.to_owned())
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }

    /// A word that does not belong here, and what does. If it is one of iproute2's, the error says what Byway has instead.
    pub(super) fn unexpected(word: &str, expected: impl Into<String>) -> Self {
        let not_here = ELSEWHERE.iter().find_map(|(words, instead)| {
            words.iter().find(|it| **it == word).map(|word| Self::NotHere(word, instead))
        });
        not_here.unwrap_or_else(|| Self::Unknown(word.to_owned(), expected.into()))
    }
}

/// The words of ip-rule(8), ip-route(8) and tc(8) that Byway does not have, and what it has instead.
pub(super) const ELSEWHERE: [(&[&str], &str); 17] = [
    (&["table", "lookup"], "name the next hop itself, `via ADDR dev IF`, or share it with `group NAME`"),
    (
        &["prio", "priority", "preference", "pref", "order", "metric"],
        "leave it out: the longest prefix wins, and order never matters",
    ),
    (
        &["fwmark", "mark"],
        "a rule matches the source and, with `to`, the destination; keep `ip rule` for marks",
    ),
    (
        &["ipproto", "sport", "dport", "tos", "dsfield", "uidrange"],
        "a rule matches the source and, with `to`, the destination; keep `ip rule` for this",
    ),
    (&["iif"], "a rule matches the source, whichever interface the packet came in by"),
    (&["oif"], "attachments say which egress follows the rules, and `dev IF` where packets go"),
    (&["blackhole"], "write `drop`"),
    (&["unreachable", "prohibit"], "write `drop`, which sends no ICMP error"),
    (&["throw"], "write `pass`: the packet follows normal routing"),
    (&["goto", "nop"], "the longest prefix wins; write `pass` for an exception"),
    (
        &["src"],
        "packets keep their source address; `from PREFIX` matches it, and netfilter's SNAT changes it",
    ),
    (&["onlink"], "leave it out, and add a route to the gateway: `ip route add ADDR dev IF scope link`"),
    (&["proto", "protocol"], "leave it out; a rule has an owner, and `name NAME` names it"),
    (&["nat", "masquerade"], "packets keep their addresses; netfilter (nft, iptables) translates them"),
    (
        &["scope", "type", "unicast", "realms", "encap", "nhid"],
        "leave it out; a next hop is `via ADDR dev IF`",
    ),
    (&["mtu", "advmss"], "it follows the MTU of the next hop's device; `mss N` clamps TCP"),
    (
        &["suppress_prefixlength", "suppress_ifgroup", "not", "l3mdev"],
        "write rules for the prefixes themselves; `pass` makes an exception",
    ),
];

fn gateway_help(text: &str) -> String {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    if let Some((gateway, device)) = zoned(text) {
        return format!("write `via {gateway} dev {device}`");
    }
    if let Some((gateway, _)) = text.split_once('/').filter(|(gateway, _)| address(gateway).is_some()) {
        return format!("a gateway is one address: `via {gateway}`");
    }
    "a gateway is written like `via 192.0.2.1`".to_owned()
}

/// `rules or groups`
fn one_of(all: &[Selectable]) -> String {
    all.iter().map(Selectable::to_string).collect::<Vec<_>>().join(" or ")
}
