//! Hosts in, texts out; and a model of Linux that random hosts are compared with.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod host;
mod hosts;
mod kernel;
mod same;

use crate::config::{Config, Severity, file_error::FileError, read};

/// The text is a configuration, and no other than this one.
fn says(text: &str, config: &Config) {
    let reading =
        read([("import.toml".into(), text.to_owned())], &mut |path| Err(FileError::Missing(path.to_owned())));
    let errors: Vec<_> = reading.problems.iter().filter(|it| it.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{text}\n{errors:?}");
    let again = reading.config.unwrap();
    assert_eq!((&again.attach, &again.groups), (&config.attach, &config.groups), "{text}");
    assert!(again.rules().eq(config.rules()), "{text}");
}
