use clap::Args;

use super::open::open;
use crate::{error::Error, options::Options, output::Output, render::count};

/// Remove what deleted network namespaces have left
///
/// Their pins take memory and do nothing. Every change removes them too. Leaves alone what belongs to a network namespace that
/// still exists, whether a process, a mount or a socket keeps it alive.
#[derive(Debug, Args)]
pub(crate) struct Gc {}

impl Gc {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let found = open(options)?.gc()?;
        let removed = count(found.removed.len() as u64, "deleted network namespace");
        let mut text = match found.removed.len() {
            0 => "nothing to remove: no deleted network namespace has left anything".to_owned(),
            1 => format!("removed what {removed} has left"),
            _ => format!("removed what {removed} have left"),
        };
        for unknown in &found.unknown {
            let path = unknown.path.display();
            text += &format!(
                "\nleft alone: {path}, since nobody knows whether its network namespace exists: {}",
                unknown.reason
            );
        }
        let done = found.removed.is_empty().then(String::new);
        Ok(Output { done, ..Output::line(text, &found) })
    }
}
