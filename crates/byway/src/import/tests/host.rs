//! A host's policy routing out of the text that ip-rule(8) and ip-route(8) print.

use crate::{
    import::policy::{
        Action, Condition, DEFAULT, Hop, LOCAL, MAIN, Policy, PolicyRule, Refusal, RouteKind, TableRoute,
    },
    model::Prefix,
};

/// Reads lines such as `100: from 10.1.0.5 lookup isp1`, `table isp1: default via 10.1.0.1 dev eth1`, `-6 table main:
/// default via fe80::1 dev eth0`, `name 100 isp1` and `strict eth1`. The three initial entries of both families are
/// there already.
pub(super) fn host(text: &str) -> Policy {
    let mut policy = Policy::default();
    for any in ["0.0.0.0/0", "::/0"] {
        for (priority, table) in [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)] {
            let action = Action::Lookup { table, suppress_length: None, suppress_group: None };
            policy.rules.push(rule(priority, any.parse().unwrap(), action));
        }
    }
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace().peekable();
        let ipv6 = words.next_if_eq(&"-6").is_some();
        match words.next().unwrap() {
            "name" => {
                let number = words.next().unwrap().parse().unwrap();
                policy.names.0.insert(number, words.next().unwrap().to_owned());
            }
            "strict" => policy.strict.extend(words.map(str::to_owned)),
            "no" => policy.rules.retain(|rule| rule.priority != line[3..].parse::<u32>().unwrap()),
            "table" => {
                let table = table(words.next().unwrap().trim_end_matches(':'), &policy);
                let route = parse_route(table, ipv6, &words.collect::<Vec<_>>());
                policy.routes.push(route);
            }
            priority => {
                let priority = priority.trim_end_matches(':').parse().unwrap();
                let rule = parse_rule(priority, ipv6, &words.collect::<Vec<_>>(), &policy);
                policy.rules.push(rule);
            }
        }
    }
    policy.rules.sort_by_key(|rule| rule.priority);
    policy
}

pub(super) fn rule(priority: u32, any: Prefix, action: Action) -> PolicyRule {
    PolicyRule { priority, source: any, destination: any, conditions: Vec::new(), action, protocol: 0 }
}

fn table(name: &str, policy: &Policy) -> u32 {
    let named = policy.names.0.iter().find(|(_, it)| *it == name).map(|(number, _)| *number);
    named.unwrap_or_else(|| match name {
        "default" => DEFAULT,
        "main" => MAIN,
        "local" => LOCAL,
        number => number.parse().unwrap(),
    })
}

fn parse_rule(priority: u32, ipv6: bool, words: &[&str], policy: &Policy) -> PolicyRule {
    let is_ipv6 =
        ipv6 || words.iter().any(|word| word.parse::<Prefix>().is_ok_and(|it| it.address().is_ipv6()));
    let any: Prefix = if is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().unwrap();
    let mut rule = rule(priority, any, Action::Nop);
    let range = |text: &str| -> (u32, u32) {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        (low.parse().unwrap(), high.parse().unwrap())
    };
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap();
        let condition = match word {
            "not" => Condition::Not,
            "from" => {
                rule.source = next().replace("all", &any.to_string()).parse().unwrap();
                continue;
            }
            "to" => {
                rule.destination = next().parse().unwrap();
                continue;
            }
            "tos" => Condition::Tos(hex(next()).try_into().unwrap()),
            "fwmark" => {
                let (mark, mask) = next().split_once('/').unwrap();
                Condition::Fwmark { mark: hex(mark), mask: hex(mask) }
            }
            "iif" => Condition::Iif(next().to_owned()),
            "oif" => Condition::Oif(next().to_owned()),
            "uidrange" => Condition::Uids(range(next()).0, 65534),
            "ipproto" => {
                assert_eq!(next(), "udp");
                Condition::IpProtocol(17)
            }
            "sport" => {
                let (low, high) = range(next());
                Condition::SourcePorts(low.try_into().unwrap(), high.try_into().unwrap())
            }
            "dport" => {
                let (low, high) = range(next());
                Condition::DestinationPorts(low.try_into().unwrap(), high.try_into().unwrap())
            }
            "tun_id" => Condition::Tunnel(next().parse().unwrap()),
            "attribute" => Condition::Unknown(next().parse().unwrap()),
            "lookup" => {
                rule.action = match next() {
                    "[l3mdev-table]" => Action::L3mdev,
                    name => {
                        let table = table(name, policy);
                        Action::Lookup { table, suppress_length: None, suppress_group: None }
                    }
                };
                continue;
            }
            "suppress_prefixlength" | "suppress_ifgroup" => {
                let number = next().parse().unwrap();
                let Action::Lookup { suppress_length, suppress_group, .. } = &mut rule.action else {
                    panic!()
                };
                *(if word == "suppress_ifgroup" { suppress_group } else { suppress_length }) = Some(number);
                continue;
            }
            "proto" => {
                rule.protocol = if next() == "static" { 4 } else { 3 };
                continue;
            }
            "goto" => {
                rule.action = Action::Goto(next().parse().unwrap());
                continue;
            }
            "nop" => continue,
            "nat" => {
                rule.action = Action::Other(5);
                continue;
            }
            word => {
                rule.action = Action::Refuse(refusal(word).unwrap());
                continue;
            }
        };
        rule.conditions.push(condition);
    }
    rule
}

fn refusal(word: &str) -> Option<Refusal> {
    [Refusal::Blackhole, Refusal::Unreachable, Refusal::Prohibit].into_iter().find(|it| it.word() == word)
}

fn parse_route(table: u32, ipv6: bool, words: &[&str]) -> TableRoute {
    let mut words = words.iter().copied().peekable();
    let kind = words.next_if(|word| refusal(word).is_some() || *word == "throw");
    let to = words.next().unwrap();
    let any = if ipv6 { "::/0" } else { "0.0.0.0/0" };
    let destination = if to == "default" { any } else { to }.parse().unwrap();
    let mut route = TableRoute {
        table,
        destination,
        metric: 0,
        kind: match kind {
            Some("throw") => RouteKind::Throw,
            Some(word) => RouteKind::Refuse(refusal(word).unwrap()),
            None => RouteKind::Unicast(Vec::new()),
        },
        preferred_source: None,
        only: None,
    };
    let mut hops = Vec::new();
    let empty = Hop { gateway: None, device: None, group: 0, weight: 1, onlink: false, dead: false };
    if words.peek() != Some(&"nexthop") {
        hops.push(empty.clone());
    }
    while let Some(word) = words.next() {
        if word == "nexthop" {
            hops.push(empty.clone());
            continue;
        }
        let hop = hops.last_mut().unwrap();
        match word {
            "inet6" => {}
            "via" => {
                let word = words.next().unwrap();
                hop.gateway =
                    Some(if word == "inet6" { words.next().unwrap() } else { word }.parse().unwrap());
            }
            "dev" => hop.device = words.next().map(str::to_owned),
            "group" => hop.group = words.next().unwrap().parse().unwrap(),
            "weight" => hop.weight = words.next().unwrap().parse().unwrap(),
            "onlink" => hop.onlink = true,
            "dead" => hop.dead = true,
            "metric" => route.metric = words.next().unwrap().parse().unwrap(),
            "src" => route.preferred_source = Some(words.next().unwrap().parse().unwrap()),
            "encap" => route.kind = RouteKind::Foreign("wraps its packets (`encap`)"),
            "from" | "tos" => route.only = Some(format!("{word} {}", words.next().unwrap())),
            word => panic!("{word}"),
        }
    }
    if let RouteKind::Unicast(empty) = &mut route.kind {
        *empty = hops;
    }
    route
}
