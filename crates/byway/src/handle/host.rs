//! What this host says about a configuration, and about its own policy routing. Needs no handle.

use std::collections::BTreeSet;

use crate::{
    config::{ActionSpec, Attach, Reading},
    error::Result,
    import::{Imported, translate},
    kernel::{ip_rules::policy, leaves, network::Network, pins::Pins, snapshot::without_rules},
    model::{Rule, Selector, Target},
    policy::{
        obstacles::{self, Facts, Obstacle, RULES_LOOKED_UP},
        snapshot::{Host, Questions},
    },
};

/// Adds warnings about this host to a reading, for the calling thread's network namespace: next hops that cannot be reached,
/// interfaces that do not exist, and strict `rp_filter` where requests come in. Returns what else would keep its rules from
/// doing their work: packets that would leave past all attachments, or never leave. On another host the configuration may be
/// right. Needs no privilege; with that of a change, it knows the attachments that there are.
///
/// # Errors
///
/// Those of the kernel.
pub fn lint_host(reading: &mut Reading) -> Result<Vec<Obstacle>> {
    let mut network = Network::open()?;
    let links = network.links()?;
    let mut questions = Questions::host_refs(reading.host_refs.iter().map(|(host_ref, _)| host_ref));
    questions.default_routes = true;
    let host = network.host(links, &questions, false)?;
    reading.lint_host(&host)?;
    let Some(config) = &reading.config else { return Ok(Vec::new()) };
    let redirected: Vec<(Selector, &ActionSpec)> = config.redirected().take(RULES_LOOKED_UP).collect();
    let selectors: Vec<Selector> = redirected.iter().map(|(selector, _)| *selector).collect();
    let facts = Facts {
        receivers: host.links.values().filter(|it| it.is_receiver()).map(|it| it.device.index).collect(),
        strict_rp_filter: host.strict_rp_filter.clone(),
        attached: would_attach(config.attach.as_ref(), &host, &mut network),
        leaves: leaves::leaves(&mut network, &selectors)?,
        devices: host.links.into_iter().map(|(index, link)| (index, link.device)).collect(),
        ..Facts::default()
    };
    // Next hops have been looked at with their places.
    let rule = |(selector, action): (Selector, &ActionSpec)| Rule {
        reply_to: action.reply_to,
        reply_to_dev: action.reply_to_dev.clone(),
        ..Rule::new(selector, Target::Drop)
    };
    let rules: Vec<Rule> = redirected.into_iter().map(rule).collect();
    Ok(obstacles::find(&rules, &facts))
}

/// Returns the devices that an apply would be attached to, as far as they can be seen.
fn would_attach(attach: Option<&Attach>, host: &Host, network: &mut Network) -> BTreeSet<u32> {
    if let Some(Attach::Devices(names)) = attach {
        return names.iter().filter_map(|name| Some(host.attachable(name).ok()?.index)).collect();
    }
    // Without `attach` the attachments stay as they are.
    if attach.is_none()
        && let Ok(Some(pins)) = Pins::open()
        && let Ok((actual, _)) = without_rules(&pins, network, &host.links, false)
    {
        let held = actual.as_desired();
        if held.asks_to_attach() {
            return held.attachments.into_keys().collect();
        }
    }
    host.default_gateway_devices().unwrap_or_default().iter().map(|it| it.index).collect()
}

/// Reads the policy routing of the calling thread's network namespace, of both families, and says it in Byway's words.
/// Changes nothing, and needs no privilege and no BPF.
///
/// # Errors
///
/// [`Error::Kernel`](crate::Error::Kernel) where the kernel does not list rules, routes or devices.
pub fn import() -> Result<Imported> {
    let mut network = Network::open()?;
    let links = network.links()?;
    let questions = Questions { rp_filter: true, ..Questions::default() };
    let host = network.host(links, &questions, false)?;
    Ok(translate(&policy(&mut network, &host)?))
}
