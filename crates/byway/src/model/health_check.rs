//! Health checks: questions to a gateway, or to hosts behind it, which show whether packets get through there.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{owner::Owner, target::NextHopSpec};

/// How many hosts a health check may ask.
pub const ASKED_MAX: usize = byway_abi::MAX_ASKED;

/// The shortest interval of a health check.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The longest interval of a health check, and the longest time for an answer.
pub const INTERVAL_MAX: Duration = Duration::from_secs(3_600);

/// How many rounds may be under way at once: an answer may take so many intervals.
pub(crate) const ROUNDS_MAX: u32 = 10;

/// What a health check asks, and whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Asked {
    /// These hosts, [`ASKED_MAX`] at the most: each gets an ICMP echo request (RFC 792, RFC 4443).
    Ping(Vec<IpAddr>),
    /// These hosts, [`ASKED_MAX`] at the most: each is asked for a connection to this TCP port (RFC 9293). Once it accepts one,
    /// that is reset. So the service behind the port never sees it.
    Tcp(Vec<IpAddr>, u16),
    /// The gateway itself, by ARP (RFC 826) or neighbour discovery (RFC 4861). It answers that whatever its firewall is like.
    Neighbour,
}

impl Asked {
    /// Returns the hosts that are named, none for the gateway.
    #[must_use]
    pub fn hosts(&self) -> &[IpAddr] {
        match self {
            Self::Ping(hosts) | Self::Tcp(hosts, _) => hosts,
            Self::Neighbour => &[],
        }
    }

    /// Returns how many are asked.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Ping(hosts) | Self::Tcp(hosts, _) => hosts.len(),
            Self::Neighbour => 1,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping(_) => "ping",
            Self::Tcp(..) => "tcp",
            Self::Neighbour => "neighbour",
        })?;
        self.hosts().iter().try_for_each(|host| write!(f, " {host}"))?;
        match self {
            Self::Tcp(_, port) => write!(f, " port {port}"),
            Self::Ping(_) | Self::Neighbour => Ok(()),
        }
    }
}

/// The keys of the configuration.
impl Serialize for Asked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Ping(hosts) => map.serialize_entry("ping", hosts)?,
            Self::Tcp(hosts, port) => {
                map.serialize_entry("tcp", hosts)?;
                map.serialize_entry("port", port)?;
            }
            Self::Neighbour => map.serialize_entry("neighbour", &true)?,
        }
        map.end()
    }
}

/// Asks a gateway or hosts behind it, round after round, whether packets get through: each gets a question by this next hop,
/// whatever the routing tables say.
///
/// The agent asks ([`Checker`](crate::Checker)). While it finds that too few hosts answer, no packet goes to the next hop.
///
/// ```
/// use byway::HealthCheck;
///
/// let check = HealthCheck::ping(["198.51.100.1".parse()?, "198.51.100.2".parse()?]);
/// assert_eq!(check.to_string(), "ping 198.51.100.1 198.51.100.2 interval 1s fall 3 rise 3");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What it asks, and whom. In JSON the keys `ping`, `tcp` and `port`, or `neighbour`.
    #[serde(flatten)]
    pub asked: Asked,
    /// How many of them have to answer, or else the round has failed.
    pub quorum: u8,
    /// The source address of the questions. Without one it is an address of the next hop's device.
    pub src: Option<IpAddr>,
    /// The time from one round to the next, from [`INTERVAL_MIN`] to [`INTERVAL_MAX`]. In JSON `interval_ms`, in milliseconds.
    #[serde(rename = "interval_ms", serialize_with = "milliseconds")]
    pub interval: Duration,
    /// How long an answer may take. In JSON `timeout_ms`, in milliseconds.
    #[serde(rename = "timeout_ms", serialize_with = "milliseconds")]
    pub timeout: Duration,
    /// After how many failed rounds in a row the next hop is out of service.
    pub fall: u8,
    /// After how many good rounds in a row it is back.
    pub rise: u8,
    /// Who asks for it.
    pub owner: Owner,
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    (time.as_millis() as u64).serialize(serializer)
}

impl HealthCheck {
    /// Makes a check that pings these hosts ([`Asked::Ping`]), with what [`HealthCheck::new`] says.
    pub fn ping(hosts: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::new(Asked::Ping(hosts.into_iter().collect()))
    }

    /// Makes a check of [`Owner::API`] that asks every second. One answer is enough, three rounds take the next hop out of
    /// service, and three put it back.
    pub fn new(asked: Asked) -> Self {
        let second = Duration::from_secs(1);
        Self {
            asked,
            quorum: 1,
            src: None,
            interval: second,
            timeout: second,
            fall: 3,
            rise: 3,
            owner: Owner::default(),
        }
    }

    /// Sets the time from one round to the next, and the same time for an answer.
    #[must_use]
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval, timeout: interval, ..self }
    }

    /// Sets how long an answer may take.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets how many hosts have to answer.
    #[must_use]
    pub fn quorum(self, quorum: u8) -> Self {
        Self { quorum, ..self }
    }

    /// Sets the source address of the questions.
    #[must_use]
    pub fn src(self, src: IpAddr) -> Self {
        Self { src: Some(src), ..self }
    }

    /// Sets after how many failed rounds in a row the next hop is out of service, and after how many good ones it is back.
    #[must_use]
    pub fn rounds(self, fall: u8, rise: u8) -> Self {
        Self { fall, rise, ..self }
    }
}

/// Without the owner, which no words say.
impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, quorum, src, interval, timeout, fall, rise, owner: _ } = self;
        write!(f, "{asked}")?;
        if *quorum != 1 {
            write!(f, " quorum {quorum}")?;
        }
        if let Some(src) = src {
            write!(f, " src {src}")?;
        }
        write!(f, " interval {}", short(*interval))?;
        if timeout != interval {
            write!(f, " timeout {}", short(*timeout))?;
        }
        write!(f, " fall {fall} rise {rise}")
    }
}

/// A time as people write it: `100ms`, `2s`.
pub(crate) fn short(time: Duration) -> String {
    match time.as_millis() {
        whole if whole % 1_000 == 0 => format!("{}s", whole / 1_000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

/// The health check of a next hop as it is asked for. In JSON its next hop is beside the fields of the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthCheckSpec {
    /// The next hop, as the rules and groups name it that use it.
    #[serde(flatten)]
    pub next_hop: NextHopSpec,
    /// Its check.
    #[serde(flatten)]
    pub check: HealthCheck,
}

impl HealthCheckSpec {
    /// Asks for a check of a next hop.
    pub fn new(next_hop: NextHopSpec, check: HealthCheck) -> Self {
        Self { next_hop, check }
    }
}

impl fmt::Display for HealthCheckSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.next_hop, self.check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &[&str]) -> HealthCheck {
        HealthCheck::ping(hosts.iter().map(|host| host.parse().unwrap()))
    }

    fn wrong(check: HealthCheck) -> String {
        check.check().unwrap_err().sentence()
    }

    #[test]
    fn what_cannot_be_asked_is_refused_in_a_sentence() {
        let one = || check(&["198.51.100.1"]);
        let of = Duration::from_millis;
        assert_eq!(check(&["198.51.100.1", "2001:db8::1"]).check(), Ok(()));
        let src: IpAddr = "192.0.2.1".parse().unwrap();
        let cases = [
            (check(&[]), "a health check cannot ask 0 hosts; name 1 to 4"),
            (
                check(&["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5"]),
                "a health check cannot ask 5 hosts; name 1 to 4",
            ),
            (
                check(&["224.0.0.1"]),
                "a health check cannot ask 224.0.0.1, which is a multicast address; name a host behind the next hop",
            ),
            (
                check(&["fe80::1"]),
                "a health check cannot ask fe80::1, which is a link-local address; name a host behind the next hop",
            ),
            (
                check(&["198.51.100.1", "198.51.100.1"]),
                "the health check asks 198.51.100.1 twice; name it once",
            ),
            (
                HealthCheck { src: Some(src), ..check(&["198.51.100.1", "2001:db8::1"]) },
                "the health check asks 2001:db8::1 from 192.0.2.1: one is IPv4 and the other IPv6; name hosts of one family, or \
                 leave `src` out",
            ),
            (
                HealthCheck { src: Some("127.0.0.1".parse().unwrap()), ..one() },
                "a health check cannot ask from 127.0.0.1, which is a loopback address; name an address of this host",
            ),
            (
                HealthCheck { quorum: 2, ..one() },
                "a health check of 1 host cannot have a quorum of 2; a quorum is 1 to the number of hosts",
            ),
            (one().interval(of(9)), "a health check cannot ask every 9ms; an interval is 10ms to 3600s"),
            (
                one().interval(Duration::from_micros(10_500)),
                "a health check cannot ask every 10.5ms; an interval is 10ms to 3600s",
            ),
            (
                HealthCheck { timeout: of(1_001), ..one().interval(of(100)) },
                "an answer cannot take 1001ms; with this interval, it is 1ms to 1s",
            ),
            (
                HealthCheck { timeout: Duration::ZERO, ..one() },
                "an answer cannot take 0s; with this interval, it is 1ms to 10s",
            ),
            (HealthCheck { fall: 0, ..one() }, "`fall` and `rise` are rounds; both are 1 to 255"),
        ];
        for (check, sentence) in cases {
            assert_eq!(wrong(check), sentence);
        }
    }
}
