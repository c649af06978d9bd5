//! `byway run`, which keeps the rules true while the network changes.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use aya::programs::tc::{TcAttachType, qdisc_detach_program};
use byway_lab::{
    Node, Traffic,
    seed::{IPV4, Seed},
    wait_until,
};
use nix::libc::{SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM};

use crate::support::{ANSWER, Agent, ConfigFile, SILENCE, VIP, call, done, json, pins, rounds, works};

/// The folder of pins. Beside it there may be the lock of a change that the agent makes.
fn pinned() -> String {
    pins().into_iter().find(|name| name.starts_with("netns-")).unwrap()
}

#[test]
fn an_agent_follows_the_network_and_leaves_all_in_force() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new("");
    done(&seed.server, "add from 192.168.1.5 via 10.111.221.21");
    let mut agent = Agent::start(&seed.server, &file.words("run"));
    assert_eq!(agent.says(), format!("{} says nothing, so what is in force stays", file.path.display()));
    assert!(works(&seed, ANSWER));

    // The next hop moves to another link.
    seed.lab.link((&seed.server, "eth2"), (&seed.router, "eth2")).unwrap();
    for (node, from, to, address) in [
        (&seed.server, "eth1", "eth2", "10.111.221.11/24"),
        (&seed.router, "eth0", "eth2", "10.111.221.21/24"),
    ] {
        node.delete_address(from, address).unwrap();
        node.address(to, address).unwrap();
    }
    seed.router.route("192.168.1.5 via 10.111.221.11").unwrap();
    assert_eq!(agent.says(), "the next hop via 10.111.221.21 (dev eth2) leaves by eth2 now");
    assert!(works(&seed, ANSWER));

    // The default routes move to where replies have to leave anyway.
    for (family, gateway) in [("-4", "10.111.221.21"), ("-6", "2001:db8:221::21")] {
        seed.server.delete_route(&format!("{family} default")).unwrap();
        seed.server.route(&format!("default via {gateway}")).unwrap();
    }
    let mut said: Vec<String> = (0..3).map(|_| agent.says()).collect();
    said.sort();
    assert_eq!(
        said,
        ["attached to eth1", "attached to eth2", "detached from eth0, which carries no default route now"]
    );

    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));
    assert!(works(&seed, ANSWER));
    let attachments = json(&seed, "--json show")["attachments"].clone();
    assert_eq!(attachments.as_array().unwrap().len(), 2, "{attachments}");
}

#[test]
fn an_agent_applies_the_configuration_and_keeps_the_last_good_one() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let mut agent = Agent::start(&seed.server, &file.words("run"));
    assert_eq!(
        agent.says(),
        format!(
            "applied {}: + attach (eth0); 1 rule added, 0 changed, 0 deleted; 0 stayed as they were",
            file.path.display()
        )
    );
    assert!(works(&seed, ANSWER));

    // An invalid one changes nothing, and is said once for each reload.
    file.write("[[rule]]\nfrom = \"192.168.1.5\"\nvia = \"nowhere\"\n");
    for _ in 0..2 {
        agent.signal(SIGHUP);
        let said = loop {
            let line = agent.says();
            if line.starts_with("byway: ") {
                break line;
            }
        };
        assert!(said.contains(" 1 error"), "{said}");
        assert!(works(&seed, ANSWER));
    }
    file.write(&VIP.replace("192.168.1.5", "192.168.1.6"));
    agent.signal(SIGHUP);
    let said = agent.says();
    assert!(
        said.starts_with(&format!("applied {}: 1 rule added, 0 changed, 1 deleted", file.path.display())),
        "{said}"
    );
    assert!(!works(&seed, SILENCE));

    // Another one is refused, until this one is gone, however it ends.
    let said = call(&seed.server, &file.words("run"));
    let sentence = "byway: an agent runs in this network namespace already: process ";
    assert!(said.code == Some(1) && said.err.starts_with(sentence), "{said:?}");
    agent.signal(SIGKILL);
    assert_eq!(agent.ends(), None);
    file.write(VIP);
    let mut agent = Agent::start(&seed.server, &file.words("--json run --detach-on-exit"));
    let said: serde_json::Value = serde_json::from_str(&agent.says()).unwrap();
    assert_eq!(said["applied"]["rules"].as_array().unwrap().len(), 2, "{said}");
    assert!(works(&seed, ANSWER));
    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));
    assert_eq!(json(&seed, "--json show")["attachments"], serde_json::json!([]));
    assert!(!works(&seed, SILENCE));
}

/// An agent that is killed while it changes something loses no packet, and the next one goes on from what it finds.
#[test]
fn agents_are_killed_under_traffic() {
    let rounds = rounds(24);
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new("");
    let words = file.words("run");
    done(&seed.server, "add from 192.168.1.5 via 10.111.221.21 dev eth1");
    let heard = [&seed.gateway, &seed.router].map(|node| node.capture("eth0").unwrap());
    let flows: Vec<(IpAddr, IpAddr)> =
        (1..5).map(|last| (IPV4.service, IpAddr::from([203, 0, 113, last]))).collect();
    // While this is there, the next hop's device is an attachment as well.
    let second = "default via 10.111.221.21 metric 2000";
    let traffic = Traffic::default();
    let sent = thread::scope(|scope| {
        let ending = traffic.ending();
        let sender = scope.spawn(|| seed.server.run(|| traffic.send(&flows, Duration::from_millis(2))));
        for round in 0..rounds {
            let mut agent = Agent::start(&seed.server, &words);
            agent.says();
            if round % 2 == 0 {
                seed.server.route(second).unwrap();
            } else {
                seed.server.delete_route(second).unwrap();
            }
            // The moments are spread over the change and a little more.
            thread::sleep(Duration::from_millis(60) * round / rounds);
            agent.signal(SIGKILL);
            assert_eq!(agent.ends(), None);
        }
        drop(ending);
        sender.join().unwrap().unwrap()
    });
    let count = |nth: usize| {
        heard[nth]
            .count(|frame| frame.source() == Some(IPV4.service) && frame.destination() != Some(IPV4.client))
    };
    assert!(wait_until(ANSWER, || count(0) + count(1) == sent), "{} of {sent} arrived", count(0) + count(1));
    assert_eq!(count(0), 0, "packets have gone to the gateway");

    let attached = || {
        let all = json(&seed, "--json show")["attachments"].clone();
        let departures = all.as_array().unwrap().iter().filter(|it| it["role"] == "departure");
        departures.map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let _agent = Agent::start(&seed.server, &words);
    assert!(wait_until(ANSWER, || attached() == ["eth0"]), "{:?}", attached());
}

/// What happens while it is stopped, or to its pins, neither ends nor confuses it.
#[test]
fn an_agent_outlives_being_stopped_and_the_loss_of_its_pins() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let mut agent = Agent::start(&seed.server, &file.words("run"));
    agent.says();
    // What a byway removes stays away.
    for words in ["flush", "detach", &file.words("apply")] {
        done(&seed.server, words);
        seed.server.route("203.0.113.0/24 via 10.111.221.21").unwrap();
        assert!(agent.lines.recv_timeout(SILENCE).is_err());
        seed.server.delete_route("203.0.113.0/24").unwrap();
    }
    agent.signal(SIGSTOP);
    for (family, gateway) in [("-4", "10.111.221.21"), ("-6", "2001:db8:221::21")] {
        seed.server.delete_route(&format!("{family} default")).unwrap();
        seed.server.route(&format!("default via {gateway}")).unwrap();
    }
    assert!(agent.lines.recv_timeout(SILENCE).is_err());
    agent.signal(SIGCONT);
    assert_eq!(agent.says(), "detached from eth0, which carries no default route now");
    assert_eq!(agent.says(), "attached to eth1");
    assert!(works(&seed, ANSWER));

    let folder = format!("/sys/fs/bpf/byway/{}", pinned());
    std::fs::remove_dir_all(&folder).unwrap();
    // It looks at once, or in ten seconds.
    seed.server.route("198.51.100.0/24 via 10.111.221.21").unwrap();
    let applied = format!("applied {}: ", file.path.display());
    loop {
        let line = agent.says();
        if line.starts_with(&applied) {
            break;
        }
        // A filter keeps its program without any pin. The agent does not take off what may be somebody else's, and goes on once
        // it is off. There may be two: a change may have been on its way.
        let device = line.split_once(" carries a program of another byway").map(|(before, _)| before);
        if let Some(device) = device.and_then(|it| it.strip_prefix("byway: ")) {
            let detach = |name| qdisc_detach_program(device, TcAttachType::Egress, name).is_ok();
            seed.server.run(|| {
                for name in ["byway_departure", "byway_arrival"] {
                    while detach(name) {}
                }
            });
        }
    }
    assert_eq!(json(&seed, "--json show")["rules"].as_array().unwrap().len(), 1);
    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));
}

/// What keeps the configuration out of force may pass, and a note that nobody can read keeps nothing from being followed.
#[test]
fn an_agent_tries_again_and_goes_on_beside_trouble() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(&VIP.replace("eth1", "late").replace("10.111.221.21", "10.111.225.21"));
    let agent = Agent::start(&seed.server, &file.words("run --strict"));
    let said = agent.says();
    assert!(said.starts_with("byway: ") && said.contains("late"), "{said}");
    let second = seed.lab.node("second").unwrap();
    seed.lab.link((&seed.server, "late"), (&second, "eth0")).unwrap();
    seed.server.address("late", "10.111.225.11/24").unwrap();
    let applied = format!("applied {}: ", file.path.display());
    let said: Vec<String> =
        (0..8).map(|_| agent.says()).take_while(|line| !line.starts_with(&applied)).collect();
    assert!(said.len() < 8, "{said:?}");

    std::fs::write(format!("/run/byway/{}/unconfirmed", pinned()), "?").unwrap();
    for (family, gateway) in [("-4", "10.111.221.21"), ("-6", "2001:db8:221::21")] {
        seed.server.delete_route(&format!("{family} default")).unwrap();
        seed.server.route(&format!("default via {gateway}")).unwrap();
    }
    // It may have been following when the note was damaged, and then it complains later.
    let mut said: Vec<String> = (0..3).map(|_| agent.says()).collect();
    said.sort();
    assert_eq!(said[0], "attached to eth1");
    assert!(said[1].starts_with("byway: ") && said[1].contains("/unconfirmed"), "{said:?}");
    assert_eq!(said[2], "detached from eth0, which carries no default route now");
}

/// Asks the client, who is behind the next hop.
const CHECKED: &str = "
[[health-check]]
via = \"10.111.221.21\"
dev = \"eth1\"
ping = [\"10.111.222.11\", \"2001:db8:222::11\"]
interval = \"100ms\"
rise = 1
";

#[test]
fn an_agent_carries_out_health_checks() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(&(VIP.to_owned() + CHECKED));
    // Nobody is there to do it yet.
    let said = call(&seed.server, &file.words("apply"));
    let check = "+ health-check via 10.111.221.21 dev eth1 ping 10.111.222.11 2001:db8:222::11 interval 100ms fall 3 rise 1\n";
    assert!(said.out.contains(check), "{said:?}");
    assert_eq!(
        said.warnings,
        ["nobody carries out the health checks; `byway run` does, or byway-agent.service"]
    );
    let agent = Agent::start(&seed.server, &file.words("run"));
    assert_eq!(
        agent.says(),
        format!("applied {}: nothing to do: 1 rule is as the configuration says", file.path.display())
    );
    assert!(call(&seed.server, &file.words("apply")).warnings.is_empty());

    let next_hop = || json(&seed, "--json show")["nexthops"][0].clone();
    seed.client.set_up("eth0", false).unwrap();
    assert_eq!(
        agent.says(),
        "via 10.111.221.21 dev eth1 is out of service: none of 10.111.222.11, 2001:db8:222::11 has answered through it, 3 rounds in a row"
    );
    assert_eq!(next_hop()["state"], "unhealthy");
    let shown = call(&seed.server, "show nexthops");
    let sentence = "via 10.111.221.21 dev eth1 fails its health check (ping 10.111.222.11 2001:db8:222::11 interval 100ms fall 3 \
                    rise 1), so no packets go there";
    assert!(shown.out.contains(sentence), "{}", shown.out);
    let answer = call(&seed.server, "get from 192.168.1.5 to 10.111.222.11").out;
    assert!(answer.contains("next hop   via 10.111.221.21 dev eth1: fails its health check"), "{answer}");

    seed.client.set_up("eth0", true).unwrap();
    seed.client.route("default via 10.111.222.21").unwrap();
    assert_eq!(
        agent.says(),
        "via 10.111.221.21 dev eth1 is back in service: its health check was good, in a round"
    );
    assert_eq!(next_hop()["state"], "up");
    assert_eq!(next_hop()["health_check"]["interval_ms"], 100);
    assert!(works(&seed, ANSWER));

    // It goes with the configuration, and comes back with it.
    let exported = call(&seed.server, "export").out;
    assert!(exported.contains(CHECKED.split("rise").next().unwrap()), "{exported}");
    file.write(VIP);
    let said = call(&seed.server, &file.words("apply")).out;
    assert!(said.contains("- health-check via 10.111.221.21 dev eth1 ping"), "{said}");
    assert!(next_hop().get("health_check").is_none());
    let said = call(&seed.server, "rollback").out;
    assert!(said.contains(check), "{said}");
    assert_eq!(next_hop()["health_check"]["rise"], 1);
}

#[test]
fn an_agent_stands_in_for_the_default_gateway() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let agent = Agent::start(&seed.server, &file.words("run --guard-default-gateway"));
    assert!(agent.says().starts_with("applied "));
    assert!(works(&seed, ANSWER));
    seed.gateway.delete_address("eth0", "10.111.220.1/24").unwrap();
    seed.server.delete_neighbour("eth0", IPV4.gateway).unwrap();
    assert!(wait_until(ANSWER, || works(&seed, SILENCE)));
    let gateway = "default gateway 10.111.220.1 on eth0";
    assert_eq!(agent.says(), format!("stands in for the {gateway}, which does not answer"));
    seed.gateway.address("eth0", "10.111.220.1/24").unwrap();
    assert_eq!(agent.says(), format!("no longer stands in for the {gateway}"));
    assert!(works(&seed, ANSWER));
}

/// Sends bytes, and returns what comes back.
fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The status line and the text of an answer.
fn get(node: &Node, at: SocketAddr, path: &str) -> (String, String) {
    let stream = node.run(|| TcpStream::connect(at)).unwrap();
    let answer = ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())), "{head}");
    (head.lines().next().unwrap().to_owned(), text.to_owned())
}

#[test]
fn an_agent_says_over_http_how_it_is() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let at: SocketAddr = "127.0.0.1:9473".parse().unwrap();
    let mut agent = Agent::start(&seed.server, &file.words("run --http 127.0.0.1:9473"));
    agent.says();
    let connect = || seed.server.run(|| TcpStream::connect(at)).unwrap();
    let ok = "HTTP/1.1 200 OK";
    // Whoever asks for nothing keeps nobody else waiting.
    let idle = connect();
    let (status, text) = get(&seed.server, at, "/metrics");
    assert_eq!(status, ok);
    for line in ["byway_rules 1", "byway_agent_followed_total 0", "byway_agent_in_trouble 0"] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert_eq!(get(&seed.server, at, "/healthz?x=1"), (ok.to_owned(), "alive\n".to_owned()));
    assert_eq!(get(&seed.server, at, "/readyz"), (ok.to_owned(), "ready\n".to_owned()));
    let (status, text) = get(&seed.server, at, "/");
    assert_eq!(
        (status.as_str(), text.as_str()),
        ("HTTP/1.1 404 Not Found", "there is /metrics, /healthz and /readyz\n")
    );
    let head = ask(connect(), "HEAD /readyz HTTP/1.1\r\n\r\n");
    assert!(head.starts_with(ok) && head.ends_with("\r\n\r\n"), "{head:?}");
    let post = ask(connect(), "POST /metrics HTTP/1.1\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 "), "{post:?}");
    let garbage = ask(connect(), "\u{16}\u{3}\u{1}");
    assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage:?}");
    idle.shutdown(Shutdown::Both).unwrap();

    // What was asked for last is not in force, until it is.
    file.write("[[rule]]\n");
    agent.signal(SIGHUP);
    assert!(wait_until(ANSWER, || get(&seed.server, at, "/readyz").0 == "HTTP/1.1 503 Service Unavailable"));
    let (_, text) = get(&seed.server, at, "/readyz");
    assert!(text.contains(" error"), "{text}");
    let in_trouble = || get(&seed.server, at, "/metrics").1.contains("byway_agent_in_trouble 1\n");
    assert!(wait_until(ANSWER, in_trouble), "the metrics may be a second old");
    let elsewhere = ask(connect(), "GET /readyz HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert!(elsewhere.starts_with("HTTP/1.1 421 "), "{elsewhere:?}");
    seed.server.route("198.51.100.0/24 via 10.111.221.21").unwrap();
    file.write(VIP);
    agent.signal(SIGHUP);
    assert!(wait_until(ANSWER, || get(&seed.server, at, "/readyz").0 == ok));
    let taken = Agent::start(&seed.router, &file.words("run --http 10.111.221.21:80"));
    assert!(taken.says().contains("name a loopback address, like 127.0.0.1:9473"));
    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));

    // A socket that an agent has left is no reason not to begin.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http");
    for _ in 0..2 {
        let mut agent = Agent::start(&seed.server, &file.words(&format!("run --http {}", socket.display())));
        agent.says();
        let answer = ask(UnixStream::connect(&socket).unwrap(), "GET /healthz HTTP/1.1\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nalive\n"), "{answer}");
        agent.signal(SIGKILL);
        agent.ends();
    }
}
