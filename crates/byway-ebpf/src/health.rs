//! The health of a next hop, as all CPUs know it.

use byway_abi::{DEVICE_TAKES, PROBE_AFTER_MAX, PROBE_AFTER_MIN};

use crate::{
    clock,
    maps::{NEXT_HOP_HEALTH, VERDICTS},
    rows::Shared,
};

/// What all CPUs know about a next hop ([`byway_abi::NextHopHealth`]). Another CPU may write it at the same time. If that
/// overwrites something, it costs one probe more or less.
pub struct Health {
    pub silent_since: Shared,
    pub probed: Shared,
    pub device: Shared,
    pub taken: Shared,
}

impl Health {
    #[inline(always)]
    pub fn of(slot: u32) -> Option<Self> {
        let health = NEXT_HOP_HEALTH.get_ptr_mut(slot)?;
        // SAFETY: the fields are words in a map's value, and all programs use them through `Shared`.
        unsafe {
            Some(Self {
                silent_since: Shared::new(&raw mut (*health).silent_since),
                probed: Shared::new(&raw mut (*health).probed),
                device: Shared::new(&raw mut (*health).device),
                taken: Shared::new(&raw mut (*health).taken),
            })
        }
    }

    /// Returns how long it has been silent, in nanoseconds. Without a gateway, a frame that the device takes ends the silence.
    #[inline(always)]
    pub fn silence(&self, is_on_link: bool, now: u64) -> u64 {
        let (silent_since, taken) = (self.silent_since.get(), self.taken.get());
        now.saturating_sub(if is_on_link && taken > silent_since { taken } else { silent_since })
    }

    /// Returns whether it is time to probe a silent next hop again.
    #[inline(always)]
    pub fn is_due(&self, now: u64) -> bool {
        let after = now.saturating_sub(self.silent_since.get()) / 8;
        let after = if after < PROBE_AFTER_MIN {
            PROBE_AFTER_MIN
        } else if after > PROBE_AFTER_MAX {
            PROBE_AFTER_MAX
        } else {
            after
        };
        now.saturating_sub(self.probed.get()) >= after
    }
}

/// Notes that the neighbour of the next hop in a slot has answered: a packet that had to wait for it has arrived.
#[inline(always)]
pub fn neighbour_answered(slot: u32) {
    if let Some(health) = Health::of(slot) {
        health.silent_since.set(0);
        health.device.set(DEVICE_TAKES);
    }
}

/// Returns whether the verdict of a health check keeps the next hop in a slot out of service. It ends by itself, unless somebody
/// renews it.
#[inline(always)]
pub fn is_refused(slot: u32) -> bool {
    let Some(until) = VERDICTS.get_ptr_mut(slot) else { return false };
    // SAFETY: a word in a map's value. Userspace writes it at any time, and programs only read it.
    let until = unsafe { Shared::new(until) }.get();
    until != 0 && until > clock::now()
}
