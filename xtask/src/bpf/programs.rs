//! What the programs come to in the kernel, in a file that a review sees change.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use aya::{EbpfLoader, programs::SchedClassifier};

/// The programs of an object, loaded into the running kernel and let go of again: their instructions, and how many the
/// verifier followed on all ways through them.
pub(super) fn account(object: &Path) -> Result<String> {
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel is this?")?;
    let version: Vec<&str> = kernel.split(['.', '-']).take(2).collect();
    let mut loader = EbpfLoader::new();
    // As the library sets it where the kernel can tell an MTU.
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
        // Of eight bytes each.
        let instructions = info.size_translated().context("the kernel does not say")? / 8;
        let verified = info.verified_instruction_count().context("the kernel does not say")?;
        let _ = writeln!(text, "{name} {instructions} {verified}");
    }
    Ok(text)
}
