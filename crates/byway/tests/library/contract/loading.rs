//! The verifier of this kernel takes the programs, and packets pass them, with an Ethernet header and without.

use aya::programs::SchedClassifier;
use byway::Attach;
use byway_lab::seed::Seed;

use crate::support::{
    FAMILIES,
    devices::{Hosts, Kind, unless_lacking},
    hooks, on, pins,
};

#[test]
fn all_programs_are_loaded_and_verified() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        on(&seed.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        let folder = pins().remove(0);
        for name in ["departure", "arrival", "departure_l3", "arrival_l3"] {
            let program = SchedClassifier::from_pin(format!("{folder}/{name}")).unwrap();
            assert!(program.info().unwrap().size_translated().is_some_and(|bytes| bytes > 0), "{name}");
        }
        on(&seed.server, *hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}

#[test]
fn from_one_device_without_ethernet_to_another() {
    for v6 in FAMILIES {
        let Some(hosts) = unless_lacking(Hosts::joined(Kind::Tun, Kind::Tun, v6)) else { return };
        for hook in hooks() {
            hosts.tell(*hook, &hosts.via());
            // There is one at the other end and no more: nobody has to be named.
            hosts.tell(*hook, &hosts.dev());
        }
    }
}
