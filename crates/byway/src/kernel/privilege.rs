//! The capabilities of the process.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::error::{Error, Result};

// capabilities(7), include/uapi/linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks that the thread may use bpf(2) and change the network: `CAP_NET_ADMIN`, and `CAP_BPF` or `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// [`Error::Privilege`] names the missing capability.
pub(crate) fn check() -> Result<()> {
    missing(effective()?).map_or(Ok(()), |capability| Err(Error::Privilege(capability)))
}

/// Checks that the thread may also load the programs: `CAP_PERFMON` or `CAP_SYS_ADMIN`. Without, the verifier refuses their
/// pointer arithmetic (`bpf_allow_ptr_leaks`, include/linux/bpf.h).
///
/// # Errors
///
/// [`Error::Privilege`] names the missing capability.
pub(crate) fn check_may_load() -> Result<()> {
    if may_load(effective()?) { Ok(()) } else { Err(Error::Privilege("CAP_PERFMON")) }
}

/// The thread's effective capabilities, a bit each.
fn effective() -> Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(Error::io("read the capabilities of the process from /proc/thread-self/status"))?;
    Ok(status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0))
}

fn has(effective: u64, capability: u32) -> bool {
    effective & (1 << capability) != 0
}

fn may_load(effective: u64) -> bool {
    has(effective, CAP_PERFMON) || has(effective, CAP_SYS_ADMIN)
}

fn missing(effective: u64) -> Option<&'static str> {
    let has = |capability| has(effective, capability);
    if !has(CAP_NET_ADMIN) {
        Some("CAP_NET_ADMIN")
    } else if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        Some("CAP_BPF")
    } else {
        None
    }
}

/// Lifts the limit on locked memory, which maps count against before Linux 5.11.
pub(crate) fn lift_memlock() {
    // If this is not allowed and matters, creating the maps fails and says so.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capability_is_named() {
        assert_eq!(missing(0), Some("CAP_NET_ADMIN"));
        assert_eq!(missing(1 << CAP_NET_ADMIN), Some("CAP_BPF"));
        assert_eq!(missing(1 << CAP_NET_ADMIN | 1 << CAP_BPF), None);
        assert_eq!(missing(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN), None);
        assert!(!may_load(1 << CAP_NET_ADMIN | 1 << CAP_BPF));
        assert!(may_load(1 << CAP_PERFMON) && may_load(1 << CAP_SYS_ADMIN));
    }
}
