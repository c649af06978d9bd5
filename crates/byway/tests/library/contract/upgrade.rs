//! Another build of Byway finds the programs of an older one: it puts its own in their place, over the same maps.

use byway::Attach;
use std::net::SocketAddr;

use aya::{
    maps::{Array, Map, MapData},
    programs::SchedClassifier,
};
use byway_lab::seed::{IPV4, Seed};

use crate::support::{ANSWER, hooks, on, pins, the_rule, via};

#[test]
fn programs_are_replaced_and_rules_and_counters_stay() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        let service = SocketAddr::new(IPV4.service, 30100);
        let _service = seed.server.tcp_serve(service).unwrap();
        on(&seed.server, *hook, |byway| byway.add(&via("192.168.1.5", IPV4.router, "eth1"))).unwrap();
        assert_eq!(seed.client.tcp_echo(None, service, b"hello", ANSWER).unwrap(), b"hello");
        let counted = || the_rule(&seed.server).departed.packets;
        let before = counted();
        let folder = pins().remove(0);
        let id =
            |name: &str| SchedClassifier::from_pin(format!("{folder}/{name}")).unwrap().info().unwrap().id();
        let old = (id("departure"), id("arrival"));

        // What another build has left, as its fingerprint says (`META`, slot 3).
        let meta = Map::from_map_data(MapData::from_pin(format!("{folder}/META")).unwrap()).unwrap();
        let mut meta: Array<_, u32> = meta.try_into().unwrap();
        meta.set(3, 0, 0).unwrap();
        // Looking changes nothing; the next change renews the programs, whatever it is.
        assert!(counted() >= before);
        assert_eq!((id("departure"), id("arrival")), old);
        on(&seed.server, *hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        assert_ne!(id("departure"), old.0);
        assert_ne!(id("arrival"), old.1);

        assert!(counted() >= before, "the counters stay");
        let attachments = on(&seed.server, *hook, |byway| byway.attachments()).unwrap();
        assert!(attachments.iter().all(|attachment| attachment.is_installed), "{attachments:?}");
        assert_eq!(seed.client.tcp_echo(None, service, b"again", ANSWER).unwrap(), b"again");
        assert!(counted() > before);
    }
}
