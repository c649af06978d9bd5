//! Kernel features, found by trying.

use std::{io, os::unix::net::UnixStream, sync::OnceLock};

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use crate::error::{Error, Result};

/// How many pairs of descriptors: as many as aya needs at once to try a feature, and some more.
const SPARE: usize = 4;

/// Lets aya try all features that it knows, once for each process. It takes one that cannot be tried for one that is missing,
/// and this for the truth from then on. So this fails if there are too few descriptors to try them.
pub(crate) fn find() -> Result<()> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_none() {
        let spare: io::Result<Vec<_>> = (0..SPARE).map(|_| UnixStream::pair()).collect();
        drop(spare.map_err(|error| Error::kernel("find out what the kernel can do", error))?);
        aya::features();
    }
    FOUND.get_or_init(|| ());
    Ok(())
}

/// Whether a program can ask for a device's MTU (`bpf_check_mtu`, Linux 5.12). If not, it uses the MTU in the next hop's
/// record.
pub(crate) fn has_check_mtu() -> Result<bool> {
    static HAS: OnceLock<bool> = OnceLock::new();
    if let Some(has) = HAS.get() {
        return Ok(*has);
    }
    let has = is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_check_mtu)
        .map_err(|error| Error::kernel("find out whether programs can ask for an MTU", error))?;
    Ok(*HAS.get_or_init(|| has))
}
