//! A minute with a dead member: what the contract's test of the same sees in a second.

use std::{thread, time::Duration};

use crate::{
    contract::liveness::{DEATHS, group, neighbours_are_told_apart, no_connection_is_late, nothing_is_lost},
    support::{FAMILIES, any_hook, on, routers::Routers},
};

#[test]
fn a_dead_member_costs_nobody_a_packet_for_a_minute() {
    thread::scope(|scope| {
        for v6 in FAMILIES {
            for death in DEATHS {
                scope.spawn(move || {
                    let hosts = Routers::new(v6);
                    let spec = group(&hosts);
                    on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
                    let (second, ten) = (Duration::from_secs(1), Duration::from_secs(10));
                    nothing_is_lost(death, &hosts, &[(second, 10), (ten, 5)]);
                });
            }
        }
    });
}

#[test]
fn a_dead_member_costs_no_connection_a_second_for_a_minute() {
    thread::scope(|scope| {
        for death in DEATHS {
            scope.spawn(move || no_connection_is_late(any_hook(), true, death, (12, Duration::from_secs(5))));
        }
    });
}

/// Longer than it takes until a device that says nothing counts as dead.
#[test]
fn one_neighbours_long_silence_is_nobody_elses() {
    thread::scope(|scope| {
        for v6 in FAMILIES {
            for dead in [1, 25] {
                scope.spawn(move || {
                    neighbours_are_told_apart(any_hook(), v6, dead, (12, Duration::from_secs(1)))
                });
            }
        }
    });
}
