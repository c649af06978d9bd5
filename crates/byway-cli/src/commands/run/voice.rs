//! What the agent says: to whoever reads its output, to a service manager, and to those who ask it.

use std::io::{self, Write};

use sd_notify::NotifyState;
use serde::Serialize;
use serde_json::json;

use super::health::{Health, Vitals};
use crate::{error::Error, options::Options, output::printable};

/// Says what happens, in lines: sentences for people, or JSON for programs. Several threads may have it.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    is_json: bool,
    is_quiet: bool,
    pub(super) health: Health,
}

impl Voice {
    pub(super) fn new(options: &Options) -> Self {
        Self { is_json: options.json, is_quiet: options.quiet, health: Health::default() }
    }

    pub(super) fn note(&self, sentence: &str) -> Result<(), Error> {
        self.say("note", sentence, sentence)
    }

    /// Says something, in one line.
    pub(super) fn say(
        &self,
        key: &str,
        value: &(impl Serialize + ?Sized),
        sentence: &str,
    ) -> Result<(), Error> {
        let sentence = printable(sentence);
        tell(&[NotifyState::Status(&sentence)]);
        let line = match self.is_json {
            _ if self.is_quiet => return Ok(()),
            true => json!({ key: value }).to_string(),
            false => sentence,
        };
        writeln!(io::stdout(), "{line}").map_err(Error::Print)
    }

    /// Says what went wrong, once, and notes it at its place.
    pub(super) fn trouble(&self, error: &Error, place: impl FnOnce(&mut Vitals) -> &mut Option<String>) {
        let sentence = printable(&error.to_string());
        let before = place(&mut self.health.vitals()).replace(sentence.clone());
        if before.as_ref() != Some(&sentence) {
            tell(&[NotifyState::Status(&sentence)]);
            // If even this cannot be written, those who ask are told.
            let _ = writeln!(io::stderr(), "byway: {sentence}");
        }
    }
}

/// Tells a service manager, if there is one (sd_notify(3)).
pub(super) fn tell(state: &[NotifyState<'_>]) {
    // Without one there is nobody to tell.
    let _ = sd_notify::notify(state);
}
