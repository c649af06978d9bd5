//! The health checks, in a thread of their own: a change that takes long must not keep them waiting.

use std::{io, thread, time::Duration};

use byway::Checker;

use super::voice::Voice;

/// How long it waits after something went wrong. Other next hops may have nothing to do with it.
const AFTER_TROUBLE: Duration = Duration::from_millis(50);

/// Begins to carry out the health checks.
pub(super) fn start(mut checker: Checker, voice: Voice) -> io::Result<()> {
    let check = move || {
        loop {
            match checker.turn(Duration::MAX) {
                Ok(verdicts) => {
                    voice.health.vitals().of_health_checks = None;
                    for verdict in verdicts {
                        // The main thread notices when nobody reads the output any more.
                        let _ = voice.say("verdict", &verdict, &verdict.to_string());
                    }
                }
                Err(error) => {
                    voice.trouble(&error.into(), |vitals| &mut vitals.of_health_checks);
                    thread::sleep(AFTER_TROUBLE);
                }
            }
        }
    };
    thread::Builder::new().spawn(check).map(drop)
}
