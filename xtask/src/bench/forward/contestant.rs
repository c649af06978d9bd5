//! The means by which a router sends packets by their source, and their number of rules.

use std::{fmt, net::IpAddr};

use anyhow::Result;
use aya::{Ebpf, programs::tc::TcAttachType};
use byway::{Byway, NextHopSpec, RuleSpec};
use byway_lab::Node;

use super::{
    BYWAY_SIZES,
    traffic::{SOURCES, source},
};
use crate::bench::minimal;

/// The routing table that leads to the second link.
const TABLE: u32 = 100;
/// The mark that nftables puts on packets.
const MARK: u32 = 1;

/// The means by which a router sends packets by their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// None: packets follow the default route.
    Plain,
    /// Byway, with this many rules for one address each.
    Byway(u32),
    /// This many `ip rule`s for one address each, and a table.
    IpRule(u32),
    /// A program that looks up one of this many addresses, and redirects: the least that any such program costs.
    Minimal(u32),
    /// An nftables set of this many addresses, a mark, one `ip rule` and a table.
    Nftables(u32),
    /// One of the means to send replies back, for this many flows.
    Replies(Means, u32),
}

/// The means by which a router sends the replies of all sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// None: replies follow the default route.
    Plain,
    /// Byway, with one rule for all sources, to a next hop.
    SourceRule,
    /// Byway, with one rule for all sources and `reply-to`.
    ReplyTo,
    /// nftables marks a flow by the device that its request came in by, and each of its replies likewise; one `ip rule` and a
    /// table.
    Connmark,
}

/// The place where packets should be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// At the far end of the default route's link.
    Default,
    /// At the far end of the second link.
    Second,
}

impl Contestant {
    /// Returns its name among others with as many rules.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Byway(_) => "byway",
            Self::IpRule(_) => "ip rule",
            Self::Minimal(_) => "minimal program",
            Self::Nftables(_) => "nftables set and mark",
            Self::Replies(Means::Plain, _) => "plain routing",
            Self::Replies(Means::SourceRule, _) => "byway, via",
            Self::Replies(Means::ReplyTo, _) => "byway, reply-to",
            Self::Replies(Means::Connmark, _) => "connmark",
        }
    }

    /// Returns how many rules it has, if it has any.
    pub(super) fn rules(self) -> Option<u32> {
        match self {
            Self::Plain | Self::Replies(..) => None,
            Self::Byway(rules) | Self::IpRule(rules) | Self::Minimal(rules) | Self::Nftables(rules) => {
                Some(rules)
            }
        }
    }

    /// Returns from how many sources packets come. Without rules, they are as many as with the most rules.
    pub(super) fn sources(self) -> u32 {
        if let Self::Replies(_, flows) = self {
            return flows;
        }
        self.rules().or(BYWAY_SIZES.last().copied()).unwrap_or(1)
    }

    pub(super) fn way(self) -> Way {
        match self {
            Self::Plain | Self::Replies(Means::Plain, _) => Way::Default,
            Self::Byway(_) | Self::IpRule(_) | Self::Minimal(_) | Self::Nftables(_) | Self::Replies(..) => {
                Way::Second
            }
        }
    }

    /// Whether packets are replies, whose requests come in before by the second link.
    pub(super) fn has_requests(self) -> bool {
        matches!(self, Self::Replies(..))
    }

    /// Makes the router send packets from every source to `gateway` on `device`, which is its second link, instead of by
    /// `default`. Returns what must live as long as this is to last.
    pub(super) fn set_up(
        self,
        router: &Node,
        default: &str,
        gateway: IpAddr,
        device: &str,
    ) -> Result<Option<Ebpf>> {
        let table = || router.route(&format!("default via {gateway} dev {device} table {TABLE}"));
        let sources = (0..self.sources()).map(source);
        match self {
            Self::Plain | Self::Replies(Means::Plain, _) => {}
            Self::Replies(Means::SourceRule, _) => {
                let spec = RuleSpec::new(SOURCES.parse()?, NextHopSpec::via(gateway).dev(device));
                router.run(|| Byway::open()?.add(&spec))?;
            }
            Self::Replies(Means::ReplyTo, _) => {
                let spec = RuleSpec::reply_to(SOURCES.parse()?);
                router.run(|| Byway::open()?.add(&spec))?;
            }
            Self::Replies(Means::Connmark, _) => {
                table()?;
                router.rule(&format!("from all fwmark {MARK} lookup {TABLE} priority 1000"))?;
                router.mark_replies(device, MARK)?;
            }
            Self::Byway(_) => {
                let specs: Vec<RuleSpec> = sources
                    .map(|source| {
                        Ok(RuleSpec::new(source.to_string().parse()?, NextHopSpec::via(gateway).dev(device)))
                    })
                    .collect::<Result<_>>()?;
                router.run(|| Byway::open()?.add_all(&specs))?;
            }
            Self::IpRule(_) => {
                table()?;
                for source in sources {
                    // All have the same priority: the kernel keeps their order, and 32766 would come after the main table.
                    router.rule(&format!("from {source} lookup {TABLE} priority 1000"))?;
                }
            }
            Self::Minimal(rules) => {
                let mut object = minimal::load(rules, &["minimal"])?;
                minimal::know(&mut object, router.ifindex(device)?, gateway, sources.map(IpAddr::from))?;
                let program = minimal::program(&mut object, "minimal")?;
                router.run(|| program.attach(default, TcAttachType::Egress))?;
                return Ok(Some(object));
            }
            Self::Nftables(_) => {
                table()?;
                router.rule(&format!("from all fwmark {MARK} lookup {TABLE} priority 1000"))?;
                router.mark_sources(&sources.collect::<Vec<_>>(), MARK)?;
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => formatter.write_str("plain routing"),
            Self::Byway(rules) => write!(formatter, "byway, rules: {rules}"),
            Self::IpRule(rules) => write!(formatter, "ip rule, rules: {rules}"),
            Self::Minimal(rules) => write!(formatter, "minimal program, sources: {rules}"),
            Self::Nftables(rules) => write!(formatter, "nftables, sources: {rules}"),
            Self::Replies(_, flows) => write!(formatter, "{}, flows: {flows}", self.name()),
        }
    }
}
