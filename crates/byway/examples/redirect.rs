//! Redirects one source to one next hop, shows what it did, and takes it back:
//!
//! ```text
//! cargo run --example redirect -- eth0 192.168.1.5 10.111.221.21 eth1
//! ```

use std::{env, error::Error, net::IpAddr, thread, time::Duration};

use byway::{Attach, Byway, NextHopSpec, RuleSpec, Selector};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [attach_to, source, gateway, device] = arguments.as_slice() else {
        return Err("usage: redirect ATTACH_TO SOURCE GATEWAY DEVICE".into());
    };
    let selector: Selector = source.parse()?;
    let gateway: IpAddr = gateway.parse()?;

    let mut byway = Byway::open()?;
    byway.attach(&Attach::devices([attach_to]))?;
    let next_hop = NextHopSpec::via(gateway).dev(device);
    let rule = byway.add(&RuleSpec::new(selector, next_hop))?;
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
