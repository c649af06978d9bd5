//! A gigabyte over TCP, with segmentation offload on, arrives intact.

use std::{net::SocketAddr, time::Duration};

use byway_lab::seed::Seed;

use crate::support::{all_arrived, hooks_and_addresses, on, via};

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
