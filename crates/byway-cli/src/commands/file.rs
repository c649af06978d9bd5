//! The configuration that a command reads.

use std::path::{Path, PathBuf};

use byway::{
    Byway,
    config::{Config, Reading},
    inspect_config, read_config,
};
use clap::Args;

use super::open::open;
use crate::{
    error::{Error, name},
    options::Options,
    output::printable,
    render::problems,
};

/// The configuration, unless another file is named.
pub(super) const FILE: &str = "/etc/byway/byway.toml";

/// How rules are that needed no change.
pub(super) const AS_FILE: &str = "as the configuration says";

/// The configuration that `apply`, `diff` and `run` are given.
#[derive(Debug, Args)]
pub(super) struct Configuration {
    /// The configuration; `-` is standard input
    #[arg(value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// Refuse the configuration where something would wait
    #[arg(long)]
    strict: bool,
}

impl Configuration {
    /// Reads it to apply it, with warnings for behind the answer. Prints its errors.
    pub(super) fn read(&self) -> Result<(Config, Vec<String>), Error> {
        config_of(&self.file, read_config(&self.file)?)
    }

    /// Reads it to look at it, likewise.
    pub(super) fn inspect(&self) -> Result<(Config, Vec<String>), Error> {
        config_of(&self.file, inspect_config(&self.file)?)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// Opens the library for it.
    pub(super) fn open(&self, options: &Options) -> Result<Byway, Error> {
        let byway = open(options)?;
        Ok(if self.strict { byway.with_strict() } else { byway })
    }
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
