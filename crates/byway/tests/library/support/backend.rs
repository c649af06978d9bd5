//! The seed with a host behind the server, for which the server forwards.

use byway_lab::{Node, seed::Seed};

/// A network behind the server, in each family.
const BEHIND: [(&str, &str, &str); 2] = [
    ("10.50.0.1/24", "10.50.0.2/24", "default via 10.50.0.1"),
    ("2001:db8:50::1/64", "2001:db8:50::2/64", "default via 2001:db8:50::1"),
];

/// The seed with a backend behind the server.
pub(crate) fn with_backend() -> (Seed, Node) {
    let seed = Seed::new().unwrap();
    let backend = seed.lab.node("backend").unwrap();
    seed.lab.link((&seed.server, "eth2"), (&backend, "eth0")).unwrap();
    for (server, address, route) in BEHIND {
        seed.server.address("eth2", server).unwrap();
        backend.address("eth0", address).unwrap();
        backend.route(route).unwrap();
    }
    seed.server.forwarding().unwrap();
    (seed, backend)
}
