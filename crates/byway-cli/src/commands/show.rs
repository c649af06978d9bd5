use byway::{Attachment, Byway, RuleStatus};
use clap::Args;
use serde::Serialize;

use super::Error;
use crate::{answer::Answer, render::table};

/// Show rules with their counters, and what is attached where
#[derive(Debug, Args)]
#[command(after_help = "\
PACKETS and BYTES are what the rule has met. ARRIVED is what of it reached the
egress of the next hop's device; the rest waits for the next hop's neighbour, or
is lost because that does not answer.

Examples:
  byway show
  byway --json show")]
pub(crate) struct Show {}

/// The JSON form of `byway show`. Fields are added, never changed or removed.
#[derive(Debug, Serialize)]
struct Listing {
    attachments: Vec<Attachment>,
    rules: Vec<RuleStatus>,
}

impl Show {
    pub(crate) fn exec(&self) -> Result<Answer, Error> {
        let mut byway = Byway::open()?;
        let listing = Listing { attachments: byway.attachments()?, rules: byway.rules()? };
        Ok(Answer::line(table::listing(&listing.attachments, &listing.rules), &listing))
    }
}
