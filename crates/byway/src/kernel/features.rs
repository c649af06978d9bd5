//! Kernel features, found by trying.

use std::sync::OnceLock;

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use crate::error::{Error, Result};

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
