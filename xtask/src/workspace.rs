//! Finds the workspace and its build results.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// The folders of the workspace.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo, which knows `CARGO_TARGET_DIR` and its own configuration files.
    pub(crate) fn find() -> Result<Workspace> {
        let metadata = run::output(
            cargo().args(["metadata", "--no-deps", "--format-version=1"]),
            "Run `cargo xtask` from inside the workspace.",
        )?;
        let metadata: Value = serde_json::from_str(&metadata).context("reading cargo's metadata")?;
        let folder = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("cargo's metadata has no {key}"))
        };
        Ok(Workspace { root: folder("workspace_root")?, target: folder("target_directory")? })
    }

    /// Returns cargo, to run in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }
}

/// Returns the cargo that runs this xtask.
fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
