//! The configuration that a command reads.

use std::path::Path;

use byway::{
    config::{Config, Reading},
    inspect_config, read_config,
};

use crate::{
    error::{Error, name},
    output::printable,
    render::problems,
};

/// The configuration, unless another file is named.
pub(super) const FILE: &str = "/etc/byway/byway.toml";

/// Reads a configuration to apply it, with warnings for behind the answer. Prints its errors.
pub(super) fn read(path: &Path) -> Result<(Config, Vec<String>), Error> {
    config_of(path, read_config(path)?)
}

/// Reads a configuration to look at it, likewise.
pub(super) fn inspect(path: &Path) -> Result<(Config, Vec<String>), Error> {
    config_of(path, inspect_config(path)?)
}

fn config_of(path: &Path, mut reading: Reading) -> Result<(Config, Vec<String>), Error> {
    let counted = problems::counted(&reading);
    let Some(config) = reading.config.take() else {
        problems::print(&reading).map_err(Error::Print)?;
        return Err(Error::Config { path: path.to_owned(), problems: counted });
    };
    let mut warnings = problems::of_unsafe_files(&reading);
    if !reading.problems.is_empty() {
        let (name, path) = (name(path), path.display());
        warnings.push(printable(&format!("{name} has {counted}; `byway check {path}` shows details")));
    }
    Ok((config, warnings))
}
