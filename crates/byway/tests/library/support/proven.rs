//! Next hops that count as alive, so that a program that runs by itself (BPF_PROG_TEST_RUN) redirects each packet and makes none
//! of them a probe, which would leave by real devices.

use std::path::Path;

use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use byway_abi::{MAX_NEXT_HOPS, NextHop, NextHopCounters};

/// The open maps.
pub(crate) struct Proven {
    next_hops: Array<MapData, NextHop>,
    counters: PerCpuArray<MapData, NextHopCounters>,
}

impl Proven {
    /// Those that are pinned in a folder.
    pub(crate) fn open(folder: &Path) -> Self {
        let open = |name: &str| Map::from_map_data(MapData::from_pin(folder.join(name)).unwrap()).unwrap();
        Self {
            next_hops: open("NEXT_HOPS").try_into().unwrap(),
            counters: open("NEXT_HOP_COUNTERS").try_into().unwrap(),
        }
    }

    /// Proves all next hops alive until the next packet departs to them.
    pub(crate) fn prove_all(&mut self) {
        for slot in 1..MAX_NEXT_HOPS {
            if self.next_hops.get(&slot, 0).unwrap().ifindex == 0 {
                break;
            }
            self.prove(slot);
        }
    }

    /// Proves one.
    pub(crate) fn prove(&mut self, slot: u32) {
        let counters = self.counters.get(&slot, 0).unwrap();
        let proven = |of_cpu: &NextHopCounters| NextHopCounters { proven: i64::MAX as u64, ..*of_cpu };
        let proven = PerCpuValues::try_from(counters.iter().map(proven).collect::<Vec<_>>()).unwrap();
        self.counters.set(slot, proven, 0).unwrap();
    }
}
