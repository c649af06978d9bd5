//! The pinned maps of replies: the devices that requests come in by, the ways, and the flows ([`byway_abi::reply`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{
    Array, HashMap, Map, MapData, PerCpuArray,
    xdp::{DevMapHash, XdpMapError},
};
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_map_type};
use byway_abi::{
    DEVICE_NAME_LEN, FAMILY_IPV4, FAMILY_IPV6,
    reply::{
        ALL_FLOWS_NEAR, Entry, FAR, FLOW_BUCKETS, FLOW_KEYS_LEN, FLOWS_OF_BUCKET, FlowCounters,
        HEARD_ETHERNET, HEARD_FIRST, HEARD_IPV4, HEARD_IPV6, HeardKey, KEY_WORDS, LAST_TICK, LAST_WAY,
        LIVENESS_LEN, LIVENESS_WORDS, MAX_HEARD, MAX_WAYS, NEAR, NEAR_BUCKETS, NO_DEVICE_YET, NO_SUCCESSORS,
        NOT_WATCHED, WAY_ANSWERED, WAY_OUT, WAY_SEEN, WAY_USED, Way, address_digest, ethernet_bytes,
        ethernet_words, fingerprint, flow_buckets, flow_key, flow_ticks, ways_key,
    },
};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_getres, clock_gettime},
};

use super::{
    grace_period,
    map::{
        Within, cannot_open, cannot_read, cannot_write, ignore_missing, map, open_if_there, optional,
        retry_enomem,
    },
    network::NeighbourAddresses,
    sys::Memory,
    wire::{self, words},
};
use crate::{
    error::{Error, Result},
    policy::{state::DeviceSet, way_watch::Signs},
};

/// The names of the pins of the maps within others. They are there as soon as there has been a rule that sends replies back.
const WAYS_PIN: &str = "WAYS-0";
const HEARD_PIN: &str = "HEARD-0";
const FLOWS_PIN: &str = "FLOWS-0";
const LIVENESS_PIN: &str = "WAY_LIVENESS-0";

/// An Ethernet address, as [`ethernet_words`].
pub(crate) type Ethernet = [u32; 2];

/// The maps that each change needs are open. The others are opened when they are needed, as most hosts have no rule that sends
/// replies back.
pub(crate) struct Replies {
    folder: PathBuf,
    receivers: DevMapHash<MapData>,
    devices: HashMap<MapData, [u32; 2], [u8; DEVICE_NAME_LEN]>,
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// The table of flows, as the programs see it at this moment.
pub(crate) struct FlowTable {
    memory: Memory,
    keys: [u32; FLOW_KEYS_LEN],
}

/// The ways that requests have come in by.
pub(crate) struct WayMap(Option<HashMap<MapData, u32, Way>>);

impl fmt::Debug for WayMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WayMap")
    }
}

impl WayMap {
    /// Returns the way with this number.
    pub(crate) fn get(&self, number: u32) -> Result<Option<Way>> {
        let Some(ways) = &self.0 else { return Ok(None) };
        optional(ways.get(&number, 0)).map_err(cannot_read(WAYS_PIN))
    }
}

/// The signs of life of the ways' neighbours, as the programs write them, and which ways are out of service.
#[derive(Debug)]
pub(crate) struct Liveness(Memory);

/// What tells the replies of a flow from all others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlowKey {
    /// Where the replies go.
    pub(crate) remote: IpAddr,
    /// Where they come from.
    pub(crate) local: IpAddr,
    pub(crate) protocol: u8,
    /// 0 if the protocol has no ports.
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
}

impl Replies {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            receivers: map!(folder, "RECEIVERS"),
            devices: map!(folder, "REPLY_DEVICES"),
        })
    }

    /// Returns the sets of devices that rules name after `reply-to`, by number.
    pub(crate) fn device_sets(&self) -> Result<BTreeMap<u8, DeviceSet>> {
        let mut sets: BTreeMap<u8, DeviceSet> = BTreeMap::new();
        for entry in self.devices.iter() {
            let ([set, ifindex], name) = entry.map_err(cannot_read("REPLY_DEVICES"))?;
            let index = if ifindex & NO_DEVICE_YET == 0 { ifindex } else { 0 };
            if let Ok(set) = u8::try_from(set) {
                sets.entry(set).or_default().insert(wire::read_device(&name, ifindex).name, index);
            }
        }
        Ok(sets)
    }

    /// Sets which devices there are in a set, new ones first.
    pub(super) fn set_devices(&mut self, set: u8, devices: &DeviceSet) -> Result<()> {
        let mut kept = BTreeSet::new();
        for (nth, (name, index)) in (0..).zip(devices) {
            let key = [set.into(), if *index == 0 { NO_DEVICE_YET | nth } else { *index }];
            let name: [u8; DEVICE_NAME_LEN] = wire::name(name);
            retry_enomem(|| self.devices.insert(key, name, 0)).map_err(cannot_write("REPLY_DEVICES"))?;
            kept.insert(key);
        }
        let is_meant = |key: &std::result::Result<[u32; 2], _>| {
            key.as_ref().map_or(true, |key| key[0] == u32::from(set) && !kept.contains(key))
        };
        let keys = self.devices.keys().filter(is_meant);
        let keys: Vec<[u32; 2]> =
            keys.collect::<std::result::Result<_, _>>().map_err(cannot_read("REPLY_DEVICES"))?;
        let mut keys = keys.iter();
        keys.try_for_each(|key| ignore_missing(self.devices.remove(key)))
            .map_err(cannot_write("REPLY_DEVICES"))
    }

    /// Notes the flows that come in by a device.
    pub(super) fn receive(&mut self, index: u32) -> Result<()> {
        if self.is_receiver(index)? {
            return Ok(());
        }
        // Those of an earlier device with this ifindex.
        self.forget_ways(index)?;
        self.receivers.insert(index, index, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => cannot_write("RECEIVERS")(error),
            error => Error::kernel("write the map RECEIVERS", error),
        })
    }

    /// Whether the flows that come in by a device are noted. The kernel ends that when the device goes or moves to another
    /// network namespace, even if it comes back.
    pub(crate) fn is_receiver(&self, index: u32) -> Result<bool> {
        optional(self.receivers.get(index, 0)).map(|it| it.is_some()).map_err(cannot_read("RECEIVERS"))
    }

    /// Notes no flows any more that come in by a device, and sends none back there.
    pub(super) fn stop_receiving(&mut self, index: u32) -> Result<()> {
        ignore_missing(self.receivers.remove(index)).map_err(cannot_write("RECEIVERS"))?;
        self.forget_ways(index)
    }

    /// Removes the ways of a device that is no receiver. Their flows go first: the next way with one of these numbers may lead to
    /// somebody else.
    fn forget_ways(&mut self, index: u32) -> Result<()> {
        if let Some(mut heard) = self.open_heard()? {
            let keys: Vec<[u32; 6]> =
                heard.keys().collect::<std::result::Result<_, _>>().map_err(cannot_read(HEARD_PIN))?;
            let mut remove = |key: &[u32; 6]| ignore_missing(heard.remove(key));
            let of_device = keys.iter().filter(|[ifindex, ..]| *ifindex == index);
            of_device.into_iter().try_for_each(&mut remove).map_err(cannot_write(HEARD_PIN))?;
        }
        let ways = self.ways()?;
        let gone: BTreeSet<u32> =
            ways.iter().filter(|(_, way)| way.ifindex == index).map(|(number, _)| *number).collect();
        if !gone.is_empty()
            && let Some(flows) = self.flows()?
        {
            let is_gone = |entry: &Entry| {
                gone.contains(&entry.way.into()) || (entry.is_moving && gone.contains(&entry.number))
            };
            // A program that still found the device there may be noting a flow.
            grace_period::wait();
            flows.remove_if(is_gone);
            // One that still found the flow there may be writing it again.
            grace_period::wait();
            flows.remove_if(is_gone);
        }
        let Some(mut ways) = self.open_ways()? else { return Ok(()) };
        // Their count last: until then, whoever is killed leaves it too high, and this removes it.
        let mut keys = gone.iter().copied().chain([ways_key(index)]);
        keys.try_for_each(|key| ignore_missing(ways.remove(&key))).map_err(cannot_write(WAYS_PIN))?;
        if let Some(liveness) = self.liveness()?.filter(|_| !gone.is_empty()) {
            // A program that still found a way may be noting a sign of life.
            grace_period::wait();
            gone.iter().for_each(|number| liveness.forget(*number));
        }
        Ok(())
    }

    fn open_ways(&self) -> Result<Option<HashMap<MapData, u32, Way>>> {
        let Some(ways) = open_if_there(&self.folder.join(WAYS_PIN), WAYS_PIN)? else { return Ok(None) };
        let ways = Map::from_map_data(ways).map_err(cannot_open(WAYS_PIN))?;
        ways.try_into().map(Some).map_err(cannot_open(WAYS_PIN))
    }

    fn open_heard(&self) -> Result<Option<HashMap<MapData, [u32; 6], Ethernet>>> {
        let Some(heard) = open_if_there(&self.folder.join(HEARD_PIN), HEARD_PIN)? else { return Ok(None) };
        let heard = Map::from_map_data(heard).map_err(cannot_open(HEARD_PIN))?;
        heard.try_into().map(Some).map_err(cannot_open(HEARD_PIN))
    }

    /// Returns the Ethernet addresses that have taken the place of others, by device and the other one.
    pub(crate) fn successors(&self) -> Result<BTreeMap<(u32, Ethernet), Ethernet>> {
        let Some(heard) = self.open_heard()? else { return Ok(BTreeMap::new()) };
        let mut successors = BTreeMap::new();
        for entry in heard.iter() {
            let ([ifindex, kind, first, second, ..], successor) = entry.map_err(cannot_read(HEARD_PIN))?;
            if kind == HEARD_ETHERNET {
                successors.insert((ifindex, [first, second]), successor);
            }
        }
        Ok(successors)
    }

    /// Returns the addresses of neighbours that the programs have heard, by device and Ethernet address.
    pub(crate) fn heard(&self) -> Result<NeighbourAddresses> {
        let mut all = NeighbourAddresses::new();
        let Some(heard) = self.open_heard()? else { return Ok(all) };
        for entry in heard.iter() {
            let ([ifindex, kind, address @ ..], ethernet) = entry.map_err(cannot_read(HEARD_PIN))?;
            let family = match kind {
                HEARD_IPV4 => FAMILY_IPV4,
                HEARD_IPV6 => FAMILY_IPV6,
                _ => continue,
            };
            let of_neighbour = all.entry((ifindex, ethernet_bytes(ethernet))).or_default();
            of_neighbour.extend(wire::read_words(family, address));
        }
        Ok(all)
    }

    /// Returns the signs of life, or `None` if there has been no rule that sends replies back.
    pub(crate) fn liveness(&self) -> Result<Option<Liveness>> {
        let Some(map) = open_if_there(&self.folder.join(LIVENESS_PIN), LIVENESS_PIN)? else {
            return Ok(None);
        };
        let bytes = LIVENESS_LEN as usize * size_of::<[u64; LIVENESS_WORDS]>();
        let memory = Memory::of(map.fd().as_fd(), 0, bytes);
        memory.map(|memory| Some(Liveness(memory))).map_err(Error::io("map the signs of life"))
    }

    /// Has the programs note signs of life from now on.
    pub(crate) fn watch(&self) -> Result<()> {
        self.set_hint(NOT_WATCHED, 0)
    }

    fn give(&self, hint: u32) -> Result<()> {
        self.set_hint(hint, 1)
    }

    fn set_hint(&self, hint: u32, value: u64) -> Result<()> {
        let mut hints: Array<_, u64> = map!(&self.folder, "REPLY_HINTS");
        hints.set(hint, value, 0).map_err(cannot_write("REPLY_HINTS"))
    }

    /// Forgets all flows. Returns how many there were.
    pub(crate) fn forget_flows(&self) -> Result<u64> {
        let Some(flows) = self.flows()? else { return Ok(0) };
        let count = flows.remove_if(|_| true);
        // A program may be noting a far flow, which it has withdrawn the hint for.
        self.give(ALL_FLOWS_NEAR)?;
        grace_period::wait();
        if flows.has_far() {
            self.set_hint(ALL_FLOWS_NEAR, 0)?;
        }
        Ok(count)
    }

    /// Notes what the neighbour table knows of a device: the programs may hear it only after the first change.
    pub(super) fn hear(&mut self, index: u32, neighbours: &NeighbourAddresses) -> Result<()> {
        let Some(mut heard) = self.open_heard()? else { return Ok(()) };
        for ((_, lladdr), addresses) in neighbours.iter().filter(|((ifindex, _), _)| *ifindex == index) {
            for ip in addresses {
                let kind = if ip.is_ipv4() { HEARD_IPV4 } else { HEARD_IPV6 };
                let ethernet = ethernet_words(*lladdr);
                let key = HeardKey { ifindex: index, kind, address: words(*ip) };
                heard.insert(key.words(), ethernet, 0).map_err(cannot_write(HEARD_PIN))?;
                let [first, second] = ethernet;
                let of_first = HeardKey { kind: kind | HEARD_FIRST, address: [first, second, 0, 0], ..key };
                // Of several, whichever comes first here.
                let _ = heard.insert(of_first.words(), address_digest(key.address), BPF_NOEXIST.into());
            }
        }
        Ok(())
    }

    /// Returns the ways that requests have come in by, by number.
    pub(crate) fn ways(&self) -> Result<BTreeMap<u32, Way>> {
        let Some(ways) = self.open_ways()? else { return Ok(BTreeMap::new()) };
        // The other keys are those of counts.
        let is_way = |entry: &std::result::Result<(u32, _), _>| {
            entry.as_ref().map_or(true, |(number, _)| *number <= LAST_WAY)
        };
        ways.iter().filter(is_way).collect::<std::result::Result<_, _>>().map_err(cannot_read(WAYS_PIN))
    }

    /// Returns the map of ways, for one look-up after the other.
    pub(crate) fn way_map(&self) -> Result<WayMap> {
        self.open_ways().map(WayMap)
    }

    /// Returns the table of flows, or `None` if there has been no rule that sends replies back.
    pub(crate) fn flows(&self) -> Result<Option<FlowTable>> {
        let Some(flows) = open_if_there(&self.folder.join(FLOWS_PIN), FLOWS_PIN)? else { return Ok(None) };
        let bytes = FLOW_BUCKETS as usize * size_of::<[u64; 2 * FLOWS_OF_BUCKET]>();
        let memory = Memory::of(flows.fd().as_fd(), 0, bytes).map_err(Error::io("map the table of flows"))?;
        let keys: Array<_, [u32; FLOW_KEYS_LEN]> = map!(&self.folder, "FLOW_KEYS");
        let keys = keys.get(&0, 0).map_err(cannot_read("FLOW_KEYS"))?;
        Ok(Some(FlowTable { memory, keys }))
    }

    /// Returns the counters of the table of flows.
    pub(crate) fn counters(&self) -> Result<FlowCounters> {
        let counters: PerCpuArray<_, FlowCounters> = map!(&self.folder, "FLOW_COUNTERS");
        let of_cpus = counters.get(&0, 0).map_err(cannot_read("FLOW_COUNTERS"))?;
        Ok(FlowCounters::sum(of_cpus.iter()))
    }

    /// Whether there are such maps: without them, no rule has ever sent replies back.
    pub(crate) fn has_flows(&self) -> bool {
        self.folder.join(FLOWS_PIN).exists()
    }

    /// Creates the maps of ways, flows and what is heard, unless they exist, and the secret numbers in the fingerprints.
    pub(super) fn make_flows(&mut self) -> Result<()> {
        let folder = &self.folder;
        // Flows of schema 13 or older have none.
        if open_if_there(&folder.join(LIVENESS_PIN), LIVENESS_PIN)?.is_none() {
            let liveness = Within {
                kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
                key: size_of::<u32>(),
                value: size_of::<[u64; LIVENESS_WORDS]>(),
                entries: LIVENESS_LEN,
                flags: BPF_F_MMAPABLE | BPF_F_INNER_MAP,
            };
            // Nobody watches yet: whoever does looks for the pin.
            self.give(NOT_WATCHED)?;
            liveness.make("liveness", &mut map!(folder, "WAY_LIVENESS"), &folder.join(LIVENESS_PIN))?;
        }
        if open_if_there(&folder.join(FLOWS_PIN), FLOWS_PIN)?.is_some() {
            return Ok(());
        }
        let mut keys = [0; FLOW_KEYS_LEN];
        for key in &mut keys {
            *key = getrandom::u32().map_err(|error| Error::kernel("get random bytes", error))?;
        }
        let mut of_flows: Array<_, [u32; FLOW_KEYS_LEN]> = map!(folder, "FLOW_KEYS");
        of_flows.set(0, keys, 0).map_err(cannot_write("FLOW_KEYS"))?;
        let ways = Within {
            kind: bpf_map_type::BPF_MAP_TYPE_HASH,
            key: size_of::<u32>(),
            value: size_of::<Way>(),
            entries: MAX_WAYS,
            flags: BPF_F_NO_PREALLOC,
        };
        ways.make("ways", &mut map!(folder, "WAYS"), &folder.join(WAYS_PIN))?;
        let heard = Within {
            kind: bpf_map_type::BPF_MAP_TYPE_LRU_HASH,
            key: size_of::<HeardKey>(),
            value: size_of::<Ethernet>(),
            entries: MAX_HEARD,
            flags: 0,
        };
        heard.make("heard", &mut map!(folder, "HEARD"), &folder.join(HEARD_PIN))?;
        let flows = Within {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
            key: size_of::<u32>(),
            value: size_of::<[u64; 2 * FLOWS_OF_BUCKET]>(),
            entries: FLOW_BUCKETS,
            flags: BPF_F_MMAPABLE | BPF_F_INNER_MAP,
        };
        self.give(ALL_FLOWS_NEAR)?;
        self.give(NO_SUCCESSORS)?;
        // The last one: it says that all are there.
        flows.make("flows", &mut map!(folder, "FLOWS"), &folder.join(FLOWS_PIN))
    }
}

impl Liveness {
    /// Returns the signs of a way.
    pub(crate) fn signs(&self, number: u32) -> Signs {
        let [seen, answered, used] =
            [WAY_SEEN, WAY_ANSWERED, WAY_USED].map(|which| self.word(number, which).load(Ordering::Relaxed));
        Signs { seen, answered, used }
    }

    /// Returns until when a way is out of service, in nanoseconds of the monotonic clock.
    pub(crate) fn out(&self, number: u32) -> u64 {
        self.word(number, WAY_OUT).load(Ordering::Relaxed)
    }

    /// Takes a way out of service until then. 0 puts it back.
    pub(crate) fn set_out(&self, number: u32, until: u64) {
        self.word(number, WAY_OUT).store(until, Ordering::Relaxed);
    }

    /// Forgets what was known of a way.
    fn forget(&self, number: u32) {
        (0..LIVENESS_WORDS).for_each(|which| self.word(number, which).store(0, Ordering::Relaxed));
    }

    fn word(&self, number: u32, which: usize) -> &AtomicU64 {
        // A number has 16 bits, and each has a place.
        &self.0.words()[number as usize % LIVENESS_LEN as usize * LIVENESS_WORDS + which]
    }
}

impl FlowTable {
    /// Returns the entries of all flows, idle ones as well.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.memory.words().iter().skip(1).step_by(2).filter_map(|word| match word.load(Ordering::Relaxed) {
            0 => None,
            word => Some(Entry::read(word)),
        })
    }

    /// Whether there is a flow beyond the near buckets.
    fn has_far(&self) -> bool {
        let far = self.memory.words().chunks(2 * FLOWS_OF_BUCKET).skip(NEAR_BUCKETS as usize);
        far.flat_map(|bucket| bucket.iter().skip(1).step_by(2)).any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Returns the entry of a flow, by the same steps as the programs (`find` in `crates/byway-ebpf/src/flow_table.rs`).
    pub(crate) fn find(&self, key: &FlowKey) -> Option<Entry> {
        self.places(key).next().map(|(_, word)| Entry::read(word))
    }

    /// Removes a flow. Returns its entry, or `None` if it has none.
    pub(crate) fn remove(&self, key: &FlowKey) -> Option<Entry> {
        let removed: Vec<u64> =
            self.places(key).filter(|(place, word)| take(place, *word)).map(|(_, word)| word).collect();
        removed.first().map(|word| Entry::read(*word))
    }

    /// Removes the flows that `is_it` chooses. Returns how many.
    pub(crate) fn remove_if(&self, is_it: impl Fn(&Entry) -> bool) -> u64 {
        let places = self.memory.words().iter().skip(1).step_by(2);
        let chosen = places.filter(|place| {
            let word = place.load(Ordering::Relaxed);
            word != 0 && is_it(&Entry::read(word)) && take(place, word)
        });
        chosen.count() as u64
    }

    /// The places of a flow, each with the word that is there. Two CPUs may have given it two.
    fn places(&self, key: &FlowKey) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let fingerprint = fingerprint(&key.words(), &self.keys);
        let words = self.memory.words();
        let buckets = [NEAR, FAR].into_iter().flat_map(move |part| flow_buckets(fingerprint, part));
        buckets.flat_map(move |bucket| {
            let bucket = &words[bucket as usize * 2 * FLOWS_OF_BUCKET..][..2 * FLOWS_OF_BUCKET];
            bucket.as_chunks::<2>().0.iter().filter_map(move |[first, second]| {
                let word = second.load(Ordering::Relaxed);
                (word != 0 && first.load(Ordering::Relaxed) ^ word == fingerprint).then_some((second, word))
            })
        })
    }
}

/// Frees a place, unless a program has written there meanwhile. Returns whether it did.
fn take(place: &AtomicU64, word: u64) -> bool {
    place.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

impl FlowKey {
    fn words(&self) -> [u32; KEY_WORDS] {
        let addresses = [self.remote, self.local].map(words);
        let version = if self.local.is_ipv4() { 4 } else { 6 };
        flow_key(addresses, [self.remote_port, self.local_port], version, self.protocol)
    }
}

/// The clock that ages of entries are of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlowClock {
    now: u32,
    jiffies_per_second: u64,
}

impl FlowClock {
    /// Reads the clock. The kernel tells nobody its `jiffies`, but they follow the monotonic clock (`tick_do_update_jiffies64`,
    /// kernel/time/tick-sched.c), begin at `INITIAL_JIFFIES` (include/linux/jiffies.h), and are what the coarse clock counts.
    pub(crate) fn read() -> Result<Self> {
        let failed = |error| Error::kernel("read the clock", error);
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(failed)?;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_err(failed)?;
        let nanoseconds = |time: TimeSpec| time.tv_sec() as u64 * NANOSECONDS + time.tv_nsec() as u64;
        let tick = nanoseconds(tick).max(1);
        let jiffies_per_second = ((NANOSECONDS + tick / 2) / tick).max(1);
        let initial = (jiffies_per_second as u32).wrapping_mul(300).wrapping_neg();
        let jiffies = u64::from(initial) + nanoseconds(now) / tick;
        Ok(Self { now: flow_ticks(jiffies), jiffies_per_second })
    }

    /// Returns how many seconds ago an entry was written, in steps of 1,024 jiffies.
    pub(crate) fn age(self, entry: &Entry) -> u64 {
        (u64::from(self.ticks(entry)) << 10) / self.jiffies_per_second
    }

    /// Returns whether another flow may take the place of an entry.
    pub(crate) fn is_idle(self, entry: &Entry) -> bool {
        self.ticks(entry) > entry.timeout()
    }

    fn ticks(self, entry: &Entry) -> u32 {
        // The kernel may have lost some before it had a precise timer, and then an entry is younger than now.
        let ticks = entry.idle(self.now);
        if ticks > LAST_TICK - LOST { 0 } else { ticks }
    }
}

/// The most ticks that the kernel may have lost.
const LOST: u32 = 16;
const NANOSECONDS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use byway_abi::reply::FLOW_CONFIRMED;

    use super::*;

    fn entry(age: u32) -> Entry {
        Entry { way: 0xFFFF, age, state: FLOW_CONFIRMED, is_moving: true, number: 0xFF_FFFF }
    }

    #[test]
    fn an_entry_keeps_what_is_in_it() {
        for age in [0, 1, 0xFFFF, 0x1_0000, 0x5_4321, LAST_TICK] {
            assert_eq!(Entry::read(entry(age).word()), entry(age));
            let other = Entry { way: 1, state: 0, is_moving: false, number: 0, ..entry(age) };
            assert_eq!(Entry::read(other.word()), other);
        }
    }

    /// A place is not kept for days because a clock has begun anew.
    #[test]
    fn a_flow_stays_idle_for_days() {
        const DAY: u32 = 86_400_000 >> 10;
        let clock = FlowClock { now: 5, jiffies_per_second: 1_000 };
        for (idle, is_idle) in [(0, false), (9_000, false), (9_001, true), (DAY, true), (6 * DAY, true)] {
            let entry = entry(5_u32.wrapping_sub(idle) & LAST_TICK);
            assert_eq!((clock.ticks(&entry), clock.is_idle(&entry)), (idle, is_idle));
            assert_eq!(entry.rank(clock.now) == 0, is_idle);
        }
    }

    /// The kernel may have lost ticks, and then an entry is from a later time.
    #[test]
    fn an_entry_from_a_later_time_is_young() {
        let clock = FlowClock { now: 5, jiffies_per_second: 1_000 };
        assert_eq!((clock.age(&entry(6)), clock.age(&entry(4))), (0, 1));
    }
}
