//! Tests of the configuration: each mistake with its place, what is odd, and round trips.

use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
};

use std::time::Duration;

use super::*;
use crate::{
    config::Attach,
    model::{
        Asked, GroupSpec, HealthCheck, Learned, MemberSpec, Mss, NextHopSpec, OnDown, Owner, Prefix,
        RuleSpec, Selector,
    },
};

fn reading(text: &str) -> Reading {
    let load = &mut |path: &Path| match path.to_str() {
        Some("/etc/byway/list.txt") => Ok("192.0.2.1\n # two more\n192.0.2.2 # the last\n\n".to_owned()),
        Some("/etc/byway/wrong.txt") => Ok("192.0.2.1\n\t192.0.2.7/24 # no\n".to_owned()),
        Some("/etc/byway/empty.txt") => Ok("# nothing yet\n".to_owned()),
        Some("/etc/byway/shadow") => Ok(SHADOW.to_owned()),
        Some("/etc/byway/windows.txt") => Ok("\u{feff}192.0.2.1\r\n".to_owned()),
        _ => Err(FileError::Missing(path.to_owned())),
    };
    read([("/etc/byway/byway.toml".into(), text.to_owned())], load)
}

/// The problems of a text, each as `line:column underlined: message; help`.
fn problems(text: &str) -> Vec<String> {
    let reading = reading(text);
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    assert_eq!(reading.config.is_none(), reading.problems.iter().any(is_error), "{text}");
    let shown = |Problem { message, help, place, .. }: &Problem| {
        let file = &reading.files[place.file];
        let (line, column) = file.line_and_column(place.span.start);
        let underlined = file.text[place.span.clone()].lines().next().unwrap_or("");
        let help = help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
        format!("{line}:{column} {underlined}: {message}{help}")
    };
    reading.problems.iter().map(shown).collect()
}

#[test]
fn every_mistake_has_its_place_and_its_mend() {
    let rule = |line: &str| format!("[[rule]]\nfrom = \"192.0.2.7\"\n{line}\n");
    let cases = [
        (
            "attach = \"eth0\"",
            "1:10 \"eth0\": `attach` must be \"auto\" or a list of interfaces; write it like `attach = [\"eth0\"]`",
        ),
        (
            "colour = 1",
            "1:1 colour: a configuration has no key `colour`; the keys of a configuration are `attach`, `defaults`, `group`, `health-check`, `rule`",
        ),
        ("[default]\n", "1:2 default: a configuration has no key `default`; did you mean `defaults`?"),
        (
            "[defaults]\non_down = \"drop\"",
            "2:1 on_down: `[defaults]` has no key `on_down`; did you mean `on-down`?",
        ),
        (&rule("gateway = \"10.0.0.1\""), "3:1 gateway: a rule has no key `gateway`; did you mean `via`?"),
        (&rule("pass = true"), "3:1 pass: a rule has no key `pass`; write `target = \"pass\"`"),
        (
            &rule("via = \"10.0.0.300\""),
            "3:7 \"10.0.0.300\": `10.0.0.300` is not an IPv4 or IPv6 address; write it like `via = \"192.0.2.1\"`",
        ),
        (
            &rule("via = \"dhpc\""),
            "3:7 \"dhpc\": `dhpc` is not an IPv4 or IPv6 address; write it like `via = \"192.0.2.1\"`, or `dhcp` or `ra` for the gateway that the host learns",
        ),
        (
            &rule("via = \"dhcp\""),
            "3:7 \"dhcp\": `via dhcp` means the gateway that the host learns on a device, and none is named; name it with `dev`",
        ),
        (&rule("via = 10"), "3:7 10: `via` must be a string, not an integer"),
        (
            "[[rule]]\nfrom = \"192.0.2.7\"\nreply-to = \"yes\"",
            "3:12 \"yes\": `reply-to` must be `true`, `false` or a list of devices, not a string",
        ),
        (
            "[[rule]]\nfrom = \"192.0.2.7\"\nreply-to = []",
            "3:12 []: `reply-to` must be `true`, `false` or a list of devices, not an array",
        ),
        (
            "[[rule]]\nfrom = \"192.0.2.7\"\nreply-to = [\"eth1\", 2]",
            "3:21 2: `reply-to` must be a string, not an integer",
        ),
        (
            &rule("target = \"reject\""),
            "3:10 \"reject\": `target = \"reject\"` is not valid; write `\"pass\"` or `\"drop\"`, name next hops with `via`, `dev`, `nexthops` or `group`, or write `reply-to = true`",
        ),
        (
            &rule("target = \"drop\"\nvia = \"10.0.0.1\""),
            "4:7 \"10.0.0.1\": a rule has one target: `via` cannot be combined with `target`; leave one out",
        ),
        (
            &rule("target = \"pass\"\nmss = 1400"),
            "4:7 1400: `mss` clamps TCP's MSS option on the way to a next hop, but `pass` has no next hop; leave it out",
        ),
        (
            &rule("dev = \"eth1\"\nmss = 12"),
            "4:7 12: an MSS is 88 to 65495 bytes, and this one is 12; with `off`, byway leaves the MSS alone",
        ),
        (
            &rule("dev = \"eth1\"\nmss = \"1400\""),
            "4:7 \"1400\": `mss` must be \"auto\", \"off\" or a number of bytes from 88 to 65495, not a string",
        ),
        (
            &rule("dev = \"eth1\"\non-down = \"fail\""),
            "4:11 \"fail\": `on-down` cannot be `fail`; write `pass` or `drop`",
        ),
        (&rule("dev = \"eth1\"\non-down = 1"), "4:11 1: `on-down` must be a string, not an integer"),
        (
            &rule("dev = \"eth1\"\nname = \"two words\""),
            "4:8 \"two words\": `two words` cannot be a rule's name; use 1 to 32 letters, digits, `-`, `_`, `.` or `:`",
        ),
        (
            &rule("group = \"uplink\"\n[group.uplinks]\nnexthops = [{ dev = \"eth1\" }]"),
            "3:9 \"uplink\": there is no group `uplink`; did you mean `uplinks`?",
        ),
        (
            &rule("nexthops = [{ dev = \"eth1\", weight = 0 }]"),
            "3:38 0: the weight of dev eth1 is 0; a weight is 1 to 256",
        ),
        (
            &rule("nexthops = [{ dev = \"eth1\", weight = 70000 }]"),
            "3:38 70000: `weight` must be a number from 1 to 256, not 70000",
        ),
        (
            &rule("nexthops = [{ dev = \"eth1\", weight = 0x2 }]"),
            "3:38 0x2: `weight` must be a number from 1 to 256; write it in decimal digits",
        ),
        (
            &rule("nexthops = [{ dev = \"eth1\" }, { dev = \"eth1\", weight = 2 }]"),
            "3:31 { dev = \"eth1\", weight = 2 }: the next hop dev eth1 is named twice; name it once, with a weight for a larger share",
        ),
        (
            &rule("dev = \"eth1\"\nvia = \"127.0.0.1\"\nname = \"here\""),
            "4:7 \"127.0.0.1\": 127.0.0.1 cannot be a gateway: it is a loopback address; name the address of the next router",
        ),
        (
            "[defaults]\nmss = 5",
            "2:7 5: an MSS is 88 to 65495 bytes, and this one is 5; with `off`, byway leaves the MSS alone",
        ),
        ("attach = [\"eth0\", 1]", "1:19 1: `attach` must be a list of interfaces, not an integer"),
        (
            "[[rule]]\nfrom-file = \"\"\ndev = \"eth1\"",
            "2:13 \"\": `from-file` names no file; write the name of a list",
        ),
        (
            &rule("to = \"2001:db8::/32\"\ndev = \"eth1\""),
            "2:8 \"192.0.2.7\": no packet goes from 192.0.2.7 to 2001:db8::/32: one is IPv4 and the other IPv6; name two of the same family",
        ),
        (
            "[[rule]]\nfrom = [\n  \"192.0.2.7/24\"]\ndev = \"eth1\"",
            "3:3 \"192.0.2.7/24\": `192.0.2.7/24` has bits set beyond its length of 24; did you mean 192.0.2.0/24?",
        ),
        (
            "[[rule]]\nfrom = \"fe80::1\"\ndev = \"eth1\"",
            "2:8 \"fe80::1\": byway never redirects packets from fe80::1, which is link-local; name the global addresses that the host answers from",
        ),
        (
            "[[rule]]\nfrom = \"192.0.2.7\"",
            "1:1 [[rule]]: a rule needs a target; write `via`, `dev`, `nexthops`, `group`, `reply-to = true`, or `target = \"pass\"` or `\"drop\"`",
        ),
        (
            "[[rule]]\ndev = \"eth1\"",
            "1:1 [[rule]]: a rule needs the source of its packets; write `from = \"192.0.2.7\"`, or `from-file` with the name of a list",
        ),
        (
            "[[rule]]\nfrom = [\"192.0.2.7\", \"192.0.2.7\"]\ndev = \"eth1\"",
            "2:22 \"192.0.2.7\": there are two rules from 192.0.2.7; delete one of them",
        ),
        (
            "[[rule]]\nfrom-file = \"none.txt\"\ndev = \"eth1\"",
            "2:13 \"none.txt\": there is no file /etc/byway/none.txt; check the path, or create the file",
        ),
        (
            "[[rule]]\nfrom-file = \"wrong.txt\"\ndev = \"eth1\"",
            "2:2 192.0.2.7/24: `192.0.2.7/24` has bits set beyond its length of 24; did you mean 192.0.2.0/24?",
        ),
        (
            "[group.v4]\nnexthops = [{ via = \"10.0.0.1\" }]\n[[rule]]\nfrom = \"2001:db8::7\"\ngroup = \"v4\"",
            "4:8 \"2001:db8::7\": the gateway 10.0.0.1 is IPv4, but packets from 2001:db8::7 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
        ),
        (
            "[group.a]\n",
            "1:8 a: the group a needs next hops; write `nexthops = [{ via = \"192.0.2.1\", dev = \"eth1\" }]`",
        ),
    ];
    for (text, expected) in cases {
        let mut found = problems(text);
        found.retain(|problem| !problem.contains("no rule of the configuration uses the group"));
        assert_eq!(found, [expected], "{text}");
    }
}

#[test]
fn every_mistake_in_a_health_check_has_its_place() {
    let rule = "[[rule]]\nfrom = \"192.0.2.7\"\nvia = \"10.0.0.1\"\ndev = \"eth1\"\n";
    let check =
        |lines: &str| format!("{rule}[[health-check]]\nvia = \"10.0.0.1\"\ndev = \"eth1\"\n{lines}\n");
    let good = "ping = \"198.51.100.1\"";
    let cases = [
        (check(good), None),
        (
            check(
                "ping = [\"198.51.100.1\", \"2001:db8::1\"]\nquorum = 2\ninterval = \"1m\"\ntimeout = \"10s\"",
            ),
            None,
        ),
        (
            check(""),
            Some(
                "5:1 [[health-check]]: a health check needs somebody to ask; write `ping = \"198.51.100.1\"` with a host behind the next hop, or \
                 `neighbour = true` for the gateway itself",
            ),
        ),
        (check("tcp = \"198.51.100.1\"\nport = 443"), None),
        (check("neighbour = true\nsrc = \"192.0.2.1\""), None),
        (
            check("tcp = \"198.51.100.1\""),
            Some("5:1 [[health-check]]: `tcp` needs a port; write `port = 443` beside it"),
        ),
        (
            check("tcp = \"198.51.100.1\"\nport = 0"),
            Some("5:1 [[health-check]]: a health check cannot ask for TCP port 0; a port is 1 to 65535"),
        ),
        (
            check("tcp = \"198.51.100.1\"\nport = 65536"),
            Some("9:8 65536: `port` must be a number from 1 to 65535, not 65536"),
        ),
        (
            check(&format!("{good}\nport = 443")),
            Some("5:1 [[health-check]]: `port` is of no use without `tcp`; leave it out, or ask with `tcp`"),
        ),
        (
            check(&format!("{good}\nneighbour = true")),
            Some("5:1 [[health-check]]: a health check asks in one way; write one of `ping`, `tcp` and `neighbour`"),
        ),
        (
            check("neighbour = true\nsrc = \"2001:db8::1\""),
            Some(
                "5:1 [[health-check]]: a health check cannot ask the gateway of via 10.0.0.1 dev eth1 from 2001:db8::1: one is IPv4 \
                 and the other IPv6; leave `src` out",
            ),
        ),
        (
            "[[rule]]\nfrom = \"192.0.2.7\"\ndev = \"eth1\"\n[[health-check]]\ndev = \"eth1\"\nneighbour = true\n"
                .to_owned(),
            Some(
                "4:1 [[health-check]]: a health check cannot ask the gateway of dev eth1, which has none; name hosts with `ping` or \
                 `tcp`",
            ),
        ),
        (
            check("ping = \"example.com\""),
            Some(
                "8:8 \"example.com\": `example.com` is not an IPv4 or IPv6 address; a name needs a resolver, which the next hop may be the way to: write the address",
            ),
        ),
        (
            check("pings = \"198.51.100.1\""),
            Some("8:1 pings: a health check has no key `pings`; did you mean `ping`?"),
        ),
        (
            check(&format!("{good}\ninterval = 1")),
            Some("9:12 1: `interval` must be a string, not an integer"),
        ),
        (
            check(&format!("{good}\ninterval = \"soon\"")),
            Some("9:12 \"soon\": `soon` is not a time; write it like `interval = \"100ms\"`"),
        ),
        (
            check(&format!("{good}\ninterval = \"5ms\"")),
            Some("5:1 [[health-check]]: a health check cannot ask every 5ms; an interval is 10ms to 3600s"),
        ),
        (
            check(&format!("{good}\nfall = 256")),
            Some("9:8 256: `fall` must be a number from 1 to 255, not 256"),
        ),
        (
            check(&format!("{good}\nquorum = 2")),
            Some(
                "5:1 [[health-check]]: a health check of 1 host cannot have a quorum of 2; a quorum is 1 to the number of hosts",
            ),
        ),
        (
            check(good) + "[[health-check]]\nvia = \"10.0.0.1\"\ndev = \"eth1\"\n" + good,
            Some(
                "9:1 [[health-check]]: via 10.0.0.1 dev eth1 has two health checks; one may ask several hosts",
            ),
        ),
        (
            format!("{rule}[[health-check]]\nvia = \"10.0.0.1\"\n{good}\n"),
            Some(
                "5:1 [[health-check]]: there is a health check of via 10.0.0.1, but no rule and no group names this next hop so; write `via` and `dev` as the rule or the group does",
            ),
        ),
        // Where the rule itself is wrong, only that is said.
        (
            check(good).replace("192.0.2.7", "web"),
            Some(
                "2:8 \"web\": `web` is not an IPv4 or IPv6 address or prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
            ),
        ),
        (
            "health-check = 1".to_owned(),
            Some(
                "1:16 1: `health-check` must be an array of tables, each written `[[health-check]]`, not an integer",
            ),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(&text), expected.into_iter().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn each_key_of_a_rule_is_looked_at() {
    let text =
        "[[rule]]\nfrom = \"192.0.2.7\"\ntarget = \"pass\"\non-down = \"drop\"\nmss = 1400\nname = \"a b\"\n";
    let found = problems(text);
    let lines: Vec<&str> = found.iter().map(|it| &it[..1]).collect();
    assert_eq!(lines, ["4", "5", "6"], "{found:?}");
}

#[test]
fn attachments_are_written_in_json_as_in_a_configuration() {
    let json = |attach: &Attach| serde_json::to_value(attach).unwrap();
    assert_eq!(json(&Attach::Auto), "auto");
    assert_eq!(json(&Attach::devices(["auto"])), serde_json::json!(["auto"]));
    assert_eq!(serde_json::from_value::<Attach>("auto".into()).unwrap(), Attach::Auto);
    assert!(serde_json::from_value::<Attach>("eth0".into()).is_err());
}

/// A program may have written it by mistake, and would delete all its rules.
#[test]
fn a_list_with_nothing_in_it_is_odd() {
    let empty = "so the rule matches no packet; delete it, or fill the list";
    let rule = |from: &str| format!("[[rule]]\n{from}\ndev = \"eth1\"");
    assert_eq!(problems(&rule("from = []")), [format!("2:8 []: `from` is empty, {empty}")]);
    let from_file = problems(&rule("from-file = \"empty.txt\""));
    assert_eq!(
        from_file,
        [format!("2:13 \"empty.txt\": there is no prefix in /etc/byway/empty.txt, {empty}")]
    );
    let twice = problems("attach = [\"eth0\", \"eth0\"]");
    assert_eq!(twice, ["1:19 \"eth0\": `attach` names eth0 twice; once is enough"]);
    // With a byte order mark, as Windows writes texts.
    assert_eq!(reading(&rule("from-file = \"windows.txt\"")).config.unwrap().rule_count(), 1);
}

const SHADOW: &str = "192.0.2.1 # Jos\u{e9}'s\nroot:$6$Zm9v$c2VjcmV0/:19000:0:99999:7:::\n  dead beef\n\
                      \t2001:db8::/129\n0123456789abcdef\n192.0.2.1\nwheel::4294967295:\n\u{e9}\n\
                      aaaaaaaa:bbbbbbbb:cccccccc:dddddddd:aaaaaaaa:bbbbbbbb:cccccccc:dddd";

/// Whoever writes a configuration may name a file that others must not see.
#[test]
fn of_a_list_only_addresses_are_shown() {
    let text = "[[rule]]\nfrom-file = \"shadow\"\ndev = \"eth1\"";
    let no_prefix = |line: u32, column: u32| {
        format!(
            "{line}:{column} : line {line} is not a prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        )
    };
    let expected = [
        no_prefix(2, 1),
        no_prefix(3, 3),
        "4:2 2001:db8::/129: `2001:db8::/129` is longer than an IPv6 address; 128 is the longest".to_owned(),
        no_prefix(5, 1),
        "6:1 192.0.2.1: there are two rules from 192.0.2.1; delete one of them".to_owned(),
        no_prefix(7, 1),
        no_prefix(8, 1),
        no_prefix(9, 1),
    ];
    assert_eq!(problems(text), expected);
    let shown = &reading(text).files[1].text;
    assert_eq!(shown.len(), SHADOW.len());
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(words, ["192.0.2.1", "2001:db8::/129", "192.0.2.1"]);
}

#[test]
fn all_of_them_are_said_at_once() {
    let text = "attach = 3\n[[rule]]\nfrom = [\"one\", \"two\"]\nvia = \"three\"\n[[rule]]\nfrom = four\n";
    let found: Vec<String> =
        problems(text).iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(found, ["1:10", "3:9", "3:16", "4:7", "5:1", "6:8"]);
}

#[test]
fn one_mistake_made_many_times_ends_somewhere() {
    let twice = "\"192.0.2.7\", ".repeat(1_500);
    let wrong = "\"web\", ".repeat(1_500);
    for sources in [twice, wrong] {
        let text = format!("[[rule]]\ndev = \"eth1\"\nfrom = [{sources}]\n");
        assert_eq!(problems(&text).len(), 1_000);
    }
}

#[test]
fn what_is_odd_is_a_warning() {
    let to = |from: &str, to: &str| format!("[[rule]]\nfrom = \"{from}\"\n{to}\n");
    let led = |from: &str| to(from, "dev = \"eth1\"");
    let cases = [
        (led("10.0.0.0/24"), None),
        ("attach = []\n".to_owned(), None),
        (
            "attach = []\n".to_owned() + &led("10.0.0.0/24"),
            Some("`attach` is empty, so no rule takes effect"),
        ),
        (led("10.0.0.0/24") + &led("10.0.0.0/25"), None),
        (
            led("10.0.0.0/24") + &led("10.0.0.0/25") + &led("10.0.0.128/26") + &led("10.0.0.192/26"),
            Some("the rule from 10.0.0.0/24 never matches: more specific rules cover all of its sources"),
        ),
        (
            led("::/0") + &led("::/1") + &led("8000::/1"),
            Some("the rule from ::/0 never matches: more specific rules cover all of its sources"),
        ),
        (led("10.0.0.0/24") + &to("10.0.0.7", "target = \"pass\""), None),
        (to("0.0.0.0/0", "reply-to = true") + &to("10.0.0.7", "target = \"pass\""), None),
        (led("10.0.0.0/24") + &to("10.0.0.7", "to = \"10.9.0.0/16\"\ntarget = \"pass\""), None),
        (
            led("10.0.0.0/24") + &to("10.0.1.7", "target = \"pass\""),
            Some(
                "the rule from 10.0.1.7 passes packets that no other rule matches, which byway leaves alone anyway",
            ),
        ),
        (
            to("10.0.0.0/24", "to = \"10.8.0.0/16\"\ndev = \"eth1\"")
                + &to("10.0.0.7", "to = \"10.9.0.0/16\"\ntarget = \"pass\""),
            Some(
                "the rule from 10.0.0.7 to 10.9.0.0/16 passes packets that no other rule matches, which byway leaves alone anyway",
            ),
        ),
        (
            "[group.up]\nnexthops = [{ dev = \"eth1\" }]\n".to_owned(),
            Some("no rule of the configuration uses the group up"),
        ),
    ];
    for (text, expected) in cases {
        let reading = reading(&text);
        let messages: Vec<&str> = reading.problems.iter().map(|it| it.message.as_str()).collect();
        assert_eq!(messages, expected.into_iter().collect::<Vec<_>>(), "{text}");
        assert!(reading.config.is_some());
    }
}

#[test]
fn several_files_are_one_configuration() {
    let texts = [
        (
            "a.toml",
            "[defaults]\non-down = \"drop\"\n[[rule]]\nfrom = \"192.0.2.1\"\ngroup = \"up\"\n[[rule]]\nfrom = \"192.0.2.2\"\ndev = \"eth1\"\n",
        ),
        (
            "b.toml",
            "[group.up]\nnexthops = [{ dev = \"eth1\" }]\n[[rule]]\nfrom = [\"192.0.2.3\", \"192.0.2.4\"]\nto = [\"10.0.0.0/8\", \"11.0.0.0/8\"]\ndev = \"eth1\"\n",
        ),
    ];
    let texts = texts.map(|(path, text)| (path.into(), text.to_owned()));
    let reading = read(texts.clone(), &mut |path| Err(FileError::Missing(path.to_owned())));
    let config = reading.config.unwrap();
    let rules: Vec<String> =
        config.rules().map(|rule| format!("{} {}", rule.selector, rule.on_down)).collect();
    // The defaults hold in their own file, and not where they would make no sense.
    assert_eq!(
        rules,
        [
            "from 192.0.2.1 pass",
            "from 192.0.2.2 drop",
            "from 192.0.2.3 to 10.0.0.0/8 pass",
            "from 192.0.2.3 to 11.0.0.0/8 pass",
            "from 192.0.2.4 to 10.0.0.0/8 pass",
            "from 192.0.2.4 to 11.0.0.0/8 pass",
        ]
    );
    let twice = [texts[1].clone(), texts[1].clone()];
    let problems = read(twice, &mut |path| Err(FileError::Missing(path.to_owned()))).problems;
    assert_eq!(problems.len(), 5, "a group and four rules: {problems:?}");
    assert!(problems.iter().all(|it| it.place.file == 1 && it.also.as_ref().unwrap().0.file == 0));
}

#[test]
fn a_default_health_check_is_for_each_next_hop_of_its_file_that_has_none() {
    let rule = |last: u8, target: &str| format!("[[rule]]\nfrom = \"192.0.2.{last}\"\n{target}\n");
    let default = |asked: &str| format!("[defaults.health-check]\n{asked}\ninterval = \"50ms\"\n");
    let own = "[[health-check]]\nvia = \"10.0.0.2\"\ndev = \"eth1\"\nping = \"198.51.100.1\"\n";
    let with = |asked: &str| {
        default(asked)
            + &rule(1, "nexthops = [{ via = \"10.0.0.1\" }, { dev = \"tun0\", backup = true }]")
            + &rule(2, "via = \"10.0.0.2\"\ndev = \"eth1\"")
            + &rule(3, "via = \"dhcp\"\ndev = \"eth2\"")
            + "[group.up]\nnexthops = [{ via = \"10.0.0.3\" }]\n"
            + &rule(4, "group = \"up\"")
            + own
    };
    let read = |texts: Vec<String>| {
        let texts = texts.into_iter().enumerate().map(|(nth, text)| (format!("{nth}.toml").into(), text));
        super::read(texts, &mut |path| Err(FileError::Missing(path.to_owned())))
    };
    let checks = |texts: Vec<String>| -> Vec<String> {
        let reading = read(texts);
        assert_eq!(reading.problems, []);
        let mut checks: Vec<String> =
            reading.config.unwrap().health_checks.iter().map(ToString::to_string).collect();
        checks.sort();
        checks
    };
    let elsewhere = rule(9, "via = \"10.0.0.9\"");
    assert_eq!(
        checks(vec![with("neighbour = true"), elsewhere.clone()]),
        [
            "via 10.0.0.1 neighbour interval 50ms fall 3 rise 3",
            "via 10.0.0.2 dev eth1 ping 198.51.100.1 interval 1s fall 3 rise 3",
            "via 10.0.0.3 neighbour interval 50ms fall 3 rise 3",
            "via dhcp dev eth2 neighbour interval 50ms fall 3 rise 3",
        ]
    );
    // Hosts can be asked by a device as well.
    let by_tunnel = "dev tun0 ping 198.51.100.7 interval 50ms fall 3 rise 3";
    assert!(checks(vec![with("ping = \"198.51.100.7\"")]).iter().any(|it| it == by_tunnel));

    // Two files may agree, but not differ.
    let same = |asked: &str| default(asked) + &rule(7, "via = \"10.0.0.1\"");
    assert_eq!(checks(vec![with("neighbour = true"), same("neighbour = true")]).len(), 4);
    let found = read(vec![with("neighbour = true"), same("ping = \"198.51.100.7\"")]).problems;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place.file, 1);
    let cases = [
        (
            default("via = \"10.0.0.1\"\nneighbour = true"),
            "2:1 via: a health check of `[defaults]` has no key `via`",
        ),
        (default("neighbour = false"), "1:1 [defaults.health-check]: a health check needs somebody to ask"),
    ];
    for (text, expected) in cases {
        let found = problems(&text);
        assert!(found[0].starts_with(expected), "{found:?}");
    }
}

fn any_prefix(v4: bool) -> impl Strategy<Value = Prefix> {
    let length = if v4 { 8..=32_u8 } else { 16..=128_u8 };
    (any::<[u8; 15]>(), length).prop_map(move |(rest, length)| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        let address =
            if v4 { std::net::IpAddr::from([20, octets[1], octets[2], octets[3]]) } else { octets.into() };
        Prefix::holding(address, length).unwrap()
    })
}

fn any_member() -> impl Strategy<Value = MemberSpec> {
    let next_hop = prop_oneof![
        any::<[u8; 16]>().prop_map(|mut octets| {
            octets[0] = 0x20;
            NextHopSpec::Via(octets.into())
        }),
        "[a-z0-9\"\\\\.é]{1,15}".prop_map(NextHopSpec::Dev),
        "[a-z0-9]{1,15}".prop_map(|device| NextHopSpec::ViaDev([0x20; 16].into(), device)),
        "[a-z0-9]{1,15}".prop_map(|device| NextHopSpec::Learned(Learned::Ra, device)),
    ];
    (next_hop, 1..=256_u16, any::<bool>()).prop_map(|(next_hop, weight, is_backup)| {
        let member = MemberSpec::new(next_hop);
        if is_backup { member.backup() } else { member.weight(weight) }
    })
}

/// Each next hop once.
fn any_members() -> impl Strategy<Value = Vec<MemberSpec>> {
    vec(any_member(), 1..4).prop_map(|mut members| {
        let mut seen = BTreeSet::new();
        members.retain(|member| seen.insert(member.next_hop.to_string()));
        members[0].is_backup = false;
        members
    })
}

fn any_rule() -> impl Strategy<Value = RuleSpec> {
    let prefixes = any::<bool>().prop_flat_map(|v4| (any_prefix(v4), option::of(any_prefix(v4))));
    let target = prop_oneof![
        Just(TargetSpec::Pass),
        Just(TargetSpec::Drop),
        Just(TargetSpec::Group("up.links".into())),
        any_member().prop_map(|member| TargetSpec::NextHop(member.next_hop)),
        any_members().prop_map(TargetSpec::NextHops),
    ];
    let mss = prop_oneof![Just(Mss::Auto), Just(Mss::Off), (88..=65_495_u16).prop_map(Mss::Bytes)];
    let devices = btree_set("[a-z0-9]{1,15}", 0..3);
    let replies = any::<bool>()
        .prop_flat_map(move |is| (Just(is), if is { devices.clone() } else { btree_set("", 0) }));
    (prefixes, replies, target, any::<bool>(), mss, option::of("[a-zA-Z0-9_.:-]{1,32}")).prop_map(
        |((source, destination), (reply_to, reply_to_dev), target, drops, mss, name)| {
            let has_own = matches!(target, TargetSpec::NextHop(_) | TargetSpec::NextHops(_));
            let leads_on = reply_to || !matches!(target, TargetSpec::Pass | TargetSpec::Drop);
            RuleSpec {
                selector: Selector::new(source, destination),
                on_down: if drops && has_own { OnDown::Drop } else { OnDown::Pass },
                mss: if leads_on { mss } else { Mss::Auto },
                reply_to,
                reply_to_dev,
                target,
                owner: Owner::CONFIG,
                name,
            }
        },
    )
}

fn any_health_check() -> impl Strategy<Value = HealthCheck> {
    let hosts = (any::<bool>(), btree_set(1..250_u8, 1..=4)).prop_map(|(v4, last)| {
        let host = |last: u8| match v4 {
            true => std::net::IpAddr::from([198, 51, 100, last]),
            false => std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()]),
        };
        last.into_iter().map(host).collect::<Vec<_>>()
    });
    let times = (50..=3_600_000_u64, 1..=10_u64);
    let kinds = (0..3, 1..=u16::MAX);
    (hosts, kinds, 1..=4_u8, any::<bool>(), times, 1..=u8::MAX, 1..=u8::MAX).prop_map(
        |(hosts, (kind, port), quorum, has_src, (interval, share), fall, rise)| {
            let interval = Duration::from_millis(interval);
            let (asked, count) = match kind {
                0 => (Asked::Ping(hosts.clone()), hosts.len()),
                1 => (Asked::Tcp(hosts.clone(), port), hosts.len()),
                _ => (Asked::Neighbour, 1),
            };
            HealthCheck {
                quorum: quorum.min(count as u8),
                src: (has_src && kind < 2).then(|| hosts[0]),
                timeout: Duration::from_millis(interval.as_millis() as u64 / share),
                interval,
                fall,
                rise,
                owner: Owner::CONFIG,
                ..HealthCheck::new(asked)
            }
        },
    )
}

proptest! {
    #[test]
    fn a_configuration_survives_its_text(
        specs in vec(any_rule(), 0..20),
        members in any_members(),
        checks in vec(option::of(any_health_check()), 4),
        attach in option::of(vec("[a-z0-9]{1,15}", 0..3)),
    ) {
        let group = GroupSpec { name: "up.links".into(), members, on_down: OnDown::Drop, owner: Owner::CONFIG };
        let mut config = Config::new(attach.map(Attach::Devices), vec![group.clone()], specs);
        let of_members = group.members.iter().zip(checks);
        config.health_checks = of_members
            .filter_map(|(member, check)| Some(HealthCheckSpec::new(member.next_hop.clone(), check?)))
            // Not all have a gateway to ask.
            .filter(|spec| spec.check().is_ok())
            .collect();
        prop_assert_eq!(config.check(), Ok(()));
        let text = config.to_string();
        let reading = reading(&text);
        let errors: Vec<_> = reading.problems.iter().filter(|it| it.severity == Severity::Error).collect();
        prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
        let again = reading.config.unwrap();
        prop_assert_eq!(&again.attach, &config.attach);
        let json = serde_json::to_string(&config.attach).unwrap();
        prop_assert_eq!(serde_json::from_str::<Option<Attach>>(&json).unwrap(), config.attach.clone());
        prop_assert_eq!(&again.groups, &config.groups);
        prop_assert_eq!(&again.health_checks, &config.health_checks);
        prop_assert_eq!(again.rules().collect::<Vec<_>>(), config.rules().collect::<Vec<_>>());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\[\\[?(rule|group|defaults|health-check|group\\.a)\\]?\\]\n|(from|to|via|dev|nexthops|group|target|mss|on-down|attach|rule|ping|interval|fall|src) = |[\\[\\]{}\"',=\n#0-9a-fé./:]){0,60}") {
        let reading = reading(&text);
        for problem in &reading.problems {
            let file = &reading.files[problem.place.file];
            prop_assert!(file.text.get(problem.place.span.clone()).is_some(), "{:?}", problem);
            file.line_and_column(problem.place.span.start);
        }
    }
}
