//! The words for a flow, as `ip route get` has them (ip-route(8)), but with the source first.

use std::{net::IpAddr, str::FromStr};

use super::{GrammarError, Keyword, Pairs, pairs, refs, split};
use crate::model::{FlowError, FlowSpec, Protocol};

const FROM: Keyword = ("from", Some("a source address"));
const TO: Keyword = ("to", Some("a destination address"));
const PROTO: Keyword = ("proto", Some("a protocol, like `tcp`"));
const SPORT: Keyword = ("sport", Some("a source port"));
const DPORT: Keyword = ("dport", Some("a destination port"));
const IIF: Keyword = ("iif", Some("the name of the device that the packets come in by"));
const KEYWORDS: [Keyword; 6] = [FROM, TO, PROTO, SPORT, DPORT, IIF];

/// Reads a flow: `[from] ADDR [to ADDR] [proto P] [sport N] [dport N] [iif IF]`
///
/// ```
/// use byway::{Protocol, grammar};
///
/// let flow = grammar::flow(&["192.168.1.5", "to", "198.51.100.9", "proto", "tcp", "dport", "443"])?;
/// assert_eq!((flow.protocol, flow.destination_port), (Some(Protocol::TCP), Some(443)));
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn flow(words: &[impl AsRef<str>]) -> Result<FlowSpec, GrammarError> {
    let words = refs(words);
    let (source, rest) = match words[..] {
        [word, ref rest @ ..] if KEYWORDS.iter().all(|(keyword, _)| *keyword != word) => (Some(word), rest),
        ref all => (None, all),
    };
    let keywords = if source.is_some() { &KEYWORDS[1..] } else { &KEYWORDS[..] };
    let Pairs { mut values, .. } = pairs(&mut rest.iter().peekable(), keywords, false)?;
    let source = source.or_else(|| values.remove("from")).ok_or(FlowError::NoSource)?;
    let mut flow = FlowSpec::new(address(source)?);
    flow.destination = values.remove("to").map(address).transpose()?;
    flow.protocol = values.remove("proto").map(|text| protocol(text, flow.source)).transpose()?;
    flow.source_port = values.remove("sport").map(port).transpose()?;
    flow.destination_port = values.remove("dport").map(port).transpose()?;
    flow.incoming = values.remove("iif").map(str::to_owned);
    let has_ports = flow.source_port.or(flow.destination_port).is_some();
    match flow.protocol.filter(|protocol| has_ports && !protocol.has_ports()) {
        Some(protocol) => Err(FlowError::NoPorts(protocol).into()),
        None => Ok(flow),
    }
}

impl FromStr for FlowSpec {
    type Err = GrammarError;

    /// `[from] ADDR [to ADDR] [proto P] [sport N] [dport N] [iif IF]`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        flow(&split(text))
    }
}

fn address(text: &str) -> Result<IpAddr, FlowError> {
    text.parse().map_err(|_| FlowError::Address(text.to_owned()))
}

fn port(text: &str) -> Result<u16, FlowError> {
    text.parse().map_err(|_| FlowError::Port(text.to_owned()))
}

/// ICMP is the one of the source's family.
fn protocol(text: &str, source: IpAddr) -> Result<Protocol, FlowError> {
    let protocol = text.parse()?;
    Ok(if protocol == Protocol::ICMP && source.is_ipv6() { Protocol::ICMPV6 } else { protocol })
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    fn flows() -> impl Strategy<Value = FlowSpec> {
        let ports = (option::of(any::<u16>()), option::of(any::<u16>()));
        let words = (any::<IpAddr>(), option::of(any::<IpAddr>()), option::of(any::<u8>()), ports);
        (words, option::of("[a-z0-9.]{1,15}")).prop_map(|((source, to, number, (sport, dport)), iif)| {
            let protocol = number.map(Protocol::new).filter(|it| it.has_ports() || sport.or(dport).is_none());
            let mut flow = FlowSpec::new(source);
            // ICMP is the one of IPv6 there.
            flow.protocol = protocol.filter(|it| *it != Protocol::ICMP || source.is_ipv4());
            (flow.destination, flow.source_port, flow.destination_port) = (to, sport, dport);
            flow.incoming = iif;
            flow
        })
    }

    proptest! {
        #[test]
        fn a_flow_survives_its_words_and_json(flow in flows()) {
            prop_assert_eq!(flow.to_string().parse(), Ok(flow.clone()));
            let json = serde_json::to_string(&flow).unwrap();
            prop_assert_eq!(serde_json::from_str::<FlowSpec>(&json).unwrap(), flow);
        }

        #[test]
        fn no_words_make_the_grammar_panic(text in ".*") {
            let _ = text.parse::<FlowSpec>();
        }
    }

    #[test]
    fn the_source_comes_first_or_after_from() {
        let flow: FlowSpec = "192.0.2.7 to 198.51.100.9 proto udp dport 53 iif eth1".parse().unwrap();
        for same in [
            "from 192.0.2.7 to 198.51.100.9 proto 17 dport 53 iif eth1",
            "iif eth1 dport 53 proto udp to 198.51.100.9 from 192.0.2.7",
        ] {
            assert_eq!(same.parse(), Ok(flow.clone()), "{same}");
        }
        let icmp: FlowSpec = "2001:db8::7 proto icmp".parse().unwrap();
        assert_eq!(icmp.protocol, Some(Protocol::ICMPV6));
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (text, sentence) in [
            ("", "a flow needs the source address of its packets, like `192.0.2.7 to 198.51.100.9`"),
            (
                "to 192.0.2.7",
                "a flow needs the source address of its packets, like `192.0.2.7 to 198.51.100.9`",
            ),
            ("from", "`from` needs a source address after it"),
            (
                "192.0.2.0/24",
                "`192.0.2.0/24` is not an IPv4 or IPv6 address; name one address, like 192.0.2.7 or 2001:db8::7",
            ),
            ("fe80::1%eth1", "`fe80::1%eth1` is not an IPv4 or IPv6 address; leave `%eth1` out: `fe80::1`"),
            (
                "192.0.2.7 to web",
                "`web` is not an IPv4 or IPv6 address; name one address, like 192.0.2.7 or 2001:db8::7",
            ),
            (
                "192.0.2.7 from 192.0.2.8",
                "`from` does not belong here; expected `to`, `proto`, `sport`, `dport` or `iif`",
            ),
            (
                "192.0.2.7 proto ipsec",
                "`ipsec` is not a protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `dccp`, `udplite`, or a number from 0 to 255",
            ),
            ("192.0.2.7 dport http", "`http` is not a port; write a number from 0 to 65535"),
            ("192.0.2.7 proto icmp dport 7", "packets of icmp have no ports; leave out `sport` and `dport`"),
        ] {
            assert_eq!(flow(&split(text)).unwrap_err().sentence(), sentence, "{text}");
        }
    }
}
