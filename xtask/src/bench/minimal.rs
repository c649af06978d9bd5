//! The other programs of the benchmark, built from crates/byway-ebpf/src/bench.rs: those that measure, and above all the
//! minimal one to compare with, which does no more than it must.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData},
    programs::SchedClassifier,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("bench.bpf.o");

/// Loads some of the programs, with room for this many sources in the maps of `minimal`.
pub(super) fn load(entries: u32, programs: &[&str]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for map in ["MINIMAL4", "MINIMAL6"] {
        loader.map_max_entries(map, entries);
    }
    let mut object = loader.load(OBJECT)?;
    for name in programs {
        program(&mut object, name)?.load()?;
    }
    Ok(object)
}

/// Returns one of the programs.
pub(super) fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(object.program_mut(name).context("the object lacks a program")?.try_into()?)
}

/// Gives `minimal` its sources, and one next hop.
pub(super) fn know(
    object: &mut Ebpf,
    ifindex: u32,
    gateway: IpAddr,
    sources: impl Iterator<Item = IpAddr>,
) -> Result<()> {
    let family = if gateway.is_ipv4() { byway_abi::FAMILY_IPV4 } else { byway_abi::FAMILY_IPV6 };
    let [a, b, c, d] = words(gateway);
    let next_hop = [ifindex, family, a, b, c, d];
    if gateway.is_ipv4() {
        let map = object.map_mut("MINIMAL4").context("the object lacks a map")?;
        let mut map: HashMap<&mut MapData, u32, [u32; 6]> = map.try_into()?;
        for source in sources {
            map.insert(words(source)[0], next_hop, 0)?;
        }
    } else {
        let map = object.map_mut("MINIMAL6").context("the object lacks a map")?;
        let mut map: HashMap<&mut MapData, [u32; 4], [u32; 6]> = map.try_into()?;
        for source in sources {
            map.insert(words(source), next_hop, 0)?;
        }
    }
    Ok(())
}

/// Returns an address as four words in network byte order.
pub(super) fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            std::array::from_fn(|nth| {
                let [a, b, c, d] = [4 * nth, 4 * nth + 1, 4 * nth + 2, 4 * nth + 3].map(|nth| octets[nth]);
                u32::from_ne_bytes([a, b, c, d])
            })
        }
    }
}
