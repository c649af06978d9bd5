//! `cargo xtask fuzz-datapath`: sends many more packets through the differential test of the data path.

use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use clap::Args;

use crate::{run, workspace::Workspace};

/// Compare what the program does to random packets with a model
///
/// As root, since the packets go through the real program in network namespaces of their own.
#[derive(Args)]
pub(crate) struct FuzzDatapath {
    /// How many packets
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) packets: u64,
    /// Which packets: the same number makes the same ones. Every run has another unless it is given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

impl FuzzDatapath {
    pub(crate) fn exec(self) -> Result<()> {
        let seed = match self.seed {
            Some(seed) => seed,
            None => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.context("the clock is before 1970: give --seed")?.as_secs()
            }
        };
        let again = format!("cargo xtask fuzz-datapath --packets {} --seed {seed}", self.packets);
        println!("{again}");
        let mut cargo = Workspace::find()?.cargo();
        cargo
            // The test itself prints what it compared.
            .args([
                "test",
                "--release",
                "--package",
                "byway",
                "--test",
                "library",
                "--",
                "programs::differential",
                "--nocapture",
            ])
            .env("BYWAY_DIFFERENTIAL_PACKETS", self.packets.to_string())
            .env("BYWAY_DIFFERENTIAL_SEED", seed.to_string());
        let start = Instant::now();
        run::visibly(&mut cargo, &format!("The same packets again: {again}"))?;
        println!("{} packets compared in {:.0} s", self.packets, start.elapsed().as_secs_f64());
        Ok(())
    }
}
