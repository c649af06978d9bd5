//! `cargo xtask dist`: the packages, and all that is in them.

mod archive;
mod binary;
mod components;
mod files;
mod image;
mod packages;
mod page;

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::{run, workspace::Workspace};
pub(crate) use binary::target;

const MAINTAINER: &str = "Byway maintainers <maintainers@byway.invalid>";

/// Build the packages: .deb, .rpm, a tarball, a container image, checksums and a bill of materials
///
/// They are in `target/packages/MACHINE` afterwards.
#[derive(Args)]
pub(crate) struct Dist {
    /// Package this binary instead of building one, to work on the packages themselves
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The machine that they are for
    #[arg(long, default_value = env::consts::ARCH, value_parser = ["x86_64", "aarch64"])]
    machine: String,
    /// Who answers for the packages
    #[arg(long, value_name = "NAME <ADDRESS>", default_value = MAINTAINER)]
    maintainer: String,
}

/// What all packages have in common.
struct Release {
    version: &'static str,
    /// `x86_64`
    machine: String,
    maintainer: String,
    /// Of the last commit, in seconds (<https://reproducible-builds.org/specs/source-date-epoch/>).
    epoch: String,
}

impl Release {
    /// The time of the release, as date(1) formats it.
    fn time(&self, format: &str) -> Result<String> {
        let mut command = Command::new("date");
        command.env("LC_ALL", "C").args(["--utc", &format!("--date=@{}", self.epoch), format]);
        Ok(run::output(&mut command, "")?.trim().to_owned())
    }
}

/// The programs that it runs, and Debian's packages that have them.
const TOOLS: &[(&str, &str)] = &[
    ("lintian", "lintian"),
    ("mandoc", "mandoc"),
    ("readelf", "binutils"),
    ("rpmbuild", "rpm"),
    ("systemd-analyze", "systemd"),
];

impl Dist {
    /// Builds the packages of this source, or those of a binary.
    pub(crate) fn new(binary: Option<PathBuf>) -> Dist {
        Dist { binary, machine: env::consts::ARCH.to_owned(), maintainer: MAINTAINER.to_owned() }
    }

    pub(crate) fn exec(self) -> Result<()> {
        self.build().map(drop)
    }

    /// Returns the .deb.
    pub(crate) fn build(self) -> Result<PathBuf> {
        let workspace = Workspace::find()?;
        run::install_missing(TOOLS)?;
        let release = Release {
            version: env!("CARGO_PKG_VERSION"),
            machine: self.machine,
            maintainer: self.maintainer,
            epoch: epoch(&workspace)?,
        };
        let binary = match self.binary {
            Some(binary) => binary,
            None => binary::build(&workspace, &release.machine)?,
        };

        let out = workspace.target.join("packages").join(&release.machine);
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
        }
        fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
        let files = files::all(&workspace, &release, &binary, &out)?;
        let deb = packages::build(&workspace, &release, &files, &out)?;
        for entry in fs::read_dir(&out)? {
            let entry = entry?;
            println!("{:>9} bytes  {}", entry.metadata()?.len(), entry.path().display());
        }
        Ok(deb)
    }
}

/// `SOURCE_DATE_EPOCH`, or else the time of the last commit.
fn epoch(workspace: &Workspace) -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.current_dir(&workspace.root).args(["log", "-1", "--format=%ct"]);
    Ok(run::output(&mut git, "Outside a git repository, set SOURCE_DATE_EPOCH.")?.trim().to_owned())
}
