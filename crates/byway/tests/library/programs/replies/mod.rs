//! Flows and their ways, packet by packet through the programs of ingress and egress.

mod differential;
mod flood;
mod model;

use std::path::Path;

use aya::{
    TestRunOptions,
    programs::{SchedClassifier, TestRun},
};
use byway_lab::{Node, seed::Seed};

use crate::support::{departure::UNSPEC, pins};

/// Length of `struct __sk_buff` (include/uapi/linux/bpf.h), and where the devices are in it.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// The seed's hosts with a second uplink.
fn two_uplinks() -> Seed {
    let seed = Seed::new().unwrap();
    seed.lab.link((&seed.server, "eth2"), (&seed.router, "eth2")).unwrap();
    seed
}

/// The programs of a server whose rules send replies back, and the devices that they run on. The kernel looks for those in the
/// network namespace of the caller.
struct Programs {
    reception: SchedClassifier,
    departure: SchedClassifier,
    departs_by: u32,
    /// The devices that requests come in by, with their Ethernet addresses.
    comes_in_by: [(u32, [u8; 6]); 2],
}

impl Programs {
    fn new(server: &Node) -> Self {
        let folder = pins().remove(0);
        let open = |name: &str| SchedClassifier::from_pin(Path::new(&folder).join(name)).unwrap();
        Self {
            reception: open("reception"),
            departure: open("departure"),
            departs_by: server.ifindex("eth0").unwrap(),
            comes_in_by: ["eth1", "eth2"]
                .map(|name| (server.ifindex(name).unwrap(), server.mac(name).unwrap())),
        }
    }

    /// A frame comes in by a device.
    fn comes_in(&self, device: usize, frame: &[u8]) {
        assert_eq!(Self::run(&self.reception, self.comes_in_by[device].0, frame).0, UNSPEC);
    }

    /// A frame is about to leave. Returns the verdict, and the beginning of the frame that it is then.
    fn leaves(&self, frame: &[u8]) -> (u32, [u8; 256]) {
        self.forwards(frame, 0)
    }

    /// The same of a frame that came in by the device with this ifindex.
    fn forwards(&self, frame: &[u8], ingress: u32) -> (u32, [u8; 256]) {
        Self::run_between(&self.departure, [ingress, self.departs_by], frame)
    }

    fn run(program: &SchedClassifier, ifindex: u32, frame: &[u8]) -> (u32, [u8; 256]) {
        Self::run_between(program, [0, ifindex], frame)
    }

    fn run_between(
        program: &SchedClassifier,
        [ingress, ifindex]: [u32; 2],
        frame: &[u8],
    ) -> (u32, [u8; 256]) {
        let mut context = [0; CONTEXT];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&ingress.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = [0; 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let verdict = program.test_run(options).unwrap().return_value;
        (verdict, out)
    }
}
