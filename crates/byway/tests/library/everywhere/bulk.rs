//! Much over TCP, with segmentation offload on, arrives intact.

use std::{net::SocketAddr, time::Duration};

use byway::Hook;
use byway_lab::seed::{Addresses, IPV4, IPV6, Seed};

use crate::support::{all_arrived, hooks, hooks_and_addresses, lacking_before, on, via};

const BYTES: u64 = 1_000_000_000;

#[test]
fn a_gigabyte_arrives_intact() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        on(&seed.server, hook, |byway| {
            byway.add(&via(&addresses.service.to_string(), addresses.router, "eth1")).unwrap();
        });
        let service = SocketAddr::new(addresses.service, 30100);
        let _service = seed.server.tcp_bulk_serve(service).unwrap();
        let bulk = seed.client.tcp_bulk(service, BYTES, Duration::from_secs(300)).unwrap();
        assert_eq!(bulk.bytes, BYTES);

        let status = all_arrived(&seed.server);
        println!("{hook}, {}: {:.1} Gbit/s, {status:?}", addresses.service, bulk.bits_per_second() / 1e9);
        assert!(status.departed.bytes > BYTES);
        // Segments of at most 1,500 bytes are counted, not the packets that carry 64 kB of them.
        assert!(status.departed.packets >= BYTES / 1_500, "{status:?}");
    }
}

/// Packets that carry more than 65,535 bytes ("BIG TCP"). Over IPv6 they have a header that none of their segments has.
#[test]
fn big_tcp_over_ipv4_is_not_too_big() {
    hooks().iter().for_each(|hook| big_tcp_is_not_too_big(*hook, IPV4));
}

#[test]
fn big_tcp_over_ipv6_is_not_too_big() {
    hooks().iter().for_each(|hook| big_tcp_is_not_too_big(*hook, IPV6));
}

fn big_tcp_is_not_too_big(hook: Hook, addresses: Addresses) {
    const BYTES: u64 = 10_000_000;
    for size in [200_000, 500_000] {
        let seed = Seed::new().unwrap();
        for (node, device) in [
            (&seed.server, "eth0"),
            (&seed.server, "eth1"),
            (&seed.router, "eth0"),
            (&seed.router, "eth1"),
            (&seed.client, "eth0"),
            (&seed.gateway, "eth0"),
        ] {
            match node.set_gso_max_size(device, size) {
                Ok(false) if addresses.service.is_ipv4() => {
                    return lacking_before("BIG TCP over IPv4", [6, 3]);
                }
                Ok(_) => {}
                Err(error) => {
                    println!("{error}");
                    return lacking_before("BIG TCP", [5, 19]);
                }
            }
        }
        on(&seed.server, hook, |byway| {
            byway.add(&via(&addresses.service.to_string(), addresses.router, "eth1")).unwrap();
        });
        let service = SocketAddr::new(addresses.service, 30100);
        let heard = seed.router.capture("eth0").unwrap();
        let _service = seed.server.tcp_bulk_serve(service).unwrap();
        let bulk = seed.client.tcp_bulk(service, BYTES, Duration::from_secs(60)).unwrap();
        assert_eq!(bulk.bytes, BYTES);
        let status = all_arrived(&seed.server);
        assert_eq!(
            (status.icmp_sent.packets, status.too_big_dropped.packets),
            (0, 0),
            "{hook}, {size}: {status:?}"
        );
        let largest = heard.frames().iter().map(|frame| frame.bytes.len()).max();
        assert!(largest > Some(0xFFFF), "{hook}, {size}: none was big: {largest:?}");
    }
}
