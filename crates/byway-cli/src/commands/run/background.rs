//! What the agent does beside following the network, each in a thread of its own: a change that takes long must not keep it
//! waiting.

use std::{
    fmt::Display,
    io, thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{health::Vitals, voice::Voice};

/// How long it waits after something went wrong. Other devices and next hops may have nothing to do with it.
const AFTER_TROUBLE: Duration = Duration::from_millis(50);
/// How long nothing has to go wrong until the trouble is over. What fails is tried again every second.
const OVER: Duration = Duration::from_secs(3);

/// Begins to call `turn` again and again, and says what it returns, in JSON with this key. `place` is where trouble is noted.
pub(super) fn start<T: Serialize + Display>(
    key: &'static str,
    voice: Voice,
    place: fn(&mut Vitals) -> &mut Option<String>,
    mut turn: impl FnMut() -> byway::Result<Vec<T>> + Send + 'static,
) -> io::Result<()> {
    let work = move || {
        let mut trouble = None;
        loop {
            match turn() {
                Ok(events) => {
                    if trouble.take_if(|since: &mut Instant| since.elapsed() > OVER).is_some() {
                        *place(&mut voice.health.vitals()) = None;
                    }
                    for event in events {
                        // The main thread notices when nobody reads the output any more.
                        let _ = voice.say(key, &event, &event.to_string());
                    }
                }
                Err(error) => {
                    trouble = Some(Instant::now());
                    voice.trouble(&error.into(), place);
                    thread::sleep(AFTER_TROUBLE);
                }
            }
        }
    };
    thread::Builder::new().spawn(work).map(drop)
}
