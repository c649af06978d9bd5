//! The departure program, run on crafted packets (BPF_PROG_TEST_RUN).

use std::{path::Path, sync::Mutex};

use aya::{
    TestRunOptions,
    programs::{ProgramError, SchedClassifier, TestRun},
};
use byway_lab::Node;

use super::{pins, proven::Proven};

/// `TC_ACT_UNSPEC`, -1
pub(crate) const UNSPEC: u32 = u32::MAX;
/// `TC_ACT_SHOT`
pub(crate) const SHOT: u32 = 2;
/// `TC_ACT_REDIRECT`
pub(crate) const REDIRECT: u32 = 7;

/// Length of `struct __sk_buff` (include/uapi/linux/bpf.h), and where some of its fields are.
const CONTEXT: usize = 192;
const IFINDEX: usize = 40;
const CB: usize = 48;

/// The program as it runs on an attachment of a node.
pub(crate) struct Departure {
    program: SchedClassifier,
    node: Node,
    ifindex: u32,
    proven: Mutex<Proven>,
}

/// What a run left.
pub(crate) struct Ran {
    pub(crate) verdict: u32,
    /// The packet as it is now.
    pub(crate) frame: Vec<u8>,
    /// `skb->cb`
    pub(crate) cb: [u32; 5],
}

impl Departure {
    /// The program of the only pins there are.
    pub(crate) fn on(node: &Node, device: &str) -> Self {
        Self::of(&pins().remove(0), node, device)
    }

    /// The program that is pinned in a folder.
    pub(crate) fn of(folder: &str, node: &Node, device: &str) -> Self {
        let program = SchedClassifier::from_pin(format!("{folder}/departure")).unwrap();
        let proven = Mutex::new(Proven::open(Path::new(folder)));
        Self { program, node: node.clone(), ifindex: node.ifindex(device).unwrap(), proven }
    }

    /// Lets a packet through the program.
    pub(crate) fn run(&self, frame: &[u8]) -> Ran {
        self.try_run(frame, 1).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()))
    }

    /// Lets one packet through the program several times, one after the other. Three runs of a packet that is redirected are
    /// its departure, another redirect since its addresses have not changed, and its arrival.
    pub(crate) fn run_thrice(&self, frame: &[u8]) -> Ran {
        self.try_run(frame, 3).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()))
    }

    /// Lets a packet through the program, unless the kernel makes none of the bytes.
    pub(crate) fn try_run(&self, frame: &[u8], times: u32) -> Result<Ran, ProgramError> {
        self.proven.lock().unwrap().prove_all();
        // The kernel looks for the device in the network namespace of the caller.
        self.node.run(|| self.run_here(frame, times))
    }

    /// Lets packet after packet through the program, and returns the verdicts.
    pub(crate) fn run_in_a_row(&self, frame: &[u8], packets: usize) -> Vec<u32> {
        (0..packets).map(|_| self.run(frame).verdict).collect()
    }

    fn run_here(&self, frame: &[u8], times: u32) -> Result<Ran, ProgramError> {
        let mut context = [0; CONTEXT];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.ifindex.to_ne_bytes());
        let (mut out, mut context_out) = (vec![0; frame.len() + 256], [0; CONTEXT]);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            repeat: times,
            ..TestRunOptions::default()
        };
        let result = self.program.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        let word = |nth: usize| {
            let at = CB + 4 * nth;
            u32::from_ne_bytes(context_out[at..at + 4].try_into().unwrap())
        };
        Ok(Ran { verdict: result.return_value, frame: out, cb: std::array::from_fn(word) })
    }
}
