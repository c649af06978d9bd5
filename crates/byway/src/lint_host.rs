//! What this host says of a configuration, without privilege: what an apply would refuse here, and what keeps requests from
//! coming in.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
};

use crate::{
    config::{HostRef, Reading},
    error::{Error, Result},
    kernel::network::Network,
    model::{Target, TargetSpec},
    resolve::View,
};

/// Adds what is odd about a configuration on this host, in the calling thread's network namespace: next hops that cannot be
/// reached, interfaces that are not there, and strict `rp_filter` where requests come in. On another host it may be
/// right.
///
/// # Errors
///
/// Those of the kernel.
pub fn lint_host(reading: &mut Reading) -> Result<()> {
    let mut network = Network::open()?;
    let links = network.links()?;
    let mut view = View::new(&mut network, &links);
    // Of what is said many times each place is shown, but the host is asked once.
    let mut odd: HashMap<HostRef, Option<String>> = HashMap::new();
    let mut strict = BTreeSet::new();
    for (host_ref, place) in std::mem::take(&mut reading.host_refs) {
        let sentence = match odd.get(&host_ref) {
            Some(known) => known,
            None => {
                let found = look_at(&host_ref, &mut view, &mut strict)?;
                odd.entry(host_ref).or_insert(found)
            }
        };
        if let Some(sentence) = sentence {
            reading.warn(place, sentence);
        }
    }
    Ok(())
}

/// What is odd about something on this host, in a sentence. `strict` are the devices whose `rp_filter` has been said to be
/// strict.
fn look_at(host_ref: &HostRef, view: &mut View<'_>, strict: &mut BTreeSet<String>) -> Result<Option<String>> {
    let found = match host_ref {
        HostRef::Device(name) if !view.has(name) => Err(Error::NoSuchDevice(name.clone())),
        HostRef::Device(_) => return Ok(None),
        // Its device has been said to be missing.
        HostRef::NextHop(next_hop) if next_hop.device().is_some_and(|name| !view.has(name)) => {
            return Ok(None);
        }
        HostRef::NextHop(next_hop) => view.resolve(&TargetSpec::NextHop(next_hop.clone())),
        HostRef::Attach(name) => view.attachable(name).map(|_| Target::Pass),
        HostRef::AttachAuto => view.default_gateway_devices().map(|_| Target::Pass),
    };
    match found {
        Ok(Target::NextHop(next_hop)) => {
            let name = next_hop.device.name;
            if !has_strict_rp_filter(&name) || !strict.insert(name.clone()) {
                return Ok(None);
            }
            Ok(Some(format!(
                "{name} drops what comes in from where no route leads back by {name} (strict rp_filter), so that there may \
                 be nothing to answer; `sysctl {}=2` lets it in",
                sysctl(&name)
            )))
        }
        Ok(_) => Ok(None),
        Err(error) if error.is_bad_request() => Ok(Some(format!("on this host {}", error.sentence()))),
        Err(error) => Err(error),
    }
}

/// The setting's name. Where the device's has a dot, the parts stand between slashes (sysctl(8)).
fn sysctl(device: &str) -> String {
    let between = if device.contains('.') { "/" } else { "." };
    ["net", "ipv4", "conf", device, "rp_filter"].join(between)
}

/// Whether the larger one of the device's setting and that of all devices is 1 (ip-sysctl.rst, `rp_filter`).
fn has_strict_rp_filter(device: &str) -> bool {
    let setting = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    setting("all").max(setting(device)) == 1
}
