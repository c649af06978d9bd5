//! What is tested with what: the hooks of this kernel, and the families of addresses. Chosen here, once.

use std::{env, iter, sync::LazyLock, thread};

use byway::{Attach, Error, Hook};
use byway_lab::{
    Lab,
    seed::{Addresses, IPV4, IPV6},
};

use super::on;

/// IPv4 and IPv6, by whether it is IPv6.
pub(crate) const FAMILIES: [bool; 2] = [false, true];

/// The same, by the addresses of the seed.
pub(crate) const ADDRESSES: [Addresses; 2] = [IPV4, IPV6];

/// The hooks of this kernel: tcx came with Linux 6.6, clsact is everywhere. `BYWAY_HOOK` names the only one to test, where
/// another kernel has its turn with the other.
pub(crate) fn hooks() -> &'static [Hook] {
    static HOOKS: LazyLock<Vec<Hook>> = LazyLock::new(|| {
        let mut hooks = vec![Hook::Tcx, Hook::Clsact];
        if let Ok(name) = env::var("BYWAY_HOOK") {
            hooks.retain(|hook| hook.to_string() == name);
            assert!(!hooks.is_empty(), "BYWAY_HOOK is {name}; it may be tcx or clsact");
        }
        if hooks.contains(&Hook::Tcx) && !has_tcx() {
            hooks.retain(|hook| *hook != Hook::Tcx);
            println!("this kernel has no tcx: what follows is tested with clsact alone");
            assert!(!hooks.is_empty(), "there is nothing to test");
        }
        hooks
    });
    &HOOKS
}

/// One of them, where it does not matter which.
pub(crate) fn any_hook() -> Hook {
    hooks()[0]
}

/// Each hook with each family.
pub(crate) fn hooks_and_families() -> impl Iterator<Item = (Hook, bool)> {
    hooks().iter().flat_map(|hook| iter::repeat(*hook).zip(FAMILIES))
}

/// The same, with the addresses of the seed.
pub(crate) fn hooks_and_addresses() -> impl Iterator<Item = (Hook, Addresses)> {
    hooks().iter().flat_map(|hook| iter::repeat(*hook).zip(ADDRESSES))
}

fn has_tcx() -> bool {
    // In a thread of its own: a lab changes the thread that makes it.
    let attach = || {
        let lab = Lab::new().unwrap();
        let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
        lab.link((&a, "eth0"), (&b, "eth0")).unwrap();
        match on(&a, Hook::Tcx, |byway| byway.attach(&Attach::devices(["eth0"]))) {
            Ok(_) => true,
            Err(Error::Unsupported { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    thread::spawn(attach).join().unwrap()
}
