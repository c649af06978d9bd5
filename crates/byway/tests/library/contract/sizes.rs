//! What is too big for its next hop is answered, TCP asks for smaller segments, and senders take both at their word.

use byway_lab::{Direction, Frame, seed::Seed, wait_until};

use crate::support::{
    ANSWER, hooks_and_addresses, on,
    packet::mss,
    sockets::{Discovery, bound, known_mtu, set_discovery},
    the_rule, via,
};

const NARROW: u32 = 1_280;

#[test]
fn an_mss_is_clamped_and_a_packet_answered() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        seed.router.set_mtu("eth0", NARROW).unwrap();
        seed.server.set_mtu("eth1", NARROW).unwrap();
        let rule = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, hook, |byway| byway.add(&rule)).unwrap();

        let service = seed.server.tcp_serve((addresses.service, 30_100).into()).unwrap();
        let client_hears = seed.client.capture("eth0").unwrap();
        let said = seed.client.tcp_echo(None, service.address(), b"hello", ANSWER);
        assert_eq!(said.unwrap(), b"hello");
        let is_it = |frame: &Frame| frame.direction == Direction::Incoming && mss(frame).is_some();
        let answered = client_hears.wait_for(ANSWER, is_it).expect("the service answers");
        let headers = if addresses.service.is_ipv4() { 40 } else { 60 };
        assert_eq!(mss(&answered), Some(NARROW as u16 - headers), "{hook} {}", addresses.service);
        assert_eq!(the_rule(&seed.server).clamped.packets, 1);

        let sender = bound(&seed.server, addresses.service);
        set_discovery(&sender, addresses.service.is_ipv6(), Discovery::Want);
        sender.send_to(&[0; 1_400], (addresses.client, 9)).unwrap();
        let learns = || known_mtu(&seed.server, addresses.service, addresses.client) == NARROW;
        assert!(wait_until(ANSWER, learns), "{hook}: {:?}", the_rule(&seed.server));
        let status = the_rule(&seed.server);
        assert_eq!((status.icmp_sent.packets, status.too_big_dropped.packets), (1, 0), "{status:?}");
    }
}
