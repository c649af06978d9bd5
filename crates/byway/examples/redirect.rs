//! Redirects one source to one next hop, shows what it did, and takes it back:
//!
//! ```text
//! cargo run --example redirect -- eth0 192.168.1.5 10.111.221.21 eth1
//! ```

use std::{env, error::Error, net::IpAddr, thread, time::Duration};

use byway::{Byway, Mss, NextHopSpec, OnDown, Owner, RuleSpec, Selector, TargetSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [attach_to, source, gateway, device] = arguments.as_slice() else {
        return Err("usage: redirect ATTACH_TO SOURCE GATEWAY DEVICE".into());
    };
    let selector: Selector = source.parse()?;
    let gateway: IpAddr = gateway.parse()?;

    let mut byway = Byway::open()?;
    byway.attach(&[attach_to])?;
    let target = TargetSpec::NextHop(NextHopSpec::ViaDev(gateway, device.clone()));
    let rule = byway.add(&RuleSpec {
        selector,
        target,
        on_down: OnDown::Pass,
        mss: Mss::Auto,
        owner: Owner::API,
        name: None,
    })?;
    println!("{rule}, for ten seconds");

    thread::sleep(Duration::from_secs(10));
    for status in byway.rules()? {
        println!(
            "{}: {} packets left, {} arrived",
            status.rule, status.departed.packets, status.arrived.packets
        );
    }
    byway.del(&selector)?;
    byway.detach(&[attach_to])?;
    Ok(())
}
