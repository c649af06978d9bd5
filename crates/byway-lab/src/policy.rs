//! Routing policy rules, written as for ip-rule(8) (RTM_NEWRULE; rtnetlink(7)).

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use crate::{
    Node,
    address::family,
    error::{Doing, Error, Result},
    route::{parse_prefix, parse_table},
};

const EXPECTED: &str = "[-4|-6] from PREFIX|all [fwmark MARK] lookup TABLE [priority NUMBER]";

impl Node {
    /// Adds a routing policy rule, in the words of ip-rule(8): `[-4|-6] from PREFIX|all [fwmark MARK] lookup TABLE
    /// [priority NUMBER]`. The family is that of `-4` or `-6`, else of the prefix, else IPv4.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] where there is such a rule.
    pub fn rule(&self, rule: &str) -> Result<()> {
        let message = parse(rule).ok_or_else(|| Error::invalid(rule, EXPECTED))?;
        self.change(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
            .doing(|| format!("adding rule `{rule}` on {}", self.name()))
    }

    /// Removes the first rule that fits what is given, written as for [`Node::rule`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] where there is no such rule.
    pub fn delete_rule(&self, rule: &str) -> Result<()> {
        let message = parse(rule).ok_or_else(|| Error::invalid(rule, EXPECTED))?;
        self.change(RouteNetlinkMessage::DelRule(message), 0)
            .doing(|| format!("removing rule `{rule}` on {}", self.name()))
    }
}

fn parse(text: &str) -> Option<RuleMessage> {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    let mut words = text.split_whitespace();
    let mut table = None;
    while let Some(word) = words.next() {
        match word {
            "-4" => message.header.family = AddressFamily::Inet,
            "-6" => message.header.family = AddressFamily::Inet6,
            "from" => match words.next()? {
                "all" => {}
                prefix => {
                    let prefix = parse_prefix(prefix)?;
                    message.header.family = family(prefix.addr());
                    message.header.src_len = prefix.prefix_len();
                    message.attributes.push(RuleAttribute::Source(prefix.network()));
                }
            },
            "fwmark" => message.attributes.push(RuleAttribute::FwMark(words.next()?.parse().ok()?)),
            "lookup" | "table" => table = Some(parse_table(words.next()?)?),
            "priority" | "pref" => {
                message.attributes.push(RuleAttribute::Priority(words.next()?.parse().ok()?));
            }
            _ => return None,
        }
    }
    message.attributes.push(RuleAttribute::Table(table?));
    Some(message)
}
