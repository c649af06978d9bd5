//! Redirects one source to one next hop, shows what it did, and takes it back:
//!
//! ```text
//! cargo run --example redirect -- eth0 192.168.1.5 10.111.221.21 eth1
//! ```

use std::{env, error::Error, net::IpAddr, process::ExitCode, thread, time::Duration};

use byway::{Attach, Byway, NextHopSpec, Role, RuleSpec};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redirect: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [attach_to, source, gateway, device] = arguments.as_slice() else {
        return Err("usage: redirect ATTACH_TO SOURCE GATEWAY DEVICE".into());
    };
    let gateway: IpAddr = gateway.parse()?;
    let spec = RuleSpec::new(source.parse()?, NextHopSpec::via(gateway).dev(device));

    let mut byway = Byway::open()?;
    let attachments = byway.attachments()?;
    let was_attached =
        attachments.iter().any(|it| it.role == Role::Departure && it.device.name == *attach_to);
    byway.attach(&Attach::devices([attach_to]))?;
    // Whatever goes wrong from here on, leave nothing behind.
    let redirected = redirect(&mut byway, &spec);
    if !was_attached {
        byway.detach(&[attach_to])?;
    }
    Ok(redirected?)
}

fn redirect(byway: &mut Byway, spec: &RuleSpec) -> byway::Result<()> {
    let rule = byway.add(spec)?;
    println!("{rule}, for ten seconds");
    thread::sleep(Duration::from_secs(10));
    let status = byway.rule(&spec.selector);
    byway.del(&spec.selector)?;
    let status = status?;
    println!("{rule}: {} packets left, {} arrived", status.departed.packets, status.arrived.packets);
    Ok(())
}
