//! The pinned maps: which record is where, and in which order it is written.
//!
//! A rule is spread over three maps: its record in `RULES`, its counters in `COUNTERS`, and one entry in a source
//! table, which is what packets find. Records and counters are written before the entry and removed after it, so
//! that the entry alone decides whether the rule holds. A record that no entry points to is a leftover.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    thread,
    time::Duration,
};

use aya::maps::{
    Array, HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues,
    lpm_trie::{Key, LpmTrie},
};
use byway_abi::{
    Counters, DeviceRecord, FAMILY_IPV4, FAMILY_IPV6, FAMILY_ON_LINK, NeighbourKey, OWNER_API, OWNER_CLI,
    RuleRecord, TARGET_DROP, TARGET_NEXT_HOP, TARGET_PASS, meta,
};

use crate::{
    error::{Error, Result},
    rule::{Device, NextHop, Owner, Prefix, Rule, Target},
};

/// The names of the maps: in the object, and of their pins.
pub(crate) const NAMES: [&str; 9] =
    ["HOSTS4", "HOSTS6", "PREFIXES4", "PREFIXES6", "COUNTERS", "RULES", "DEVICES", "NEIGHBOURS", "META"];

/// The open maps of one network namespace.
pub(crate) struct Tables {
    hosts4: HashMap<MapData, [u8; 4], byway_abi::Target>,
    hosts6: HashMap<MapData, [u8; 16], byway_abi::Target>,
    prefixes4: LpmTrie<MapData, [u8; 4], byway_abi::Target>,
    prefixes6: LpmTrie<MapData, [u8; 16], byway_abi::Target>,
    counters: PerCpuHashMap<MapData, u32, Counters>,
    rules: HashMap<MapData, u32, RuleRecord>,
    devices: HashMap<MapData, u32, DeviceRecord>,
    neighbours: HashMap<MapData, NeighbourKey, u32>,
    meta: Array<MapData, u32>,
    /// How many CPUs a per-CPU value has room for.
    cpus: usize,
}

/// What the records of rules say.
pub(crate) struct Records {
    /// The rules that hold, with their identities.
    pub(crate) held: Vec<(u32, Rule)>,
    /// The identities of leftovers.
    pub(crate) leftover: Vec<u32>,
}

/// Reads one slot of `META` without touching any other map, whose shape may be another version's.
pub(crate) fn read_meta(folder: &Path, slot: u32) -> Result<u32> {
    let meta: Array<MapData, u32> =
        open(folder, "META")?.try_into().map_err(|error| failed("open the map", "META", error))?;
    meta.get(&slot, 0).map_err(|error| failed("read the map", "META", error))
}

fn open(folder: &Path, name: &str) -> Result<Map> {
    MapData::from_pin(folder.join(name))
        .and_then(Map::from_map_data)
        .map_err(|error| failed("open the map", name, error))
}

fn failed(verb: &str, name: &str, error: MapError) -> Error {
    Error::kernel(format!("{verb} {name}"), error)
}

impl Tables {
    /// Opens the maps that are pinned in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let typed = |name, error| failed("open the map", name, error);
        macro_rules! map {
            ($name:literal) => {
                open(folder, $name)?.try_into().map_err(|error| typed($name, error))?
            };
        }
        Ok(Self {
            hosts4: map!("HOSTS4"),
            hosts6: map!("HOSTS6"),
            prefixes4: map!("PREFIXES4"),
            prefixes6: map!("PREFIXES6"),
            counters: map!("COUNTERS"),
            rules: map!("RULES"),
            devices: map!("DEVICES"),
            neighbours: map!("NEIGHBOURS"),
            meta: map!("META"),
            cpus: aya::util::nr_cpus()
                .map_err(|(file, error)| Error::kernel(format!("read {file}"), error))?,
        })
    }

    pub(crate) fn meta(&self, slot: u32) -> Result<u32> {
        self.meta.get(&slot, 0).map_err(|error| failed("read the map", "META", error))
    }

    pub(crate) fn set_meta(&mut self, slot: u32, value: u32) -> Result<()> {
        self.meta.set(slot, value, 0).map_err(|error| failed("write the map", "META", error))
    }

    /// An identity that no rule has had.
    fn next_id(&mut self) -> Result<u32> {
        let mut id = self.meta(meta::NEXT_RULE)?.max(1);
        while self.rules.get(&id, 0).is_ok() {
            id = id.wrapping_add(1).max(1);
        }
        self.set_meta(meta::NEXT_RULE, id.wrapping_add(1).max(1))?;
        Ok(id)
    }

    /// Lets `rule` hold, and returns its identity. A rule for the same source holds no longer from the same
    /// instant on; its record stays until it is forgotten.
    pub(crate) fn put(&mut self, rule: &Rule) -> Result<u32> {
        let id = self.next_id()?;
        let prepared = self.prepare(id, rule).and_then(|()| self.point(rule, id));
        if prepared.is_err() {
            // What was prepared holds nothing yet; what cannot be removed now is tidied by the next change.
            let _ = self.forget(id);
        }
        prepared.map(|()| id)
    }

    fn prepare(&mut self, id: u32, rule: &Rule) -> Result<()> {
        patiently(|| self.rules.insert(id, record(rule), 0))
            .map_err(|error| failed("write the map", "RULES", error))?;
        let zero = || {
            let values = PerCpuValues::try_from(vec![Counters::default(); self.cpus]);
            values.map_err(MapError::from).and_then(|zero| self.counters.insert(id, zero, 0))
        };
        patiently(zero).map_err(|error| failed("write the map", "COUNTERS", error))
    }

    /// Makes the source table's entry for the rule's source lead to the rule with this identity.
    pub(crate) fn point(&mut self, rule: &Rule, id: u32) -> Result<()> {
        let target = wire_target(&rule.target, id);
        let length = rule.source.len();
        patiently(|| match (rule.source.address(), rule.source.is_host()) {
            (IpAddr::V4(address), true) => self.hosts4.insert(address.octets(), target, 0),
            (IpAddr::V6(address), true) => self.hosts6.insert(address.octets(), target, 0),
            (IpAddr::V4(address), false) => {
                self.prefixes4.insert(&Key::new(length.into(), address.octets()), target, 0)
            }
            (IpAddr::V6(address), false) => {
                self.prefixes6.insert(&Key::new(length.into(), address.octets()), target, 0)
            }
        })
        .map_err(|error| failed("write the table of", &rule.source.to_string(), error))
    }

    /// Takes the source table's entry for `source` away.
    pub(crate) fn withdraw(&mut self, source: &Prefix) -> Result<()> {
        let length = source.len();
        match (source.address(), source.is_host()) {
            (IpAddr::V4(address), true) => self.hosts4.remove(&address.octets()),
            (IpAddr::V6(address), true) => self.hosts6.remove(&address.octets()),
            (IpAddr::V4(address), false) => self.prefixes4.remove(&Key::new(length.into(), address.octets())),
            (IpAddr::V6(address), false) => self.prefixes6.remove(&Key::new(length.into(), address.octets())),
        }
        .map_err(|error| failed("write the table of", &source.to_string(), error))
    }

    /// Removes the record and the counters of a rule that holds no longer. What is not there is no error.
    pub(crate) fn forget(&mut self, id: u32) -> Result<()> {
        gone(self.counters.remove(&id)).map_err(|error| failed("write the map", "COUNTERS", error))?;
        gone(self.rules.remove(&id)).map_err(|error| failed("write the map", "RULES", error))
    }

    /// The rule that packets from `source` find, as far as it is one for at least this prefix.
    fn entry(&self, source: &Prefix) -> Result<Option<u32>> {
        let length = source.len();
        let entry = match (source.address(), source.is_host()) {
            (IpAddr::V4(address), true) => self.hosts4.get(&address.octets(), 0),
            (IpAddr::V6(address), true) => self.hosts6.get(&address.octets(), 0),
            (IpAddr::V4(address), false) => self.prefixes4.get(&Key::new(length.into(), address.octets()), 0),
            (IpAddr::V6(address), false) => self.prefixes6.get(&Key::new(length.into(), address.octets()), 0),
        };
        found(entry)
            .map(|target| target.map(|target| target.rule))
            .map_err(|error| failed("read the table of", &source.to_string(), error))
    }

    /// What the records say.
    pub(crate) fn rules(&self) -> Result<Records> {
        let mut held = Vec::new();
        let mut leftover = Vec::new();
        for entry in self.rules.iter() {
            let (id, record) = entry.map_err(|error| failed("read the map", "RULES", error))?;
            match rule(&record) {
                Some(rule) if self.entry(&rule.source)? == Some(id) => held.push((id, rule)),
                _ => leftover.push(id),
            }
        }
        // A record may be missing while a change is under way: the walk over a map that is being changed may
        // start anew. It must not show a rule twice.
        held.sort_by_key(|(id, _)| *id);
        held.dedup_by_key(|(id, _)| *id);
        Ok(Records { held, leftover })
    }

    /// The counters of a rule, summed over the CPUs. All zero where the rule is gone.
    pub(crate) fn counters(&self, id: u32) -> Result<Counters> {
        let values =
            found(self.counters.get(&id, 0)).map_err(|error| failed("read the map", "COUNTERS", error))?;
        let mut sum = Counters::default();
        for cpu in values.iter().flat_map(|values| values.iter()) {
            sum.departed_packets = sum.departed_packets.wrapping_add(cpu.departed_packets);
            sum.departed_bytes = sum.departed_bytes.wrapping_add(cpu.departed_bytes);
            sum.arrived_packets = sum.arrived_packets.wrapping_add(cpu.arrived_packets);
            sum.arrived_bytes = sum.arrived_bytes.wrapping_add(cpu.arrived_bytes);
            sum.passed_packets = sum.passed_packets.wrapping_add(cpu.passed_packets);
            sum.passed_bytes = sum.passed_bytes.wrapping_add(cpu.passed_bytes);
            sum.dropped_packets = sum.dropped_packets.wrapping_add(cpu.dropped_packets);
            sum.dropped_bytes = sum.dropped_bytes.wrapping_add(cpu.dropped_bytes);
        }
        Ok(sum)
    }

    pub(crate) fn devices(&self) -> Result<Vec<(u32, DeviceRecord)>> {
        self.devices
            .iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| failed("read the map", "DEVICES", error))
    }

    pub(crate) fn set_device(&mut self, index: u32, record: DeviceRecord) -> Result<()> {
        self.devices.insert(index, record, 0).map_err(|error| failed("write the map", "DEVICES", error))
    }

    pub(crate) fn forget_device(&mut self, index: u32) -> Result<()> {
        gone(self.devices.remove(&index)).map_err(|error| failed("write the map", "DEVICES", error))
    }

    /// The neighbours that Byway keeps, as ifindex and gateway.
    pub(crate) fn neighbours(&self) -> Result<Vec<(u32, IpAddr)>> {
        let mut neighbours = Vec::new();
        for key in self.neighbours.keys() {
            let key = key.map_err(|error| failed("read the map", "NEIGHBOURS", error))?;
            if let Some(gateway) = read_gateway(key.family, key.gateway) {
                neighbours.push((key.ifindex, gateway));
            }
        }
        Ok(neighbours)
    }

    pub(crate) fn remember_neighbour(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        self.neighbours
            .insert(neighbour_key(index, gateway), 1, 0)
            .map_err(|error| failed("write the map", "NEIGHBOURS", error))
    }

    pub(crate) fn forget_neighbour(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        gone(self.neighbours.remove(&neighbour_key(index, gateway)))
            .map_err(|error| failed("write the map", "NEIGHBOURS", error))
    }
}

/// How long an insertion is tried again, in steps of [`REFILL_STEP`]: a second.
const REFILL_STEPS: u32 = 20_000;
const REFILL_STEP: Duration = Duration::from_micros(50);

/// An insertion that waits for memory. The kernel takes a map's elements from a small stock that it fills up in the
/// background (kernel/bpf/memalloc.c), and says `ENOMEM` to whoever is faster than that.
fn patiently(
    mut insert: impl FnMut() -> std::result::Result<(), MapError>,
) -> std::result::Result<(), MapError> {
    for _ in 0..REFILL_STEPS {
        match insert() {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOMEM) => {
                thread::sleep(REFILL_STEP);
            }
            done => return done,
        }
    }
    insert()
}

/// A look-up without its "no such key".
fn found<T>(result: std::result::Result<T, MapError>) -> std::result::Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A removal without its "no such key".
fn gone(result: std::result::Result<(), MapError>) -> std::result::Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        other => other,
    }
}

fn wire_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut wire = [0; 16];
            wire[..4].copy_from_slice(&v4.octets());
            wire
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn wire_gateway(gateway: Option<IpAddr>) -> (u32, [u8; 16]) {
    match gateway {
        None => (FAMILY_ON_LINK, [0; 16]),
        Some(address @ IpAddr::V4(_)) => (FAMILY_IPV4, wire_address(address)),
        Some(address @ IpAddr::V6(_)) => (FAMILY_IPV6, wire_address(address)),
    }
}

fn read_gateway(family: u32, wire: [u8; 16]) -> Option<IpAddr> {
    match family {
        FAMILY_IPV4 => Some(Ipv4Addr::new(wire[0], wire[1], wire[2], wire[3]).into()),
        FAMILY_IPV6 => Some(Ipv6Addr::from(wire).into()),
        _ => None,
    }
}

fn neighbour_key(ifindex: u32, gateway: IpAddr) -> NeighbourKey {
    let (family, gateway) = wire_gateway(Some(gateway));
    NeighbourKey { ifindex, family, gateway }
}

/// A name in a field that is filled up with zeros. A longer one is cut.
pub(crate) fn wire_name<const N: usize>(name: &str) -> [u8; N] {
    let mut wire = [0; N];
    let length = name.len().min(N);
    wire[..length].copy_from_slice(&name.as_bytes()[..length]);
    wire
}

/// The name in such a field. What is no text is shown as well as it can be.
pub(crate) fn read_name(wire: &[u8]) -> String {
    let end = wire.iter().position(|byte| *byte == 0).unwrap_or(wire.len());
    String::from_utf8_lossy(&wire[..end]).into_owned()
}

fn wire_target(target: &Target, rule: u32) -> byway_abi::Target {
    let of_kind = |kind| byway_abi::Target { rule, kind, ifindex: 0, family: 0, gateway: [0; 16] };
    match target {
        Target::NextHop(NextHop { gateway, device }) => {
            let (family, gateway) = wire_gateway(*gateway);
            byway_abi::Target { ifindex: device.index, family, gateway, ..of_kind(TARGET_NEXT_HOP) }
        }
        Target::Pass => of_kind(TARGET_PASS),
        Target::Drop => of_kind(TARGET_DROP),
    }
}

fn record(rule: &Rule) -> RuleRecord {
    let byway_abi::Target { kind, ifindex, family, gateway, .. } = wire_target(&rule.target, 0);
    let device = rule.target.next_hop().map_or("", |next_hop| &next_hop.device.name);
    RuleRecord {
        source: wire_address(rule.source.address()),
        gateway,
        ifindex,
        family,
        source_family: if rule.source.address().is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 },
        source_len: rule.source.len(),
        owner: match rule.owner {
            Owner::Cli => OWNER_CLI,
            Owner::Api => OWNER_API,
        },
        target: kind as u8,
        reserved: 0,
        device: wire_name(device),
        name: wire_name(rule.name.as_deref().unwrap_or("")),
    }
}

/// The rule in a record, or nothing where the record makes no sense.
fn rule(record: &RuleRecord) -> Option<Rule> {
    let name = read_name(&record.name);
    Some(Rule {
        source: Prefix::holding(read_gateway(record.source_family, record.source)?, record.source_len)?,
        target: match u32::from(record.target) {
            TARGET_NEXT_HOP => Target::NextHop(NextHop {
                gateway: read_gateway(record.family, record.gateway),
                device: Device { name: read_name(&record.device), index: record.ifindex },
            }),
            TARGET_PASS => Target::Pass,
            TARGET_DROP => Target::Drop,
            _ => return None,
        },
        owner: match record.owner {
            OWNER_CLI => Owner::Cli,
            OWNER_API => Owner::Api,
            _ => return None,
        },
        name: (!name.is_empty()).then_some(name),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rule_survives_its_record(
            source: [u8; 16], length in 0..=128_u8, v4: bool, kind in 0..4_u8, gateway: Option<[u8; 16]>, index: u32,
            device in "[a-z0-9]{1,15}", name in proptest::option::of("[a-z]{1,32}"),
        ) {
            let address = |wire: [u8; 16]| -> IpAddr {
                if v4 { IpAddr::from([wire[0], wire[1], wire[2], wire[3]]) } else { wire.into() }
            };
            let before = Rule {
                source: Prefix::holding(address(source), if v4 { length % 33 } else { length }).unwrap(),
                target: match kind {
                    0 => Target::Pass,
                    1 => Target::Drop,
                    _ => Target::NextHop(NextHop { gateway: gateway.map(address), device: Device { name: device, index } }),
                },
                owner: Owner::Api,
                name,
            };
            prop_assert_eq!(rule(&record(&before)), Some(before));
        }

        #[test]
        fn no_record_makes_the_reader_panic(bytes: [[u8; 16]; 2], numbers: [u32; 3], small: [u8; 3], name: [u8; 32]) {
            let _ = rule(&RuleRecord {
                source: bytes[0], gateway: bytes[1], ifindex: numbers[0], family: numbers[1],
                source_family: numbers[2] % 12, source_len: small[0], owner: small[1], target: small[2], reserved: 0,
                device: bytes[0], name,
            });
        }
    }
}
