//! What this host says of a configuration, without privilege: what an apply would refuse here, and what keeps requests from
//! coming in.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
};

use crate::{
    config::{Mention, Reading},
    error::Result,
    kernel::network::Network,
    resolve::View,
    rule::{Target, TargetSpec},
};

/// Adds what is odd about a configuration on this host, in the calling thread's network namespace: next hops that cannot be
/// reached, interfaces that are not there, and strict `rp_filter` where requests come in. On another host it may be
/// right.
///
/// # Errors
///
/// Those of the kernel.
pub fn look_at_host(reading: &mut Reading) -> Result<()> {
    let mut network = Network::open()?;
    let links = network.links()?;
    let mut view = View { network: &mut network, links: &links, trusts: false };
    let (mut strict, mut seen) = (BTreeSet::new(), HashSet::new());
    for (mention, place) in std::mem::take(&mut reading.mentions) {
        if !seen.insert(mention.clone()) {
            continue;
        }
        let found = match &mention {
            Mention::NextHop(next_hop) => view.resolve(&TargetSpec::NextHop(next_hop.clone())),
            Mention::Attach(name) => view.attachable(name).map(|_| Target::Pass),
            Mention::AttachAuto => view.default_gateway_devices().map(|_| Target::Pass),
        };
        match found {
            Ok(Target::NextHop(next_hop)) => {
                let name = next_hop.device.name;
                if has_strict_rp_filter(&name) && strict.insert(name.clone()) {
                    let sentence = format!(
                        "{name} drops what comes in from where no route leads back by {name} (strict rp_filter), \
                         so that there may be nothing to answer; `sysctl net.ipv4.conf.{name}.rp_filter=2` lets it in"
                    );
                    reading.warn(place, &sentence);
                }
            }
            Ok(_) => {}
            Err(error) if error.is_bad_request() => reading.warn(place, &format!("on this host {error}")),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the larger one of the device's setting and that of all devices is 1 (ip-sysctl.rst, `rp_filter`).
fn has_strict_rp_filter(device: &str) -> bool {
    let setting = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    setting("all").max(setting(device)) == 1
}
