//! One file a command. Each is a small struct with one `exec`.

mod add;
mod attach;
mod del;
mod demo;
mod detach;
mod flush;
mod group;
mod nexthop;
mod replace;
mod show;

use byway::{Byway, Device, NextHop, Rule};
use clap::Subcommand;

use crate::{answer::Answer, grammar::GrammarError, render};

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(add::Add),
    Replace(replace::Replace),
    Del(del::Del),
    Show(show::Show),
    Flush(flush::Flush),
    Group(group::Group),
    Nexthop(nexthop::Nexthop),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Demo(demo::Demo),
}

impl Command {
    /// Does the work. `json` says that the answer's JSON form alone is wanted.
    pub(crate) fn exec(&self, json: bool) -> Result<Answer, Error> {
        match self {
            Self::Add(command) => command.exec(),
            Self::Replace(command) => command.exec(),
            Self::Del(command) => command.exec(),
            Self::Show(command) => command.exec(json),
            Self::Flush(command) => command.exec(),
            Self::Group(command) => command.exec(),
            Self::Nexthop(command) => command.exec(),
            Self::Attach(command) => command.exec(),
            Self::Detach(command) => command.exec(),
            Self::Demo(command) => command.exec(json),
        }
    }
}

/// Lets a rule hold, and says what was attached to on the way where nothing was before.
fn put(said: &str, put: impl FnOnce(&mut Byway) -> Result<Rule, byway::Error>) -> Result<Answer, Error> {
    let mut byway = Byway::open()?;
    let before = render::watched(&byway.attachments()?);
    let rule = put(&mut byway)?;
    let attached: Vec<Device> = render::watched(&byway.attachments()?)
        .into_iter()
        .filter(|device| !before.contains(device))
        .collect();
    let mut text = format!("{said}: {rule}");
    if !attached.is_empty() {
        text += &format!("\nattached to {}", render::names(&attached));
    }
    let next_hops: Vec<NextHop> = rule.target.next_hops().cloned().collect();
    for narrow in byway.narrow(&next_hops)? {
        text += &format!("\n{}", render::narrow(&narrow, rule.mss));
    }
    Ok(Answer::line(text, &rule))
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    #[error(transparent)]
    Byway(#[from] byway::Error),
    #[error(transparent)]
    Lab(#[from] byway_lab::Error),
    #[error("the demo could not go on: {0}")]
    Demo(std::io::Error),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
    #[error("the hosts of an earlier `byway demo --keep` are still up; remove them: `byway demo --clean`")]
    DemoStays,
}

impl Error {
    /// 1 failed, 2 usage or invalid input.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Grammar(_) | Self::DemoStays => 2,
            Self::Byway(error) if error.is_bad_request() => 2,
            Self::Lab(byway_lab::Error::Privilege { .. }) => 2,
            Self::Byway(_) | Self::Lab(_) | Self::Demo(_) | Self::Print(_) => 1,
        }
    }
}
