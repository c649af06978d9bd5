//! What makes a router send packets by their source, with how many rules.

use std::{fmt, net::IpAddr};

use anyhow::Result;
use aya::{Ebpf, programs::tc::TcAttachType};
use byway::{Byway, NextHopSpec, RuleSpec};
use byway_lab::Node;

use super::{BYWAY_SIZES, traffic::source};
use crate::bench::minimal;

/// The table that leads to the second link.
const TABLE: u32 = 100;
/// What nftables marks packets with.
const MARK: u32 = 1;

/// What makes a router send packets by their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// Nothing does: they follow the default route.
    Plain,
    /// Byway, with so many rules for one address.
    Byway(u32),
    /// So many `ip rule`s for one address, and a table.
    IpRule(u32),
    /// A program that looks one address of so many up, and redirects: what any such program costs, and no more.
    Minimal(u32),
    /// A set of so many addresses in nftables, a mark, one `ip rule` and a table.
    Nftables(u32),
}

/// Where packets are expected to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// At the far end of the default route's link.
    Default,
    /// At the far end of the second link.
    Second,
}

impl Contestant {
    /// What it is called beside others with as many rules.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Byway(_) => "byway",
            Self::IpRule(_) => "ip rule",
            Self::Minimal(_) => "minimal program",
            Self::Nftables(_) => "nftables set and mark",
        }
    }

    /// How many rules it has, where it has some.
    pub(super) fn rules(self) -> Option<u32> {
        match self {
            Self::Plain => None,
            Self::Byway(rules) | Self::IpRule(rules) | Self::Minimal(rules) | Self::Nftables(rules) => {
                Some(rules)
            }
        }
    }

    /// From how many sources packets come. Without rules it is as many as with most.
    pub(super) fn sources(self) -> u32 {
        self.rules().or(BYWAY_SIZES.last().copied()).unwrap_or(1)
    }

    pub(super) fn way(self) -> Way {
        match self {
            Self::Plain => Way::Default,
            Self::Byway(_) | Self::IpRule(_) | Self::Minimal(_) | Self::Nftables(_) => Way::Second,
        }
    }

    /// Makes the router send packets from every source to `gateway` on `device`, which is its second link, and not by
    /// `default`. Returns what does that as long as it lives.
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
            Self::Plain => {}
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
                    // All of one priority: the kernel keeps them in order, and 32766 would be behind the main table.
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
        }
    }
}
