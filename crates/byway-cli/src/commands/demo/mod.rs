mod story;

use std::path::{Path, PathBuf};

use byway::Byway;
use byway_lab::{Lab, seed::Seed};
use clap::Args;
use serde_json::json;

use crate::{error::Error, output::Output};

/// The prefix of the hosts' names in a demo that stays.
const PREFIX: &str = "byway-demo";

/// See the problem and the cure on this machine
///
/// Builds a server, a router, a client and a default gateway that leads nowhere in network namespaces. Shows a connection
/// that fails, the rule that fixes it, and the counters. Touches nothing else on this machine, and leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway demo            see it
  byway demo --keep     see it, and look around in it afterwards
  byway demo --clean    remove what --keep has left")]
pub(crate) struct Demo {
    /// Leave the hosts up, and say how to look around
    #[arg(long, conflicts_with = "clean")]
    keep: bool,
    /// Remove the hosts that `--keep` has left up
    #[arg(long)]
    clean: bool,
}

impl Demo {
    pub(crate) fn exec(&self, json: bool) -> Result<Output, Error> {
        if self.clean {
            return clean();
        }
        if self.keep && kept_server().exists() {
            return Err(Error::DemoStays);
        }
        let seed = Seed::build(if self.keep { Lab::named(PREFIX)? } else { Lab::new()? })?;
        let told = story::tell(&seed, !json);
        if self.keep && matches!(&told, Ok(told) if told.is_as_expected()) {
            seed.lab.keep();
            story::look_around(&seed, !json);
        } else {
            sweep(seed.server.path())?;
            drop(seed);
            story::end(!json);
        }
        answer(told?)
    }
}

fn answer(told: story::Told) -> Result<Output, Error> {
    let exit_code = u8::from(!told.is_as_expected());
    Ok(Output { exit_code, ..Output::told(json!(told)) })
}

fn clean() -> Result<Output, Error> {
    if kept_server().exists() {
        sweep(&kept_server())?;
    }
    let removed = Lab::remove_named(PREFIX)?;
    let text = if removed.is_empty() {
        "nothing to remove".to_owned()
    } else {
        format!("removed {}", removed.join(", "))
    };
    Ok(Output::line(text, &removed))
}

/// The server that `--keep` leaves, as `ip netns` knows it.
fn kept_server() -> PathBuf {
    Path::new("/run/netns").join(format!("{PREFIX}-server"))
}

/// Takes Byway out of a host.
fn sweep(namespace: &Path) -> Result<(), Error> {
    let namespace = namespace.display().to_string();
    // Use another thread, so that this one stays in its namespace.
    let sweep = std::thread::spawn(move || {
        byway::enter_namespace(&namespace)?;
        let mut byway = Byway::open()?;
        byway.flush()?;
        byway.detach_all().map(drop)
    });
    match sweep.join() {
        Ok(swept) => Ok(swept?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
