//! The verifier of this kernel takes the programs, and packets pass them, with an Ethernet header and without.

use std::{fs, path::Path};

use aya::programs::SchedClassifier;
use byway::Attach;
use byway_lab::seed::Seed;

use crate::support::{
    FAMILIES,
    devices::{Hosts, Kind, unless_lacking},
    hooks, on, pins,
    replies::replies,
};

fn is_verified(folder: &str, name: &str) {
    let program = SchedClassifier::from_pin(format!("{folder}/{name}")).unwrap();
    assert!(program.info().unwrap().size_translated().is_some_and(|bytes| bytes > 0), "{name}");
}

#[test]
fn programs_that_every_host_needs_are_loaded_and_verified() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        on(&seed.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        let folder = pins().remove(0);
        is_verified(&folder, "departure");
        is_verified(&folder, "arrival");
        for name in ["departure_l3", "arrival_l3", "reception", "reception_l3"] {
            assert!(!Path::new(&folder).join(name).exists(), "no device needs {name}");
        }
        on(&seed.server, *hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}

#[test]
fn programs_of_devices_without_ethernet_come_with_the_first_such_device() {
    let Some(hosts) = unless_lacking(Hosts::joined(Kind::Tun, Kind::Tun, false)) else { return };
    for hook in hooks() {
        let attach = |device: &str| {
            on(&hosts.server, *hook, |byway| byway.attach(&Attach::devices([device]))).unwrap();
            is_verified(&pins().remove(0), "departure_l3");
        };
        attach("tun0");
        let folder = pins().remove(0);
        assert!(!Path::new(&folder).join("arrival_l3").exists(), "no device needs it");
        fs::remove_file(format!("{folder}/departure_l3")).unwrap();
        attach("tun1");
        on(&hosts.server, *hook, |byway| byway.detach_all()).unwrap();

        attach("tun0");
        on(&hosts.server, *hook, |byway| byway.add(&replies("0.0.0.0/0"))).unwrap();
        let folder = pins().remove(0);
        is_verified(&folder, "reception_l3");
        is_verified(&folder, "arrival_l3");
        on(&hosts.server, *hook, |byway| byway.flush()).unwrap();
        on(&hosts.server, *hook, |byway| byway.detach_all()).unwrap();
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
