//! One file a command, with a small struct that has one `exec`. What several share is in `open.rs`, `rule.rs`, `file.rs` and `answer.rs`.

mod add;
mod answer;
mod apply;
mod attach;
mod batch;
mod check;
mod complete;
mod completion;
mod confirm;
mod del;
#[cfg(feature = "demo")]
mod demo;
mod detach;
mod diff;
mod export;
mod file;
mod flow;
mod flush;
mod gc;
mod get;
mod group;
mod guard;
mod import;
#[cfg(feature = "man")]
mod man;
mod metrics;
mod nexthop;
mod open;
mod replace;
mod rollback;
mod rule;
mod run;
mod show;

use std::path::Path;

use byway::Byway;
use clap::Subcommand;

use crate::{error::Error, options::Options, output::Output, render};

/// The commands. Where several begin with what is typed, the first one is meant.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(add::Add),
    #[command(visible_aliases = ["change", "chg"])]
    Replace(replace::Replace),
    #[command(visible_alias = "delete")]
    Del(del::Del),
    #[command(visible_aliases = ["list", "ls", "lst"])]
    Show(show::Show),
    Flush(flush::Flush),
    Group(group::Group),
    Get(get::Get),
    Gc(gc::Gc),
    Nexthop(nexthop::Nexthop),
    Flow(flow::Flow),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Check(check::Check),
    Diff(diff::Diff),
    Apply(apply::Apply),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    Run(run::Run),
    Export(export::Export),
    Guard(guard::Guard),
    Import(import::Import),
    Metrics(metrics::Metrics),
    Completion(completion::Completion),
    Complete(complete::Complete),
    #[cfg(feature = "man")]
    Man(man::Man),
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
}

impl Command {
    /// Does the work, and says whether an apply is still waiting to be confirmed.
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut output = self.work(options)?;
        if self.edits() || matches!(self, Self::Group(_) | Self::Diff(_) | Self::Show(_)) {
            say_if_unconfirmed(&mut output);
        }
        Ok(output)
    }

    /// Whether it changes something, and prints what it has changed after that.
    pub(crate) fn changes(&self) -> bool {
        self.edits()
            || matches!(
                self,
                Self::Apply(_) | Self::Confirm(_) | Self::Rollback(_) | Self::Guard(_) | Self::Gc(_)
            )
    }

    /// Whether it changes something by hand.
    fn edits(&self) -> bool {
        match self {
            Self::Add(_)
            | Self::Replace(_)
            | Self::Del(_)
            | Self::Flush(_)
            | Self::Nexthop(_)
            | Self::Attach(_)
            | Self::Detach(_) => true,
            Self::Group(group) => group.changes(),
            Self::Flow(flow) => flow.changes(),
            _ => false,
        }
    }

    fn work(&self, options: &Options) -> Result<Output, Error> {
        match self {
            Self::Add(command) => command.exec(options),
            Self::Replace(command) => command.exec(options),
            Self::Del(command) => command.exec(options),
            Self::Show(command) => command.exec(options),
            Self::Get(command) => command.exec(options),
            Self::Gc(command) => command.exec(options),
            Self::Flush(command) => command.exec(options),
            Self::Group(command) => command.exec(options),
            Self::Nexthop(command) => command.exec(options),
            Self::Flow(command) => command.exec(options),
            Self::Attach(command) => command.exec(options),
            Self::Detach(command) => command.exec(options),
            Self::Check(command) => command.exec(options),
            Self::Diff(command) => command.exec(options),
            Self::Apply(command) => command.exec(options),
            Self::Confirm(command) => command.exec(options),
            Self::Rollback(command) => command.exec(options),
            Self::Run(command) => command.exec(options),
            Self::Export(command) => command.exec(options),
            Self::Guard(command) => command.exec(options),
            Self::Import(command) => command.exec(),
            Self::Metrics(command) => command.exec(options),
            Self::Completion(command) => command.exec(options),
            Self::Complete(command) => command.exec(options),
            #[cfg(feature = "man")]
            Self::Man(command) => command.exec(),
            #[cfg(feature = "demo")]
            Self::Demo(command) => command.exec(options.json),
        }
    }
}

/// Makes the changes that a file lists, all in one instant.
pub(crate) fn batch(file: &Path, options: &Options) -> Result<Output, Error> {
    let mut output = batch::exec(file, options)?;
    say_if_unconfirmed(&mut output);
    Ok(output)
}

fn say_if_unconfirmed(output: &mut Output) {
    if let Ok(Some(left)) = Byway::open().and_then(|byway| byway.unconfirmed()) {
        output.warnings.push(render::unconfirmed(left));
    }
}
