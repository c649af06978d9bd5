//! What an agent has to outlive under traffic, again and again.

use std::{
    fs,
    net::IpAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use byway_lab::{
    Direction, Frame, Traffic,
    seed::{IPV4, Seed},
    wait_until,
};
use nix::libc::{SIGHUP, SIGTERM};

use crate::support::{ANSWER, Agent, ConfigFile, SILENCE, VIP, done, json, rounds, works};

/// Between two packets of each flow.
const PAUSE: Duration = Duration::from_millis(2);

/// Nobody is there.
const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

fn is_of_service(frame: &Frame) -> bool {
    frame.direction == Direction::Incoming
        && (frame.source(), frame.destination()) == (Some(IPV4.service), Some(FAR))
}

/// How many descriptors a process has, and how much memory, in KiB.
fn size(process: u32) -> (usize, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = resident.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    (fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(), memory)
}

/// The least of that within a while: a change takes some for a moment.
fn least(process: u32) -> (usize, u64) {
    let begin = Instant::now();
    let mut least = size(process);
    while begin.elapsed() < SILENCE {
        let (files, memory) = size(process);
        least = (least.0.min(files), least.1.min(memory));
        thread::sleep(PAUSE);
    }
    least
}

/// The next hop's device is deleted and made anew, many times. Each time its packets come to the router again, and the agent does
/// not grow.
#[test]
fn a_device_is_made_anew_again_and_again() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(
        "attach = [\"eth0\"]\n[[rule]]\nfrom = \"192.168.1.5\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n\
         [[health-check]]\nvia = \"10.111.221.21\"\ndev = \"eth1\"\nneighbour = true\ninterval = \"50ms\"\n",
    );
    let mut agent = Agent::start(&seed.server, &file.words("run"));
    agent.says();
    let traffic = Traffic::default();
    thread::scope(|scope| {
        let _ending = traffic.ending();
        scope.spawn(|| seed.server.run(|| traffic.send(&[(IPV4.service, FAR)], PAUSE)));
        let mut first = None;
        for round in 0..rounds(24) {
            seed.server.delete_link("eth1").unwrap();
            // At some moments the agent has not seen yet that it is gone, and at others it has.
            thread::sleep(Duration::from_millis(13 * u64::from(round % 8)));
            seed.lab.link((&seed.server, "eth1"), (&seed.router, "eth0")).unwrap();
            let heard = seed.router.capture("eth0").unwrap();
            seed.router.address("eth0", "10.111.221.21/24").unwrap();
            seed.server.address("eth1", "10.111.221.11/24").unwrap();
            assert!(heard.wait_for(ANSWER, is_of_service).is_some(), "round {round}");
            if round == 3 {
                first = Some(least(agent.id()));
            }
        }
        let (before, mut after) = (first.unwrap(), (0, 0));
        // The last change may not be over yet.
        let has_not_grown = || {
            after = least(agent.id());
            after.0 <= before.0 + 4 && after.1 <= before.1 + 4_096
        };
        assert!(wait_until(ANSWER, has_not_grown), "{before:?} {after:?}");
    });
    let all = json(&seed, "--json show nexthops")["nexthops"].clone();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));
}

/// An agent that may open no more descriptors says so, leaves what is in force alone, and goes on once it may.
#[test]
fn an_agent_has_no_descriptor_to_spare() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let mut agent = Agent::start(&seed.server, &file.words("run"));
    agent.says();
    assert!(works(&seed, ANSWER));
    let allow = |files: usize| {
        let status = Command::new("prlimit")
            .args([format!("--pid={}", agent.id()), format!("--nofile={files}:")])
            .status();
        assert!(status.unwrap().success());
    };
    // Those that it has stay open.
    allow(3);
    file.write(&format!("{VIP}[[rule]]\nfrom = \"192.168.1.9\"\ntarget = \"drop\"\n"));
    agent.signal(SIGHUP);
    loop {
        let line = agent.says();
        if line.contains("Too many open files") {
            break;
        }
    }
    assert!(works(&seed, ANSWER));
    assert_eq!(json(&seed, "--json show")["rules"].as_array().unwrap().len(), 1);
    allow(1_024);
    agent.signal(SIGHUP);
    let applied = format!("applied {}: ", file.path.display());
    while !agent.says().starts_with(&applied) {}
    assert_eq!(json(&seed, "--json show")["rules"].as_array().unwrap().len(), 2);
    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));
}

/// The configuration is rewritten a hundred times a second, and is now and then no configuration at all. No packet of the rule
/// that stays goes elsewhere, and what is in force at last is what was written last.
#[test]
fn the_configuration_is_rewritten_all_the_time() {
    let seed = Seed::new().unwrap();
    let text = |last: u32| {
        format!(
            "attach = [\"eth0\"]\n[[rule]]\nfrom = \"192.168.1.5\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n\
             [[rule]]\nfrom = \"192.168.7.{last}\"\ntarget = \"drop\"\n"
        )
    };
    let file = ConfigFile::new(&text(0));
    let mut agent = Agent::start(&seed.server, &file.words("run"));
    agent.says();
    let heard = [&seed.gateway, &seed.router].map(|node| node.capture("eth0").unwrap());
    let traffic = Traffic::default();
    let times = rounds(400);
    let sent = thread::scope(|scope| {
        let ending = traffic.ending();
        let sender = scope.spawn(|| seed.server.run(|| traffic.send(&[(IPV4.service, FAR)], PAUSE)));
        for nth in 1..=times {
            let whole = text(nth % 200);
            // As an editor does, so that no half of a file is seen as one.
            let written = match nth % 10 {
                3 if nth != times => &whole[..whole.len() - 1 - nth as usize % 40],
                _ => &whole,
            };
            let new = file.path.with_extension("new");
            fs::write(&new, written).unwrap();
            fs::rename(&new, &file.path).unwrap();
            agent.signal(SIGHUP);
            thread::sleep(Duration::from_millis(10));
        }
        let last = format!("192.168.7.{}", times % 200);
        assert!(wait_until(ANSWER, || done(&seed.server, "-o show").contains(&last)));
        drop(ending);
        sender.join().unwrap().unwrap()
    });
    let counts = || heard.each_ref().map(|it| it.count(is_of_service));
    assert!(wait_until(ANSWER, || counts().iter().sum::<usize>() == sent), "{:?} of {sent}", counts());
    assert_eq!(counts()[0], 0, "packets have gone to the gateway");
    assert_eq!(json(&seed, "--json show")["rules"].as_array().unwrap().len(), 2);
    agent.signal(SIGTERM);
    assert_eq!(agent.ends(), Some(0));
}
