//! Where the packets of rules leave, and whether gateways answer: the facts behind an [`Obstacle`](crate::Obstacle).

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use byway_netlink::packet::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    route::{RouteAttribute, RouteMessage, RouteType},
};

use super::network::{Answer, Network, family, route_devices};
use crate::{
    error::{Error, Result},
    model::{NextHop, Prefix, Selector},
    policy::{
        obstacles::{Leaves, far_away},
        state::Neighbour,
    },
};

/// How long to sleep before looking at neighbour entries again.
const PAUSE: Duration = Duration::from_millis(5);

/// Returns where the packets of these rules leave, as the routing tables have it.
pub(crate) fn leaves<'a>(
    network: &mut Network,
    selectors: impl IntoIterator<Item = &'a Selector>,
) -> Result<BTreeMap<Selector, Leaves>> {
    let own = network.addresses()?;
    // Each looks at all devices, of which a host may have thousands.
    let [v4, v6] = ["ipv4", "ipv6"].map(|family| LazyCell::new(move || forwards(family)));
    let forwards = |is_ipv4| if is_ipv4 { *v4 } else { *v6 };
    let leaves = |selector: &Selector| Ok((*selector, leaves_of(network, &own, &forwards, selector)?));
    selectors.into_iter().map(leaves).collect()
}

fn leaves_of(
    network: &mut Network,
    own: &BTreeSet<IpAddr>,
    forwards: &impl Fn(bool) -> bool,
    selector: &Selector,
) -> Result<Leaves> {
    let prefix = selector.source();
    let source = own.iter().copied().find(|address| prefix.contains(*address));
    let source = source.unwrap_or_else(|| first_host(prefix));
    // The device that its packets come in by, unless they are the host's own.
    let comes_in = match network.route(source, None, None)? {
        Route::Local => None,
        _ if !forwards(source.is_ipv4()) => return Ok(Leaves::NoSource),
        Route::Device(device) => Some(device),
        _ => return Ok(Leaves::Unknown),
    };
    let destinations = match selector.destination() {
        Some(destination) => vec![first_host(destination)],
        None => far_away(&prefix).to_vec(),
    };
    let (mut devices, mut without) = (BTreeSet::new(), 0);
    for destination in &destinations {
        match network.route(*destination, Some(source), comes_in)? {
            // The way back out of where they came from is none that packets take.
            Route::Device(device) if Some(device) == comes_in => {}
            Route::Device(device) => drop(devices.insert(device)),
            Route::None => without += 1,
            Route::Local | Route::Other => {}
        }
    }
    Ok(match devices.is_empty() {
        false => Leaves::By(devices),
        true if without == destinations.len() => Leaves::Nowhere,
        true => Leaves::Unknown,
    })
}

/// An address that stands for a prefix.
fn first_host(prefix: Prefix) -> IpAddr {
    match prefix.address() {
        address if prefix.is_host() => address,
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).saturating_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).saturating_add(1).into()),
    }
}

/// Whether the host forwards packets that come in by any of its devices. Where that cannot be read, it does.
fn forwards(family: &str) -> bool {
    let Ok(devices) = fs::read_dir(format!("/proc/sys/net/{family}/conf")) else { return true };
    let setting = |device: fs::DirEntry| fs::read_to_string(device.path().join("forwarding")).ok();
    devices.flatten().filter_map(setting).any(|setting| setting.trim() != "0")
}

/// Returns the next hops whose gateway does not answer ARP or neighbour discovery. Waits so long at most for those that have
/// just been asked: the kernel goes on asking for a dead one, and its entry is failed only between the times.
pub(crate) fn unanswered(
    network: &mut Network,
    next_hops: &BTreeSet<NextHop>,
    patience: Duration,
) -> Result<BTreeSet<NextHop>> {
    let start = Instant::now();
    let mut left: BTreeSet<NextHop> =
        next_hops.iter().filter(|next_hop| !next_hop.is_waiting()).cloned().collect();
    let mut unanswered = BTreeSet::new();
    loop {
        let mut asked = BTreeSet::new();
        for next_hop in left {
            let Some(gateway) = next_hop.gateway else { continue };
            let neighbour = Neighbour { device: next_hop.device.clone(), gateway };
            match network.answer(&neighbour)? {
                Answer::None => drop(unanswered.insert(next_hop)),
                Answer::Asked(since) if since > patience && !patience.is_zero() => {
                    unanswered.insert(next_hop);
                }
                Answer::Asked(_) => drop(asked.insert(next_hop)),
                Answer::Fine => {}
            }
        }
        left = asked;
        if left.is_empty() || start.elapsed() >= patience {
            break;
        }
        thread::sleep(PAUSE);
    }
    if !patience.is_zero() {
        unanswered.extend(left);
    }
    Ok(unanswered)
}

/// Where a look-up in the routing tables leads.
enum Route {
    /// To this host.
    Local,
    /// Out of this device.
    Device(u32),
    /// There is none, or one that refuses.
    None,
    /// Elsewhere, or the kernel takes no packet with such addresses.
    Other,
}

impl Network {
    /// The addresses of this host, of both families.
    pub(crate) fn addresses(&mut self) -> Result<BTreeSet<IpAddr>> {
        let answers = self
            .netlink()
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(Error::io("list the addresses"))?;
        let mut addresses = BTreeSet::new();
        for answer in answers {
            let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
            // On a point-to-point device, `Address` is that of the other end.
            let mut address = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(local) => address = Some(*local),
                    AddressAttribute::Address(other) => address = address.or(Some(*other)),
                    _ => {}
                }
            }
            addresses.extend(address);
        }
        Ok(addresses)
    }

    /// Looks up the route of a packet, as `ip route get` does.
    fn route(&mut self, to: IpAddr, from: Option<IpAddr>, comes_in: Option<u32>) -> Result<Route> {
        let length = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let mut request = RouteMessage::default();
        request.header.address_family = family(to);
        request.header.destination_prefix_length = length(to);
        request.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(from) = from {
            request.header.source_prefix_length = length(from);
            request.attributes.push(RouteAttribute::Source(from.into()));
        }
        request.attributes.extend(comes_in.map(RouteAttribute::Iif));
        let route = match self.netlink().get(RouteNetlinkMessage::GetRoute(request)) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => route,
            Ok(_) => return Ok(Route::Other),
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES) => Ok(Route::None),
                    // A blackhole, or a source that no packet may have.
                    Some(libc::EINVAL | libc::EXDEV | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
                        Ok(Route::Other)
                    }
                    _ => Err(Error::kernel(format!("look up the route to {to}"), error)),
                };
            }
        };
        Ok(match (route.header.kind, route_devices(&route).first()) {
            (RouteType::Local, _) => Route::Local,
            (RouteType::Unicast, Some(device)) => Route::Device(*device),
            _ => Route::Other,
        })
    }
}
