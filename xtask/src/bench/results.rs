//! The results file: what was measured, where, and how thoroughly.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Effort, chart, figures::Chart};

const FILE: &str = "results.json";

/// The results of all parts. A part may be measured again without the others, even on another machine.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Results {
    parts: BTreeMap<String, Part>,
}

/// The results of one part.
#[derive(Serialize, Deserialize)]
struct Part {
    machine: Machine,
    rounds: usize,
    /// Whether the figures are only for trying.
    quick: bool,
    charts: Vec<Chart>,
}

/// Where it was measured.
#[derive(Serialize, Deserialize)]
struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
}

impl Machine {
    fn here() -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel is this?")?;
        let processors = fs::read_to_string("/proc/cpuinfo").context("which processor is this?")?;
        // Not every architecture has this line.
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Ok(Self {
            // Leave out the distribution's part.
            kernel: kernel.split('-').next().unwrap_or(&kernel).trim().to_owned(),
            processor: model.map_or(std::env::consts::ARCH, |(_, model)| model.trim()).to_owned(),
            processors: std::thread::available_parallelism()?.get(),
        })
    }
}

impl Results {
    /// Reads the results in a folder, to add others. Creates the folder if it does not exist.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        match Self::read(folder) {
            Err(error) if error.downcast_ref().is_some_and(is_missing) => Ok(Self::default()),
            results => results,
        }
    }

    /// Reads the results in a folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is of another version: remove it", path.display()))
    }

    /// Replaces a part's results, if there are any.
    pub(super) fn put(&mut self, part: &str, effort: Effort, charts: Vec<Chart>) -> Result<()> {
        let machine = Machine::here()?;
        let part_results = Part { machine, rounds: effort.rounds, quick: effort.quick, charts };
        self.parts.insert(part.to_owned(), part_results);
        Ok(())
    }

    /// Removes a part's results, and returns them.
    pub(super) fn take(&mut self, part: &str) -> Option<Vec<Chart>> {
        self.parts.remove(part).map(|part| part.charts)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Draws every chart, beside the file.
    pub(super) fn draw(&self, folder: &Path) -> Result<()> {
        for part in self.parts.values() {
            for chart in &part.charts {
                let path = folder.join(format!("{}.svg", chart.name));
                let svg = chart::draw(chart, &part.footnote())?;
                fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
            }
        }
        Ok(())
    }
}

impl Part {
    /// Describes the machine, without which a figure is worth nothing.
    fn footnote(&self) -> String {
        let Machine { kernel, processor, processors } = &self.machine;
        format!(
            "{}medians of {} rounds, with the lowest and the highest; Linux {kernel}, {processor}, {processors} CPUs",
            if self.quick { "for trying only: " } else { "" },
            self.rounds
        )
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
