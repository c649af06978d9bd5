//! Writes down how large the programs are in the kernel, in a file whose changes a review shows.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use aya::{EbpfLoader, programs::SchedClassifier};

/// Loads the programs of an object into the running kernel, and lists their instructions, and how many instructions the
/// verifier followed on all paths through them.
pub(super) fn account(object: &Path) -> Result<String> {
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel is this?")?;
    let version: Vec<&str> = kernel.split(['.', '-']).take(2).collect();
    let mut loader = EbpfLoader::new();
    // As the library sets it if programs can ask the kernel for an MTU.
    loader.override_global("HAS_CHECK_MTU", &1_u32, true);
    loader.override_global("MARK_SECRET", &0x0123_4567_89AB_CDEF_u64, true);
    let mut loaded = loader.load(&bytes)?;
    let mut names: Vec<String> = loaded.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();

    let mut text = format!(
        "# Linux {}\n# program, its instructions, instructions that the verifier followed\n",
        version.join(".")
    );
    for name in names {
        let program: &mut SchedClassifier = loaded.program_mut(&name).context("it is there")?.try_into()?;
        program.load()?;
        let info = program.info()?;
        // An instruction has eight bytes.
        let instructions = info.size_translated().context("the kernel does not say")? / 8;
        let verified = info.verified_instruction_count().context("the kernel does not say")?;
        let _ = writeln!(text, "{name} {instructions} {verified}");
    }
    Ok(text)
}
