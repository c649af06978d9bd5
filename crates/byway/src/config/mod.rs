//! Configurations: one file describes how a host should redirect packets. Pure: texts come in, and texts go out.
//!
//! docs/configuration.md is the reference of the file's keys. The words are those of the command line.

mod draft;
pub(crate) mod file_error;
pub(crate) mod files;
mod parse;
mod problem;
mod read;
mod trust;
mod values;
mod warnings;
pub(crate) mod write;

pub(crate) use draft::HostRef;
pub use problem::{File, PROBLEMS_MAX, Place, Problem, Severity};
pub use read::{Reading, read};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::model::{
    GroupSpec, HealthCheckSpec, Mss, NextHopSpec, OnDown, Owner, Rule, RuleError, RuleSpec, Selector,
    TargetSpec, check_action, check_families, check_reply_to,
};

/// How a host should redirect packets.
///
/// Its text form, as [`Display`](std::fmt::Display) writes it, is a configuration file that means the same.
///
/// ```
/// use byway::{Attach, config::{Config, read}};
///
/// let rules = ["from 192.0.2.7 via 10.0.0.1 dev eth1".parse()?, "from 192.0.2.8 drop".parse()?];
/// let config = Config::new(Some(Attach::devices(["eth0"])), vec![], rules);
/// config.check()?;
/// assert_eq!(config.rule_count(), 2);
/// // Write it to a file, and read it back.
/// let reading = read([("byway.toml".into(), config.to_string())], &mut |_| unreachable!());
/// assert_eq!(reading.config, Some(config));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The attachments, if the configuration sets them.
    pub attach: Option<Attach>,
    /// The groups, by name.
    pub groups: Vec<GroupSpec>,
    /// The health checks, by next hop. [`Byway::apply`](crate::Byway::apply) names their owner.
    pub health_checks: Vec<HealthCheckSpec>,
    /// What the rules do with their packets.
    pub(crate) actions: Vec<ActionSpec>,
    /// Which packets the rules match, in order and each once, and the number of their action.
    pub(crate) rules: Vec<(Selector, u32)>,
    /// Further rules that no file can say. A comment names them.
    pub(crate) left_out: Vec<Rule>,
}

/// Interfaces to attach to. A configuration means these, and no others.
///
/// ```
/// use byway::{Attach, config::read};
///
/// let text = "attach = [\"eth0\", \"eth1\"]\n";
/// let reading = read([("byway.toml".into(), text.into())], &mut |_| unreachable!());
/// let config = reading.config.ok_or("something is wrong")?;
/// assert_eq!(config.attach, Some(Attach::devices(["eth0", "eth1"])));
/// # Ok::<(), &str>(())
/// ```
///
/// In JSON as in a configuration: `"auto"`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Attach {
    /// The interfaces that carry a default route.
    Auto,
    /// The interfaces with these names.
    #[serde(untagged)]
    Devices(Vec<String>),
}

impl Attach {
    /// Makes a list of the interfaces with these names.
    pub fn devices<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Devices(names.into_iter().map(Into::into).collect())
    }
}

/// What a rule does with its packets: everything but its selector. Many rules share one action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ActionSpec {
    /// Whether replies go back the way that their requests came in.
    pub(crate) reply_to: bool,
    /// The names of the devices that the requests have to come in by.
    pub(crate) reply_to_dev: BTreeSet<String>,
    /// Where the packets go, or with `reply_to` those that are no replies.
    pub(crate) target: TargetSpec,
    /// What becomes of them while no next hop is in service.
    pub(crate) on_down: OnDown,
    /// What becomes of TCP's MSS option.
    pub(crate) mss: Mss,
    /// What people call it.
    pub(crate) name: Option<String>,
}

impl ActionSpec {
    /// Whether it leaves all packets to normal routing.
    pub(crate) fn passes(&self) -> bool {
        !self.reply_to && self.target == TargetSpec::Pass
    }
}

impl Config {
    /// Makes a configuration. If two rules are for the same packets, the last one counts. A configuration has no owner: this
    /// ignores those of the rules and groups, and [`Byway::apply`](crate::Byway::apply) names one for all.
    pub fn new(
        attach: Option<Attach>,
        groups: Vec<GroupSpec>,
        specs: impl IntoIterator<Item = RuleSpec>,
    ) -> Self {
        let mut config = Self { attach, groups, ..Self::default() };
        config.groups.sort_by(|one, other| one.name.cmp(&other.name));
        let mut places: HashMap<ActionSpec, u32> = HashMap::new();
        let mut rules = BTreeMap::new();
        for RuleSpec { selector, reply_to, reply_to_dev, target, on_down, mss, owner: _, name } in specs {
            let action = ActionSpec { reply_to, reply_to_dev, target, on_down, mss, name };
            let place = *places.entry(action).or_insert_with_key(|action| {
                config.actions.push(action.clone());
                config.actions.len() as u32 - 1
            });
            rules.insert(selector, place);
        }
        config.rules = rules.into_iter().collect();
        config
    }

    /// Checks what can be checked without the kernel.
    ///
    /// ```
    /// use byway::config::Config;
    ///
    /// let config = Config::new(None, vec![], ["from 2001:db8::7 via 192.0.2.1".parse()?]);
    /// assert_eq!(config.check().unwrap_err().help().as_deref(), Some("name an IPv6 gateway"));
    /// # Ok::<(), byway::grammar::GrammarError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        self.groups.iter().try_for_each(GroupSpec::check)?;
        self.health_checks.iter().try_for_each(|spec| self.check_health_check(spec))?;
        for ActionSpec { reply_to, reply_to_dev, target, on_down, mss, name } in &self.actions {
            check_reply_to(*reply_to, reply_to_dev)?;
            check_action(*reply_to, target, *on_down, *mss, name.as_deref())?;
        }
        // Many rules have few gateways.
        let gateways: Vec<Vec<IpAddr>> = self.actions.iter().map(|action| action.target.gateways()).collect();
        for (selector, action) in &self.rules {
            selector.check()?;
            check_families(&selector.source(), &gateways[*action as usize])?;
        }
        Ok(())
    }

    fn check_health_check(&self, spec: &HealthCheckSpec) -> Result<(), RuleError> {
        spec.check()?;
        let next_hop = &spec.next_hop;
        if self.health_checks.iter().filter(|other| other.next_hop == *next_hop).count() > 1 {
            return Err(RuleError::CheckedTwice(next_hop.clone()));
        }
        match self.next_hops().any(|used| used == next_hop) {
            true => Ok(()),
            false => Err(RuleError::CheckOfNothing(next_hop.clone())),
        }
    }

    /// The next hops of all groups and rules.
    pub(crate) fn next_hops(&self) -> impl Iterator<Item = &NextHopSpec> {
        let of_groups = self.groups.iter().flat_map(|group| &group.members).map(|member| &member.next_hop);
        of_groups.chain(self.actions.iter().flat_map(|action| action.target.next_hops()))
    }

    /// The packets that are not left to normal routing, and what becomes of them.
    pub(crate) fn redirected(&self) -> impl Iterator<Item = (Selector, &ActionSpec)> {
        let rules = self.rules.iter().map(|(selector, action)| (*selector, &self.actions[*action as usize]));
        rules.filter(|(_, action)| !action.passes())
    }

    /// Returns how many rules there are.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Returns the rules, by source and destination. Their owner is [`Owner::CONFIG`].
    pub fn rules(&self) -> impl Iterator<Item = RuleSpec> {
        self.rules.iter().map(|(selector, action)| {
            let ActionSpec { reply_to, reply_to_dev, target, on_down, mss, name } =
                self.actions[*action as usize].clone();
            RuleSpec {
                selector: *selector,
                reply_to,
                reply_to_dev,
                target,
                on_down,
                mss,
                owner: Owner::CONFIG,
                name,
            }
        })
    }
}
