//! Routing policy rules, written as for ip-rule(8) (RTM_NEWRULE; rtnetlink(7)).

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange},
    },
};

use crate::{
    Node,
    address::family,
    error::{Doing, Error, Result},
    route::{parse_prefix, parse_table},
};

const EXPECTED: &str = "[-4|-6] [not] [from PREFIX|all] [to PREFIX] [fwmark MARK[/MASK]] [iif DEVICE] [oif DEVICE] \
                        [tos NUMBER] [ipproto NUMBER] [dport PORT] [uidrange LOW-HIGH] lookup TABLE \
                        [suppress_prefixlength LENGTH]|l3mdev|goto NUMBER|nop|blackhole|unreachable|prohibit \
                        [priority NUMBER]";

impl Node {
    /// Adds a routing policy rule, in the words of ip-rule(8):
    ///
    /// ```text
    /// [-4|-6] [not] [from PREFIX|all] [to PREFIX] [fwmark MARK[/MASK]] [iif DEVICE] [oif DEVICE] [tos NUMBER]
    ///         [ipproto NUMBER] [dport PORT] [uidrange LOW-HIGH]
    ///         lookup TABLE [suppress_prefixlength LENGTH]|l3mdev|goto NUMBER|nop|blackhole|unreachable|prohibit
    ///         [priority NUMBER]
    /// ```
    ///
    /// The family is that of `-4` or `-6`, else of the prefixes, else IPv4.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if there is such a rule.
    pub fn rule(&self, rule: &str) -> Result<()> {
        let message = parse(rule).ok_or_else(|| Error::invalid(rule, EXPECTED))?;
        self.change(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
            .doing(|| format!("adding rule `{rule}` on {}", self.name()))
    }

    /// Removes the first rule that fits what is given, written as for [`Node::rule`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if there is no such rule.
    pub fn delete_rule(&self, rule: &str) -> Result<()> {
        let message = parse(rule).ok_or_else(|| Error::invalid(rule, EXPECTED))?;
        self.change(RouteNetlinkMessage::DelRule(message), 0)
            .doing(|| format!("removing rule `{rule}` on {}", self.name()))
    }
}

fn parse(text: &str) -> Option<RuleMessage> {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "-4" => message.header.family = AddressFamily::Inet,
            "-6" => message.header.family = AddressFamily::Inet6,
            "not" => message.header.flags |= RuleFlags::Invert,
            "l3mdev" => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::L3MDev(true));
            }
            "nop" => message.header.action = RuleAction::Nop,
            "blackhole" => message.header.action = RuleAction::Blackhole,
            "unreachable" => message.header.action = RuleAction::Unreachable,
            "prohibit" => message.header.action = RuleAction::Prohibit,
            word => pair(word, words.next()?, &mut message)?,
        }
    }
    (message.header.action != RuleAction::Unspec).then_some(message)
}

/// A word and what belongs to it.
fn pair(word: &str, value: &str, message: &mut RuleMessage) -> Option<()> {
    let attribute = match word {
        "from" | "to" if value == "all" => return Some(()),
        "from" | "to" => {
            let prefix = parse_prefix(value)?;
            message.header.family = family(prefix.addr());
            if word == "from" {
                message.header.src_len = prefix.prefix_len();
                RuleAttribute::Source(prefix.network())
            } else {
                message.header.dst_len = prefix.prefix_len();
                RuleAttribute::Destination(prefix.network())
            }
        }
        "fwmark" => {
            let (mark, mask) = value.split_once('/').map_or((value, None), |(mark, mask)| (mark, Some(mask)));
            if let Some(mask) = mask {
                message.attributes.push(RuleAttribute::FwMask(mask.parse().ok()?));
            }
            RuleAttribute::FwMark(mark.parse().ok()?)
        }
        "tos" => {
            message.header.tos = value.parse().ok()?;
            return Some(());
        }
        "iif" => RuleAttribute::Iifname(value.to_owned()),
        "oif" => RuleAttribute::Oifname(value.to_owned()),
        "ipproto" => RuleAttribute::IpProtocol(value.parse::<u8>().ok()?.into()),
        "dport" => {
            let port = value.parse().ok()?;
            RuleAttribute::DestinationPortRange(RulePortRange { start: port, end: port })
        }
        "uidrange" => {
            let (low, high) = value.split_once('-')?;
            RuleAttribute::UidRange(RuleUidRange { start: low.parse().ok()?, end: high.parse().ok()? })
        }
        "lookup" | "table" => {
            message.header.action = RuleAction::ToTable;
            RuleAttribute::Table(parse_table(value)?)
        }
        "suppress_prefixlength" => RuleAttribute::SuppressPrefixLen(value.parse().ok()?),
        "goto" => {
            message.header.action = RuleAction::Goto;
            RuleAttribute::Goto(value.parse().ok()?)
        }
        "priority" | "pref" => RuleAttribute::Priority(value.parse().ok()?),
        _ => return None,
    };
    message.attributes.push(attribute);
    Some(())
}
