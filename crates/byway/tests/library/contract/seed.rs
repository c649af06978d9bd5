//! The main job: replies from a service address are lost, then get through with a rule, then are lost without it.

use std::{io, net::SocketAddr, time::Duration};

use byway_lab::{
    seed::{Addresses, IPV4, IPV6, Seed},
    wait_until,
};

use crate::support::{ANSWER, SILENCE, all_arrived, hooks, on, pins, via};

const PORT: u16 = 30100;

#[derive(Clone, Copy)]
enum Traffic {
    Tcp,
    Udp,
    Icmp,
}

/// The client calls the service address, and gets an answer or does not.
fn call(seed: &Seed, traffic: Traffic, addresses: &Addresses, timeout: Duration) -> io::Result<()> {
    let service = SocketAddr::new(addresses.service, PORT);
    let said = b"hello".as_slice();
    let heard = match traffic {
        Traffic::Tcp => seed.client.tcp_echo(None, service, said, timeout)?,
        Traffic::Udp => seed.client.udp_echo(None, service, said, timeout)?,
        Traffic::Icmp => return seed.client.ping(None, addresses.service, timeout),
    };
    assert_eq!(heard, said);
    Ok(())
}

fn story(traffic: Traffic, addresses: Addresses) {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        let _tcp = seed.server.tcp_serve(SocketAddr::new(addresses.service, PORT)).unwrap();
        let _udp = seed.server.udp_serve(SocketAddr::new(addresses.service, PORT)).unwrap();
        let lost = seed.gateway.capture("eth0").unwrap();

        call(&seed, traffic, &addresses, SILENCE).expect_err("the reply goes to the default gateway");
        let is_reply = |frame: &byway_lab::Frame| frame.source() == Some(addresses.service);
        assert!(lost.wait_for(ANSWER, is_reply).is_some(), "the reply should have gone to the gateway");

        let spec = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, *hook, |byway| byway.add(&spec)).unwrap();
        call(&seed, traffic, &addresses, ANSWER).expect("the reply goes to the router");
        let status = all_arrived(&seed.server);
        assert!(status.departed.packets > 0, "{status:?}");

        on(&seed.server, *hook, |byway| byway.del(&spec.selector)).unwrap();
        let at_gateway = lost.count(is_reply);
        call(&seed, traffic, &addresses, SILENCE).expect_err("the rule is gone");
        assert!(wait_until(ANSWER, || lost.count(is_reply) > at_gateway), "the reply should go there again");

        on(&seed.server, *hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}

#[test]
fn tcp_over_ipv4() {
    story(Traffic::Tcp, IPV4);
}

#[test]
fn tcp_over_ipv6() {
    story(Traffic::Tcp, IPV6);
}

#[test]
fn udp_over_ipv4() {
    story(Traffic::Udp, IPV4);
}

#[test]
fn udp_over_ipv6() {
    story(Traffic::Udp, IPV6);
}

#[test]
fn icmp_over_ipv4() {
    story(Traffic::Icmp, IPV4);
}

#[test]
fn icmp_over_ipv6() {
    story(Traffic::Icmp, IPV6);
}
