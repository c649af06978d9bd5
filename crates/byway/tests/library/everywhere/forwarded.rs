//! Sources behind the host: what it forwards is redirected like what it sends, and a service address is found where
//! routing cannot see it.

use std::net::SocketAddr;

use byway_lab::{
    Protocol,
    seed::{Addresses, IPV4, IPV6},
};

use crate::support::{ANSWER, SILENCE, all_arrived, backend::with_backend, hooks, on, pins, the_rule, via};

fn replies_of_a_forwarded_connection(addresses: Addresses, backend_address: &str, network: &str) {
    for hook in hooks() {
        let (seed, backend) = with_backend();
        let service = SocketAddr::new(backend_address.parse().unwrap(), 8080);
        seed.router.route(&format!("{network} via {}", addresses.server)).unwrap();
        let _service = backend.tcp_serve(service).unwrap();
        let call = |timeout| seed.client.tcp_echo(None, service, b"hello", timeout);

        call(SILENCE).expect_err("the reply is forwarded to the default gateway");
        on(&seed.server, *hook, |byway| byway.add(&via(network, addresses.router, "eth1"))).unwrap();
        assert_eq!(call(ANSWER).unwrap(), b"hello");
        let status = all_arrived(&seed.server);
        assert!(status.departed.packets > 0);
    }
}

#[test]
fn replies_of_a_forwarded_connection_over_ipv4() {
    replies_of_a_forwarded_connection(IPV4, "10.50.0.2", "10.50.0.0/24");
}

#[test]
fn replies_of_a_forwarded_connection_over_ipv6() {
    replies_of_a_forwarded_connection(IPV6, "2001:db8:50::2", "2001:db8:50::/64");
}

/// What kube-proxy makes of a service: the address is nobody's, requests to it are sent on to a backend, and the
/// source of a reply is the service address only after the reverse translation, behind routing.
fn a_service_address_after_reverse_nat(addresses: Addresses, backend_address: &str, default: &str) {
    for hook in hooks() {
        let (seed, backend) = with_backend();
        let (frontend, target) =
            (SocketAddr::new(addresses.service, 80), SocketAddr::new(backend_address.parse().unwrap(), 8080));
        let host = if addresses.service.is_ipv4() { 32 } else { 128 };
        seed.server.delete_address("lo", &format!("{}/{host}", addresses.service)).unwrap();
        seed.server.dnat(Protocol::Tcp, frontend, target).unwrap();
        let _service = backend.tcp_serve(target).unwrap();
        let call = |timeout| seed.client.tcp_echo(None, frontend, b"hello", timeout);

        call(SILENCE).expect_err("the reply follows the default route");
        // The classic cure looks at the source before the reverse translation, which is the backend's.
        seed.server.route(&format!("{default} via {} dev eth1 table 100", addresses.router)).unwrap();
        seed.server.rule(&format!("from {} lookup 100", addresses.service)).unwrap();
        call(SILENCE).expect_err("`ip rule from` does not catch the reply");

        let rule = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, *hook, |byway| byway.add(&rule)).unwrap();
        assert_eq!(call(ANSWER).unwrap(), b"hello", "byway sees the service address");
        assert!(the_rule(&seed.server).arrived.packets > 0);

        on(&seed.server, *hook, |byway| byway.del(&rule.selector)).unwrap();
        call(SILENCE).expect_err("the rule is gone");
        // The `ip rule` does work: for the source that it does see.
        seed.server.rule(&format!("from {backend_address} lookup 100")).unwrap();
        assert_eq!(call(ANSWER).unwrap(), b"hello");

        on(&seed.server, *hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}

#[test]
fn a_service_address_after_reverse_nat_over_ipv4() {
    a_service_address_after_reverse_nat(IPV4, "10.50.0.2", "default");
}

#[test]
fn a_service_address_after_reverse_nat_over_ipv6() {
    a_service_address_after_reverse_nat(IPV6, "2001:db8:50::2", "default");
}
