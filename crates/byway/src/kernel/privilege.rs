//! The capabilities of the process.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::error::{Error, Result};

// capabilities(7), include/uapi/linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Checks that the thread may use bpf(2) and change the network: `CAP_NET_ADMIN`, and `CAP_BPF` or `CAP_SYS_ADMIN`.
///
/// Without `CAP_SYS_ADMIN`, `CAP_PERFMON` is needed as well. It is not checked here: without it, the kernel refuses the
/// programs' pointer arithmetic when they are loaded.
///
/// # Errors
///
/// [`Error::Privilege`] names the missing capability.
pub(crate) fn check() -> Result<()> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(Error::io("read the capabilities of the process from /proc/thread-self/status"))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0);
    missing(effective).map_or(Ok(()), |capability| Err(Error::Privilege(capability)))
}

fn missing(effective: u64) -> Option<&'static str> {
    let has = |capability: u32| effective & (1 << capability) != 0;
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
    }
}
