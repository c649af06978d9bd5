//! Checks of a rule or a group by itself, without the kernel.

use std::{borrow::Borrow, collections::BTreeSet, net::IpAddr, time::Duration};

use thiserror::Error;

use super::{
    group::{GROUP_MAX, GROUP_NAME_MAX, GroupSpec},
    health_check::{
        ASKED_MAX, Asked, HealthCheck, HealthCheckSpec, INTERVAL_MAX, INTERVAL_MIN, ROUNDS_MAX, short,
    },
    in_one_sentence,
    prefix::Prefix,
    rule::{RULE_NAME_MAX, RuleSpec, Selector},
    target::{MSS_MAX, MSS_MIN, Member, MemberSpec, Mss, NextHopSpec, OnDown, TargetSpec, WEIGHT_MAX},
};

/// What is wrong with a rule by itself, without the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// An IPv6 source with an IPv4 gateway. The other way round works (RFC 8950).
    #[error(
        "the gateway {gateway} is IPv4, but packets from {source_prefix} are IPv6, which an IPv4 gateway cannot take"
    )]
    FamilyMismatch {
        /// The rule's source.
        source_prefix: Prefix,
        /// The gateway asked for.
        gateway: IpAddr,
    },
    /// Packets from an IPv6 source cannot go by a gateway from DHCP.
    #[error(
        "`via dhcp` is an IPv4 gateway, but packets from {0} are IPv6, which an IPv4 gateway cannot take"
    )]
    DhcpForIpv6(Prefix),
    /// Source and destination have different families.
    #[error("no packet goes from {source_prefix} to {destination}: one is IPv4 and the other IPv6")]
    TwoFamilies {
        /// The rule's source.
        source_prefix: Prefix,
        /// Its destination.
        destination: Prefix,
    },
    /// Byway never redirects packets to this destination.
    #[error("byway never redirects packets to {0}, which is {1}")]
    NeverRedirectedTo(Prefix, &'static str),
    /// `on-down` with a target that has no next hop of its own.
    #[error(
        "`on-down` says what to do while no next hop is in service, but `{0}` has no next hop of its own"
    )]
    OnDown(String, &'static str),
    /// `mss` with a target that has no next hop.
    #[error("`mss` clamps TCP's MSS option on the way to a next hop, but `{0}` has no next hop")]
    MssOfNothing(&'static str),
    /// Devices of `reply-to` without it.
    #[error("the devices of `reply-to` are named, but the rule has no `reply-to`")]
    NoReplyTo,
    /// An MSS that is out of range.
    #[error("an MSS is {MSS_MIN} to {MSS_MAX} bytes, and this one is {0}")]
    Mss(u16),
    /// A backup with a weight.
    #[error("{0} is a backup, so it has no share of the flows that a weight could measure")]
    WeightOfBackup(NextHopSpec),
    /// A group of backups only.
    #[error("all next hops are backups, and of nothing")]
    OnlyBackups,
    /// A weight that is 0, or too large.
    #[error("the weight of {next_hop} is {weight}")]
    Weight {
        /// The next hop.
        next_hop: NextHopSpec,
        /// Its weight.
        weight: u16,
    },
    /// A health check of a next hop that nothing uses.
    #[error("there is a health check of {0}, but no rule and no group names this next hop so")]
    CheckOfNothing(NextHopSpec),
    /// Two health checks of a next hop.
    #[error("{0} has two health checks")]
    CheckedTwice(NextHopSpec),
    /// A health check with no host to ask, or too many.
    #[error("a health check cannot ask {0} hosts")]
    AskedCount(usize),
    /// A health check of a host that cannot answer.
    #[error("a health check cannot ask {0}, which is {1}")]
    CannotBeAsked(IpAddr, &'static str),
    /// A host that is twice in a health check.
    #[error("the health check asks {0} twice")]
    AskedTwice(IpAddr),
    /// A health check by TCP without a port.
    #[error("a health check cannot ask for TCP port 0")]
    NoPort,
    /// A source address of another family than the gateway that it asks.
    #[error("a health check cannot ask the gateway of {next_hop} from {src}: one is IPv4 and the other IPv6")]
    GatewayAskedFromOtherFamily {
        /// The source address.
        src: IpAddr,
        /// The next hop.
        next_hop: NextHopSpec,
    },
    /// A health check that asks the gateway of a next hop without one.
    #[error("a health check cannot ask the gateway of {0}, which has none")]
    NoGatewayToAsk(NextHopSpec),
    /// A source address that no question can have.
    #[error("a health check cannot ask from {0}, which is {1}")]
    NotASource(IpAddr, &'static str),
    /// A source address of another family than a host.
    #[error("the health check asks {host} from {src}: one is IPv4 and the other IPv6")]
    AskedFromOtherFamily {
        /// The source address.
        src: IpAddr,
        /// The host.
        host: IpAddr,
    },
    /// More hosts have to answer than there are, or none.
    #[error("a health check of {hosts} {} cannot have a quorum of {quorum}", if *.hosts == 1 { "host" } else { "hosts" })]
    Quorum {
        /// How many have to answer.
        quorum: u8,
        /// How many there are.
        hosts: usize,
    },
    /// An interval of a health check that is too short or too long, or not of whole milliseconds.
    #[error("a health check cannot ask every {0:?}")]
    Interval(Duration),
    /// A time for an answer that is too short or too long, or not of whole milliseconds.
    #[error("an answer cannot take {}", short(*.timeout))]
    Timeout {
        /// How long an answer may take.
        timeout: Duration,
        /// The longest that it may with this interval.
        longest: Duration,
    },
    /// A health check that no round decides.
    #[error("`fall` and `rise` are rounds")]
    NoRounds,
    /// No next hop at all, or too many.
    #[error("a group cannot have {0} next hops")]
    MemberCount(usize),
    /// A next hop that is twice in a group.
    #[error("the next hop {0} is named twice")]
    Twice(NextHopSpec),
    /// The name is empty, too long, or would not survive a table.
    #[error("`{0}` cannot be a group's name")]
    GroupName(String),
    /// The gateway is not an address that a host can have.
    #[error("{0} cannot be a gateway: it is {1}")]
    NotAGateway(IpAddr, &'static str),
    /// Byway never redirects packets from this source.
    #[error("byway never redirects packets from {0}, which is {1}")]
    NeverRedirected(Prefix, &'static str),
    /// The name is empty, too long, or would not survive a table.
    #[error("`{0}` cannot be a rule's name")]
    Name(String),
}

impl RuleError {
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        let letters = |most| format!("use 1 to {most} letters, digits, `-`, `_`, `.` or `:`");
        let help = match self {
            Self::FamilyMismatch { .. } => "name an IPv6 gateway",
            Self::DhcpForIpv6(_) => "write `via ra`, or name an IPv6 gateway",
            Self::TwoFamilies { .. } => "name two of the same family",
            Self::NeverRedirectedTo(..) => "name a unicast destination",
            Self::OnDown(_, elsewhere) => return Some(format!("leave it out{elsewhere}")),
            Self::MssOfNothing(_) => "leave it out",
            Self::NoReplyTo => "add it, or leave them out",
            Self::Mss(_) => "with `off`, byway leaves the MSS alone",
            Self::WeightOfBackup(_) => "leave the weight out: the first backup in service gets all flows",
            Self::OnlyBackups => "name at least one without `backup`",
            Self::Weight { .. } => return Some(format!("a weight is 1 to {WEIGHT_MAX}")),
            Self::CheckOfNothing(_) => "write `via` and `dev` as the rule or the group does",
            Self::CheckedTwice(_) => "one may ask several hosts",
            Self::AskedCount(_) => return Some(format!("name 1 to {ASKED_MAX}")),
            Self::CannotBeAsked(..) => "name a host behind the next hop",
            Self::AskedTwice(_) => "name it once",
            Self::NoPort => "a port is 1 to 65535",
            Self::GatewayAskedFromOtherFamily { .. } => "leave `src` out",
            Self::NoGatewayToAsk(_) => "name hosts with `ping` or `tcp`",
            Self::NotASource(..) => "name an address of this host",
            Self::AskedFromOtherFamily { .. } => "name hosts of one family, or leave `src` out",
            Self::Quorum { .. } => "a quorum is 1 to the number of hosts",
            Self::Interval(_) => {
                return Some(format!("an interval is {} to {}", short(INTERVAL_MIN), short(INTERVAL_MAX)));
            }
            Self::Timeout { longest, .. } => {
                return Some(format!("with this interval, it is 1ms to {}", short(*longest)));
            }
            Self::NoRounds => "both are 1 to 255",
            Self::MemberCount(_) => return Some(format!("name 1 to {GROUP_MAX}")),
            Self::Twice(_) => "name it once, with a weight for a larger share",
            Self::GroupName(_) => return Some(letters(GROUP_NAME_MAX)),
            Self::NotAGateway(IpAddr::V6(v6), _) if v6.to_ipv4_mapped().is_some() => {
                return v6.to_ipv4_mapped().map(|v4| format!("write {v4}"));
            }
            Self::NotAGateway(..) => "name the address of the next router",
            Self::NeverRedirected(..) => "name the global addresses that the host answers from",
            Self::Name(_) => return Some(letters(RULE_NAME_MAX)),
        };
        Some(help.to_owned())
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

/// Why an address can never be that of another host, in words.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        // RFC 4291, 2.5.5.2
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
        _ => None,
    }
}

/// Why no rule can ever match a prefix, in words.
fn never(prefix: &Prefix) -> Option<&'static str> {
    match prefix.address() {
        address if address.is_unspecified() && prefix.is_host() => Some("the unspecified address"),
        address if address.is_loopback() && prefix.len() >= 8 => Some("loopback"),
        address if address.is_multicast() && prefix.len() >= if address.is_ipv4() { 4 } else { 8 } => {
            Some("multicast")
        }
        IpAddr::V4(v4) if v4.is_link_local() && prefix.len() >= 16 => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() && prefix.len() >= 10 => Some("link-local"),
        IpAddr::V4(v4) if v4.is_broadcast() && prefix.is_host() => Some("the broadcast address"),
        _ => None,
    }
}

/// Refuses a gateway that no host can be.
pub(crate) fn check_gateway(next_hop: &NextHopSpec) -> Result<(), RuleError> {
    let Some(gateway) = next_hop.gateway() else { return Ok(()) };
    unusable(gateway).map_or(Ok(()), |kind| Err(RuleError::NotAGateway(gateway, kind)))
}

fn check_members(members: &[MemberSpec]) -> Result<(), RuleError> {
    if !(1..=GROUP_MAX).contains(&members.len()) {
        return Err(RuleError::MemberCount(members.len()));
    }
    for member in members {
        check_gateway(&member.next_hop)?;
        check_weight(member)?;
    }
    if members.iter().all(|member| member.is_backup) { Err(RuleError::OnlyBackups) } else { Ok(()) }
}

/// Refuses a weight that is 0, or too large, or that of a backup.
pub(crate) fn check_weight(member: &MemberSpec) -> Result<(), RuleError> {
    let MemberSpec { next_hop, weight, is_backup } = member;
    match weight {
        2.. if *is_backup => Err(RuleError::WeightOfBackup(next_hop.clone())),
        1..=WEIGHT_MAX => Ok(()),
        _ => Err(RuleError::Weight { next_hop: next_hop.clone(), weight: *weight }),
    }
}

/// Refuses devices of `reply-to` without it.
pub(crate) fn check_reply_to(reply_to: bool, devices: &BTreeSet<String>) -> Result<(), RuleError> {
    if reply_to || devices.is_empty() { Ok(()) } else { Err(RuleError::NoReplyTo) }
}

/// Refuses a duplicate next hop, which shows only when the devices are known.
pub(crate) fn check_distinct(members: &[Member]) -> Result<(), RuleError> {
    let mut seen = BTreeSet::new();
    members
        .iter()
        .find(|member| !seen.insert(member.next_hop.named()))
        .map_or(Ok(()), |member| Err(RuleError::Twice(NextHopSpec::from(&member.next_hop.named()))))
}

/// Refuses IPv4 gateways for packets from an IPv6 source. A gateway that is to be learned has the unspecified address.
pub(crate) fn check_families(
    source: &Prefix,
    gateways: impl IntoIterator<Item = impl Borrow<IpAddr>>,
) -> Result<(), RuleError> {
    let mut gateways = gateways.into_iter().map(|gateway| *gateway.borrow());
    let wrong = gateways.find(|gateway| gateway.is_ipv4() && source.address().is_ipv6());
    match wrong {
        None => Ok(()),
        Some(gateway) if gateway.is_unspecified() => Err(RuleError::DhcpForIpv6(*source)),
        Some(gateway) => Err(RuleError::FamilyMismatch { source_prefix: *source, gateway }),
    }
}

impl RuleSpec {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        self.selector.check()?;
        check_families(&self.selector.source(), self.target.gateways())?;
        check_reply_to(self.reply_to, &self.reply_to_dev)?;
        check_action(self.reply_to, &self.target, self.on_down, self.mss, self.name.as_deref())
    }
}

impl Selector {
    /// Refuses packets that no rule can match.
    pub(crate) fn check(&self) -> Result<(), RuleError> {
        let source = self.source();
        if let Some(kind) = never(&source) {
            return Err(RuleError::NeverRedirected(source, kind));
        }
        let Some(destination) = self.destination() else { return Ok(()) };
        if destination.address().is_ipv4() != source.address().is_ipv4() {
            return Err(RuleError::TwoFamilies { source_prefix: source, destination });
        }
        never(&destination).map_or(Ok(()), |kind| Err(RuleError::NeverRedirectedTo(destination, kind)))
    }
}

impl TargetSpec {
    /// The gateways that it names itself. One that is to be learned has the unspecified address.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        self.next_hops().filter_map(NextHopSpec::gateway_or_unspecified).collect()
    }
}

/// Refuses an action that is wrong for any packets.
pub(crate) fn check_action(
    reply_to: bool,
    target: &TargetSpec,
    on_down: OnDown,
    mss: Mss,
    name: Option<&str>,
) -> Result<(), RuleError> {
    match target {
        TargetSpec::NextHop(next_hop) => check_gateway(next_hop)?,
        TargetSpec::NextHops(members) => check_members(members)?,
        TargetSpec::Group(_) | TargetSpec::Pass | TargetSpec::Drop => {}
    }
    check_on_down(reply_to, target, on_down)?;
    check_mss(reply_to, target, mss)?;
    name.map_or(Ok(()), check_name)
}

/// Refuses `on-down` with a target that never lacks a next hop of its own.
pub(crate) fn check_on_down(reply_to: bool, target: &TargetSpec, on_down: OnDown) -> Result<(), RuleError> {
    let (verdict, hint) = match target {
        _ if on_down.is_default() => return Ok(()),
        TargetSpec::NextHop(_) | TargetSpec::NextHops(_) => return Ok(()),
        TargetSpec::Group(name) => (format!("group {name}"), ", and set it on the group"),
        TargetSpec::Pass if reply_to => {
            ("reply-to".to_owned(), ", and drop what is no reply with `else drop`")
        }
        TargetSpec::Pass => ("pass".to_owned(), ""),
        TargetSpec::Drop => ("drop".to_owned(), ""),
    };
    Err(RuleError::OnDown(verdict, hint))
}

/// Refuses an MSS that is out of range, and any MSS with a target that has no next hop and sends no replies back.
pub(crate) fn check_mss(reply_to: bool, target: &TargetSpec, mss: Mss) -> Result<(), RuleError> {
    match target {
        _ if mss.is_default() => Ok(()),
        _ if reply_to => mss.check(),
        TargetSpec::Pass => Err(RuleError::MssOfNothing("pass")),
        TargetSpec::Drop => Err(RuleError::MssOfNothing("drop")),
        TargetSpec::NextHop(_) | TargetSpec::NextHops(_) | TargetSpec::Group(_) => mss.check(),
    }
}

impl HealthCheck {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        let Self { asked, quorum, src, interval, timeout, fall, rise, owner: _ } = self;
        let hosts = asked.hosts();
        if !(1..=ASKED_MAX).contains(&asked.count()) {
            return Err(RuleError::AskedCount(asked.count()));
        }
        if matches!(asked, Asked::Tcp(_, 0)) {
            return Err(RuleError::NoPort);
        }
        for (nth, host) in hosts.iter().enumerate() {
            let link_local = match host {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            if let Some(why) = unusable(*host).or(link_local.then_some("a link-local address")) {
                return Err(RuleError::CannotBeAsked(*host, why));
            }
            if hosts[..nth].contains(host) {
                return Err(RuleError::AskedTwice(*host));
            }
        }
        if let Some(src) = src {
            if let Some(why) = unusable(*src) {
                return Err(RuleError::NotASource(*src, why));
            }
            if let Some(other) = hosts.iter().find(|host| host.is_ipv4() != src.is_ipv4()) {
                return Err(RuleError::AskedFromOtherFamily { src: *src, host: *other });
            }
        }
        if !(1..=asked.count()).contains(&usize::from(*quorum)) {
            return Err(RuleError::Quorum { quorum: *quorum, hosts: asked.count() });
        }
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(interval) || interval.subsec_nanos() % 1_000_000 != 0 {
            return Err(RuleError::Interval(*interval));
        }
        let longest = (*interval * ROUNDS_MAX).min(INTERVAL_MAX);
        let shortest = Duration::from_millis(1);
        if !(shortest..=longest).contains(timeout) || timeout.subsec_nanos() % 1_000_000 != 0 {
            return Err(RuleError::Timeout { timeout: *timeout, longest });
        }
        if *fall == 0 || *rise == 0 {
            return Err(RuleError::NoRounds);
        }
        Ok(())
    }
}

impl HealthCheckSpec {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        let Self { next_hop, check } = self;
        check.check()?;
        match (&check.asked, next_hop.gateway_or_unspecified(), check.src) {
            (Asked::Neighbour, None, _) => Err(RuleError::NoGatewayToAsk(next_hop.clone())),
            (Asked::Neighbour, Some(gateway), Some(src)) if gateway.is_ipv4() != src.is_ipv4() => {
                Err(RuleError::GatewayAskedFromOtherFamily { src, next_hop: next_hop.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl Mss {
    /// Refuses a number of bytes that is out of range.
    pub(crate) fn check(self) -> Result<(), RuleError> {
        match self {
            Self::Bytes(bytes) if !(MSS_MIN..=MSS_MAX).contains(&bytes) => Err(RuleError::Mss(bytes)),
            Self::Bytes(_) | Self::Auto | Self::Off => Ok(()),
        }
    }
}

/// Refuses a name that is empty, too long, or would not survive a table.
pub(crate) fn check_name(name: &str) -> Result<(), RuleError> {
    if is_name(name, RULE_NAME_MAX) { Ok(()) } else { Err(RuleError::Name(name.to_owned())) }
}

impl GroupSpec {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        if !is_name(&self.name, GROUP_NAME_MAX) {
            return Err(RuleError::GroupName(self.name.clone()));
        }
        check_members(&self.members)
    }
}

pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::{super::owner::Owner, *};

    fn spec(source: &str, target: TargetSpec) -> RuleSpec {
        RuleSpec {
            reply_to: false,
            reply_to_dev: BTreeSet::new(),
            selector: source.parse().unwrap(),
            target,
            on_down: OnDown::Pass,
            mss: Mss::Auto,
            owner: Owner::CLI,
            name: None,
        }
    }

    fn via(gateway: &str) -> TargetSpec {
        TargetSpec::NextHop(NextHopSpec::Via(gateway.parse().unwrap()))
    }

    fn to(source: &str, destination: &str) -> RuleSpec {
        let selector = Selector::new(source.parse().unwrap(), Some(destination.parse().unwrap()));
        RuleSpec { selector, ..spec(source, TargetSpec::Pass) }
    }

    fn several(gateways: &[(&str, u16)]) -> TargetSpec {
        let member = |(gateway, weight): &(&str, u16)| MemberSpec {
            next_hop: NextHopSpec::Via(gateway.parse().unwrap()),
            weight: *weight,
            is_backup: false,
        };
        TargetSpec::NextHops(gateways.iter().map(member).collect())
    }

    fn backups(members: &[&str]) -> TargetSpec {
        TargetSpec::NextHops(members.iter().map(|member| member.parse().unwrap()).collect())
    }

    #[test]
    fn a_rule_that_can_never_work_is_refused() {
        let cases = [
            (
                spec("2001:db8::7", via("192.0.2.1")),
                "the gateway 192.0.2.1 is IPv4, but packets from 2001:db8::7 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
            ),
            (
                spec("2001:db8::7", several(&[("2001:db8::1", 1), ("192.0.2.1", 1)])),
                "the gateway 192.0.2.1 is IPv4, but packets from 2001:db8::7 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
            ),
            (
                to("192.0.2.7", "2001:db8::/32"),
                "no packet goes from 192.0.2.7 to 2001:db8::/32: one is IPv4 and the other IPv6; name two of the same family",
            ),
            (
                to("192.0.2.7", "224.0.0.0/8"),
                "byway never redirects packets to 224.0.0.0/8, which is multicast; name a unicast destination",
            ),
            (
                spec("192.0.2.7", several(&[("10.0.0.1", 1), ("10.0.0.2", 0)])),
                "the weight of via 10.0.0.2 is 0; a weight is 1 to 256",
            ),
            (
                spec("192.0.2.7", backups(&["nexthop via 10.0.0.1", "nexthop via 10.0.0.2 weight 2 backup"])),
                "via 10.0.0.2 is a backup, so it has no share of the flows that a weight could measure; leave the weight out: the first backup in service gets all flows",
            ),
            (
                spec("192.0.2.7", backups(&["nexthop via 10.0.0.1 backup", "nexthop dev wg0 backup"])),
                "all next hops are backups, and of nothing; name at least one without `backup`",
            ),
            (
                spec("192.0.2.7", several(&[("10.0.0.1", 1); 33])),
                "a group cannot have 33 next hops; name 1 to 32",
            ),
            (
                RuleSpec { on_down: OnDown::Drop, ..spec("192.0.2.7", TargetSpec::Pass) },
                "`on-down` says what to do while no next hop is in service, but `pass` has no next hop of its own; leave it out",
            ),
            (
                RuleSpec { on_down: OnDown::Drop, ..spec("192.0.2.7", TargetSpec::Group("up".into())) },
                "`on-down` says what to do while no next hop is in service, but `group up` has no next hop of its own; leave it out, and set it on the group",
            ),
            (
                spec("192.0.2.7", via("224.0.0.1")),
                "224.0.0.1 cannot be a gateway: it is a multicast address; name the address of the next router",
            ),
            (
                spec("192.0.2.7", via("127.0.0.1")),
                "127.0.0.1 cannot be a gateway: it is a loopback address; name the address of the next router",
            ),
            (
                spec("192.0.2.7", via("::ffff:10.0.0.1")),
                "::ffff:10.0.0.1 cannot be a gateway: it is an IPv4 address in IPv6 form; write 10.0.0.1",
            ),
            (
                spec("fe80::1", via("2001:db8::1")),
                "byway never redirects packets from fe80::1, which is link-local; name the global addresses that the host answers from",
            ),
        ];
        for (spec, sentence) in cases {
            assert_eq!(spec.check().unwrap_err().sentence(), sentence);
        }
        for source in ["0.0.0.0", "127.0.0.0/8", "127.0.0.1", "::", "::1", "224.0.0.0/4", "ff02::/16"] {
            let gateway = if source.contains(':') { "2001:db8::1" } else { "10.0.0.1" };
            let refused = spec(source, via(gateway)).check();
            assert!(matches!(refused, Err(RuleError::NeverRedirected(..))), "{source}");
        }
        for source in ["0.0.0.0/0", "0.0.0.0/1", "126.0.0.0/7", "224.0.0.0/3"] {
            assert!(spec(source, via("10.0.0.1")).check().is_ok(), "{source}");
        }
        assert!(spec("192.0.2.7", via("2001:db8::1")).check().is_ok(), "RFC 8950");
        let named = |name: &str| RuleSpec { name: Some(name.into()), ..spec("192.0.2.7", via("10.0.0.1")) };
        assert!(named("web-1").check().is_ok());
        for name in ["", "two words", &"x".repeat(33), "tab\t"] {
            assert!(matches!(named(name).check(), Err(RuleError::Name(_))));
        }
    }
}
