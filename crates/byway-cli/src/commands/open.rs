//! How commands open the library.

use byway::Byway;

use crate::{error::Error, help, log, options::Options, output::printable};

/// Says that an apply was rolled back because nobody confirmed it.
pub(super) const ROLLED_BACK: &str = "nobody confirmed the last apply in time, so it was rolled back";

/// Opens Byway. If nobody confirmed the last apply in time and its guard has died, rolls it back first.
pub(super) fn open(options: &Options) -> Result<Byway, Error> {
    let mut byway = open_as_it_is(options)?;
    match byway.rollback_if_overdue() {
        Ok(None) => {}
        Ok(Some(_)) => {
            anstream::eprintln!("byway: {ROLLED_BACK}");
            if options.log {
                log::changed(ROLLED_BACK);
            }
        }
        // Nobody knows whether an apply is unconfirmed. Who is asked decides, and not whoever has written to the note.
        Err(error @ byway::Error::DamagedNote { .. }) => {
            anstream::eprintln!("byway: warning: {}", printable(&help::sentence(&error)));
        }
        Err(error) => anstream::eprintln!(
            "byway: an apply that nobody has confirmed in time may still be in force: {}",
            printable(&help::sentence(&error))
        ),
    }
    Ok(byway)
}

/// Opens Byway, and leaves an apply that is overdue alone.
pub(super) fn open_as_it_is(options: &Options) -> Result<Byway, Error> {
    let limit = humantime::format_duration(options.wait).to_string();
    Ok(Byway::open()?.with_wait(options.wait).with_on_wait(move |holder| {
        anstream::eprintln!(
            "byway: {holder} is changing this network namespace; waiting for it, up to {limit} (`--wait`)"
        );
    }))
}
