//! The network stack: devices, routes and neighbours (rtnetlink(7)).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    net::IpAddr,
    time::Duration,
};

use byway_netlink::{
    NLM_F_CREATE, NLM_F_REPLACE, Netlink,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Prop},
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
            NeighbourState,
        },
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RoutePreference,
            RouteProtocol, RouteType, RouteVia,
        },
    },
};
use ipnet::IpNet;

use crate::{
    error::{Error, Result},
    model::{Device, Learned},
    policy::{
        guard::Seen,
        snapshot::{Found, Header, Host, LearnedGateways, Link, Local, Questions},
        state::Neighbour,
    },
};

/// What the neighbour table says of an address.
pub(super) enum Answer {
    /// The entry has failed: nobody has answered.
    None,
    /// It has been asked for, and has not answered for so long.
    Asked(Duration),
    /// It has answered, needs no answer, or has not been asked for.
    Fine,
}

/// The addresses of the neighbours on Ethernet, by ifindex and Ethernet address.
pub(crate) type NeighbourAddresses = BTreeMap<(u32, [u8; 6]), BTreeSet<IpAddr>>;

/// The network stack of one namespace.
#[derive(Debug)]
pub(crate) struct Network {
    netlink: Netlink,
}

impl Network {
    /// The calling thread's network namespace.
    pub(crate) fn open() -> Result<Self> {
        let netlink = Netlink::open().map_err(Error::io("open a netlink socket"))?;
        Ok(Self { netlink })
    }

    pub(crate) fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Returns every device, by ifindex.
    pub(crate) fn links(&mut self) -> Result<BTreeMap<u32, Link>> {
        let answers = self
            .netlink
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(Error::io("list the devices"))?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(&message)),
            _ => None,
        });
        Ok(links.map(|link| (link.device.index, link)).collect())
    }

    /// Reads a device.
    pub(crate) fn link(&mut self, device: &Device) -> Result<Link> {
        let gone = || Error::NoSuchDevice(device.name.clone());
        let mut request = LinkMessage::default();
        request.header.index = device.index;
        match self.netlink.get(RouteNetlinkMessage::GetLink(request)) {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(link(&message)),
            Ok(_) => Err(gone()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(gone()),
            Err(error) => Err(Error::kernel(format!("look at {}", device.name), error)),
        }
    }

    /// Answers the questions about the network stack, with these devices.
    pub(crate) fn host(
        &mut self,
        links: BTreeMap<u32, Link>,
        questions: &Questions,
        is_attached: bool,
    ) -> Result<Host> {
        let mut host = Host { links, ..Host::default() };
        if questions.default_routes || (questions.default_routes_unless_attached && !is_attached) {
            host.default_routes = self.default_route_devices()?;
        }
        host.learned = self.learned_gateways(&questions.learned)?;
        if questions.rp_filter {
            host.strict_rp_filter = strict_rp_filter(&host.links);
        }
        // Read each table once, however many gateways there are.
        let mut local: BTreeMap<bool, Vec<RouteMessage>> = BTreeMap::new();
        let mut of_device: BTreeMap<(bool, u32), Vec<RouteMessage>> = BTreeMap::new();
        for (gateway, name) in &questions.gateways {
            let (family, is_v4) = (family(*gateway), gateway.is_ipv4());
            let routes = host.gateways.entry(*gateway).or_default();
            let Some(name) = name else {
                routes.found = self.look_up(*gateway)?;
                continue;
            };
            let Some(link) = host.links.values().find(|link| link.is_called(name)) else { continue };
            let local = match local.entry(is_v4) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(empty) => empty.insert(self.routes(
                    family,
                    ANY,
                    Some(RouteAttribute::Table(RT_TABLE_LOCAL.into())),
                    |_| true,
                )?),
            };
            routes.local = local.iter().filter(|route| covers(route, *gateway)).find_map(local_kind);
            let index = link.device.index;
            let of_device = match of_device.entry((is_v4, index)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(empty) => {
                    empty.insert(self.routes(family, ANY, Some(RouteAttribute::Oif(index)), |_| true)?)
                }
            };
            if of_device.iter().any(|route| is_connected(route) && covers(route, *gateway)) {
                routes.on_link.insert(index);
            }
        }
        Ok(host)
    }

    /// Returns the devices that carry a default route of the main table, of either family.
    pub(crate) fn default_route_devices(&mut self) -> Result<BTreeSet<u32>> {
        let mut devices = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let main = RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into());
            for route in self.routes(family, ANY, Some(main), is_default)? {
                devices.extend(route_devices(&route));
            }
        }
        Ok(devices)
    }

    /// Returns the gateways that the host has learned: those of the devices' own default routes in any table, of the lowest
    /// metric and there of the highest preference (RFC 4191).
    pub(crate) fn learned_gateways(&mut self, from: &BTreeSet<Learned>) -> Result<LearnedGateways> {
        let mut best: BTreeMap<(Learned, u32), (Rank, BTreeSet<IpAddr>)> = BTreeMap::new();
        for learned in from {
            let (family, protocol) = match learned {
                Learned::Dhcp => (AddressFamily::Inet, RouteProtocol::Dhcp),
                Learned::Ra => (AddressFamily::Inet6, RouteProtocol::Ra),
            };
            let is_it = |route: &RouteMessage| route.header.protocol == protocol && is_default(route);
            for route in self.routes(family, protocol, None, is_it)? {
                let rank = rank(&route);
                for (device, gateway) in route_gateways(&route) {
                    let (of, gateways) = best.entry((*learned, device)).or_insert((rank, BTreeSet::new()));
                    if rank < *of {
                        (*of, *gateways) = (rank, BTreeSet::new());
                    }
                    if rank == *of {
                        gateways.insert(gateway);
                    }
                }
            }
        }
        Ok(best.into_iter().map(|(key, (_, gateways))| (key, gateways.into_iter().collect())).collect())
    }

    /// Returns the gateway of the only default route of a family in the main table, with its device. `None` if there are other
    /// ways, or none.
    pub(crate) fn only_default_gateway(&mut self, is_v4: bool) -> Result<Option<(u32, IpAddr)>> {
        let family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let main = RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into());
        Ok(match &self.routes(family, ANY, Some(main), is_default)?[..] {
            [only] => route_gateway(only),
            _ => None,
        })
    }

    /// Returns a device with its Ethernet address. `None` if it has none, if the kernel resolves no neighbours there, or if it takes
    /// packets to this address for its own (macvlan, ipvlan).
    pub(crate) fn ethernet_address(&mut self, index: u32) -> Result<Option<(Device, [u8; 6])>> {
        let Some(message) = self.link_message(index)? else { return Ok(None) };
        let Link { device, header, has_neighbours, .. } = link(&message);
        let is_fit = header == Header::Ethernet && has_neighbours && !is_stacked(&message);
        Ok(address_of(&message).filter(|_| is_fit).map(|own| (device, own)))
    }

    /// Returns the Ethernet address of a device, if it has one.
    pub(crate) fn own_address(&mut self, index: u32) -> Result<Option<[u8; 6]>> {
        Ok(self.link_message(index)?.as_ref().and_then(address_of))
    }

    fn link_message(&mut self, index: u32) -> Result<Option<LinkMessage>> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        match self.netlink.get(RouteNetlinkMessage::GetLink(request)) {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(message)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(Error::kernel("look at a device", error)),
        }
    }

    /// Returns what the kernel knows of a default gateway. `own` is the address that may stand in for it.
    pub(crate) fn seen(&mut self, gateway: &Neighbour, own: &[u8; 6]) -> Result<Seen> {
        let Some(message) = self.neighbour(gateway)? else { return Ok(Seen::Unknown) };
        let stands_in = |attribute: &NeighbourAttribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes == own,
            _ => false,
        };
        Ok(match message.header.state {
            // Somebody else has the kernel ask for it.
            _ if is_managed(&message) => Seen::Answers,
            NeighbourState::Failed => Seen::Silent,
            // Under traffic the kernel begins to ask again before anybody sees that it has failed.
            NeighbourState::Incomplete if since(&message) >= ANSWERS_WITHIN => Seen::Silent,
            NeighbourState::Incomplete => Seen::Asked,
            NeighbourState::None => Seen::Unknown,
            _ if message.attributes.iter().any(stands_in) => Seen::StoodIn,
            _ => Seen::Answers,
        })
    }

    /// Gives the kernel an address for a default gateway that does not answer. A device that is gone, or has lost the protocol,
    /// is not an error.
    pub(crate) fn stand_in(&mut self, gateway: &Neighbour, own: &[u8; 6]) -> Result<()> {
        let mut request = neighbour_request(gateway);
        request.header.state = NeighbourState::Stale;
        if gateway.gateway.is_ipv6() {
            // As in the kernel's own entry of a router (RFC 4861, 7.2.5).
            request.header.flags = NeighbourFlags::Router;
        }
        request.attributes.push(NeighbourAttribute::LinkLayerAddress(own.to_vec()));
        match self.change_neighbour(request) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN | libc::EINVAL)) =>
            {
                Ok(())
            }
            changed => changed.map_err(neighbour_unchanged(gateway)),
        }
    }

    /// Takes the address away again that stands in for a gateway. One that answers keeps its own.
    pub(crate) fn stop_standing_in(&mut self, gateway: &Neighbour) -> Result<()> {
        match self.ethernet_address(gateway.device.index)? {
            Some((_, own)) if self.seen(gateway, &own)? == Seen::StoodIn => self.delete_neighbour(gateway),
            _ => Ok(()),
        }
    }

    /// Makes the kernel ask for a gateway as if it knew nothing of it.
    pub(crate) fn ask_anew(&mut self, gateway: &Neighbour) -> Result<()> {
        self.delete_neighbour(gateway)?;
        let mut request = neighbour_request(gateway);
        request.header.flags = NeighbourFlags::Use;
        // Whatever comes of it: soon an address stands in again.
        let _ = self.change_neighbour(request);
        Ok(())
    }

    fn delete_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        match self.netlink.change(RouteNetlinkMessage::DelNeighbour(neighbour_request(neighbour)), 0) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                Err(neighbour_unchanged(neighbour)(error))
            }
            _ => Ok(()),
        }
    }

    /// Looks up the route to a gateway.
    pub(super) fn look_up(&mut self, gateway: IpAddr) -> Result<Found> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(gateway);
        request.header.destination_prefix_length = if gateway.is_ipv4() { 32 } else { 128 };
        request.attributes.push(RouteAttribute::Destination(gateway.into()));
        let route = match self.netlink.get(RouteNetlinkMessage::GetRoute(request)) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => route,
            // No route, or one that refuses (`unreachable`, `prohibit`, `blackhole`).
            Ok(_) => return Ok(Found::Nothing),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                ) =>
            {
                return Ok(Found::Nothing);
            }
            Err(error) => return Err(Error::kernel(format!("look up the route to {gateway}"), error)),
        };
        Ok(match (local_kind(&route), route_devices(&route).first()) {
            (Some(local), _) => Found::Local(local),
            (None, Some(device)) if is_connected(&route) => Found::Device(*device),
            (None, _) => Found::Nothing,
        })
    }

    /// The device where the routing tables find a gateway now.
    pub(crate) fn device_for(&mut self, gateway: IpAddr) -> Result<Option<u32>> {
        Ok(match self.look_up(gateway)? {
            Found::Device(index) => Some(index),
            Found::Local(_) | Found::Nothing => None,
        })
    }

    /// Whether a route to a network of the device, and not to everywhere, leads straight to a gateway.
    pub(crate) fn is_connected_to(&mut self, index: u32, gateway: IpAddr) -> Result<bool> {
        let is_it = |route: &RouteMessage| {
            route.header.destination_prefix_length > 0 && is_connected(route) && covers(route, gateway)
        };
        Ok(!self.routes(family(gateway), ANY, Some(RouteAttribute::Oif(index)), is_it)?.is_empty())
    }

    /// Returns the routes of a family and a protocol that the kernel finds by this filter, and that are meant.
    fn routes(
        &mut self,
        family: AddressFamily,
        protocol: RouteProtocol,
        filter: Option<RouteAttribute>,
        is_meant: impl Fn(&RouteMessage) -> bool,
    ) -> Result<Vec<RouteMessage>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.protocol = protocol;
        request.attributes.extend(filter);
        let is_it = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewRoute(route) => route.header.address_family == family && is_meant(route),
            _ => false,
        };
        match self.netlink.dump_only(RouteNetlinkMessage::GetRoute(request), is_it) {
            Ok(answers) => Ok(answers
                .into_iter()
                .filter_map(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(route) => Some(route),
                    _ => None,
                })
                .collect()),
            // A table that has never had a route, or a family that the kernel lacks.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(Error::kernel("list the routes", error)),
        }
    }

    /// Makes the kernel keep a neighbour resolved (`NTF_EXT_MANAGED`, Linux 5.16). Returns whether this call
    /// started it, so that somebody has to stop it later.
    pub(crate) fn keep_resolved(&mut self, neighbour: &Neighbour) -> Result<bool> {
        let has_neighbours = match self.link(&neighbour.device) {
            Err(Error::NoSuchDevice(_)) => false,
            link => link?.has_neighbours,
        };
        if !has_neighbours || self.neighbour(neighbour)?.is_some_and(|now| is_managed(&now) || is_fixed(&now))
        {
            return Ok(false);
        }
        let mut request = neighbour_request(neighbour);
        // A kernel without managed neighbours resolves it this once, unless it is resolved already.
        request.header.flags = NeighbourFlags::Use;
        request.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        match self.change_neighbour(request) {
            // The device has lost the gateway's protocol, for example IPv6 by a small MTU (`ndisc_constructor`,
            // net/ipv6/ndisc.c), and has no such neighbours until that is back.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
            changed => changed.map_err(neighbour_unchanged(neighbour))?,
        }
        // An older kernel takes the request and ignores the flag that it does not know.
        Ok(self.neighbour(neighbour)?.is_some_and(|now| is_managed(&now)))
    }

    /// Whether the kernel keeps a neighbour resolved. It stops when the link goes down.
    pub(crate) fn is_kept_resolved(&mut self, neighbour: &Neighbour) -> Result<bool> {
        Ok(self.neighbour(neighbour)?.is_some_and(|now| is_managed(&now)))
    }

    /// Whether a neighbour answers. One that nobody has asked for may.
    pub(super) fn answer(&mut self, neighbour: &Neighbour) -> Result<Answer> {
        let Some(message) = self.neighbour(neighbour)? else { return Ok(Answer::Fine) };
        Ok(match message.header.state {
            NeighbourState::Failed => Answer::None,
            NeighbourState::Incomplete => Answer::Asked(since(&message)),
            _ => Answer::Fine,
        })
    }

    /// Returns the link-layer address that the kernel has for a neighbour. Without one, asks the kernel to find it out, and to
    /// confirm one that is old: nobody else may ask for it. It keeps the neighbour resolved only if it does already.
    pub(crate) fn link_layer_address(&mut self, neighbour: &Neighbour) -> Result<Option<Vec<u8>>> {
        let now = self.neighbour(neighbour)?;
        let is_kept = now.as_ref().is_some_and(is_managed);
        let is_old = now.as_ref().is_some_and(|now| now.header.state == NeighbourState::Stale);
        let attributes = now.map(|now| now.attributes).unwrap_or_default();
        let address = attributes.into_iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => Some(bytes),
            _ => None,
        });
        if address.is_none() || is_old {
            let mut request = neighbour_request(neighbour);
            request.header.flags = NeighbourFlags::Use;
            if is_kept {
                request.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            }
            // The next look shows what came of it, or that the device has no such neighbours.
            let _ = self.change_neighbour(request);
        }
        Ok(address)
    }

    /// Returns the addresses of devices that packets may leave with, by ifindex, the first of each device first. One that is
    /// deprecated is there only if the device has no other like it.
    pub(crate) fn source_addresses(&mut self) -> Result<BTreeMap<u32, Vec<IpNet>>> {
        let answers = self
            .netlink
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(Error::io("list the addresses"))?;
        let mut all: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        let mut deprecated = Vec::new();
        for answer in answers {
            let RouteNetlinkMessage::NewAddress(AddressMessage { header, attributes, .. }) = answer else {
                continue;
            };
            let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
            if header.flags.intersects(unusable) || header.scope == AddressScope::Host {
                continue;
            }
            let (mut local, mut address) = (None, None);
            for attribute in attributes {
                match attribute {
                    // Of a point-to-point link, the other is the peer's (rtnetlink(7)).
                    AddressAttribute::Local(it) => local = Some(it),
                    AddressAttribute::Address(it) => address = Some(it),
                    _ => {}
                }
            }
            let net = local.or(address).and_then(|it| IpNet::new(it, header.prefix_len).ok());
            match header.flags.contains(AddressHeaderFlags::Deprecated) {
                true => deprecated.extend(net.map(|net| (header.index, net))),
                false => all.entry(header.index).or_default().extend(net),
            }
        }
        let kind = |net: &IpNet| match net.addr() {
            IpAddr::V4(_) => (true, false),
            IpAddr::V6(v6) => (false, v6.is_unicast_link_local()),
        };
        for (index, net) in deprecated {
            let of_device = all.entry(index).or_default();
            if !of_device.iter().any(|other| kind(other) == kind(&net)) {
                of_device.push(net);
            }
        }
        Ok(all)
    }

    /// Makes a neighbour an ordinary one again. A neighbour that is gone is not an error.
    pub(crate) fn let_go(&mut self, neighbour: &Neighbour) -> Result<()> {
        let Some(now) = self.neighbour(neighbour)?.filter(is_managed) else { return Ok(()) };
        let mut request = neighbour_request(neighbour);
        let lladdr = now
            .attributes
            .into_iter()
            .find(|attribute| matches!(attribute, NeighbourAttribute::LinkLayerAddress(_)));
        // A known address stays, and is confirmed at its next use.
        match lladdr {
            Some(lladdr) => {
                request.header.state = NeighbourState::Stale;
                request.attributes.push(lladdr);
                self.change_neighbour(request).map_err(neighbour_unchanged(neighbour))
            }
            None => match self.netlink.change(RouteNetlinkMessage::DelNeighbour(request), 0) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(Error::kernel(
                    format!("stop keeping the neighbour {} resolved", neighbour.gateway),
                    error,
                )),
                _ => Ok(()),
            },
        }
    }

    /// Returns what the neighbour table has.
    pub(crate) fn addresses_of_neighbours(&mut self) -> Result<NeighbourAddresses> {
        let answers = self
            .netlink
            .dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))
            .map_err(Error::io("list the neighbours"))?;
        let mut addresses = NeighbourAddresses::new();
        for answer in answers {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
            let (mut address, mut lladdr) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                        address = Some((*v4).into())
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                        address = Some((*v6).into())
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = bytes.as_slice().try_into().ok(),
                    _ => {}
                }
            }
            if let (Some(address), Some(lladdr)) = (address, lladdr) {
                addresses.entry((message.header.ifindex, lladdr)).or_default().insert(address);
            }
        }
        Ok(addresses)
    }

    fn change_neighbour(&mut self, request: NeighbourMessage) -> std::io::Result<()> {
        self.netlink.change(RouteNetlinkMessage::NewNeighbour(request), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(super) fn neighbour(&mut self, neighbour: &Neighbour) -> Result<Option<NeighbourMessage>> {
        match self.netlink.get(RouteNetlinkMessage::GetNeighbour(neighbour_request(neighbour))) {
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => Ok(Some(message)),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(error) => Err(Error::kernel(
                format!("look at the neighbour {} on {}", neighbour.gateway, neighbour.device.name),
                error,
            )),
        }
    }
}

/// How long a default gateway has to answer that the kernel has just asked for. In one network that takes a millisecond.
const ANSWERS_WITHIN: Duration = Duration::from_millis(250);

/// Routes of any protocol.
const ANY: RouteProtocol = RouteProtocol::Unspec;

/// How a default route ranks among those of its device: the lower, the better. Its metric, and what its router has said.
type Rank = (u32, u8);

fn rank(route: &RouteMessage) -> Rank {
    let (mut metric, mut preference) = (0, 1);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(it) => metric = *it,
            RouteAttribute::Preference(RoutePreference::High) => preference = 0,
            RouteAttribute::Preference(RoutePreference::Low) => preference = 2,
            _ => {}
        }
    }
    (metric, preference)
}

/// `RT_TABLE_LOCAL` (include/uapi/linux/rtnetlink.h).
const RT_TABLE_LOCAL: u8 = 255;

fn address_of(message: &LinkMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        // The name is not among what could be read if it is no text.
        device: Device::from_kernel("", message.header.index),
        header: header(message.header.link_layer_type),
        mtu: 0,
        is_loopback: flags.contains(LinkFlags::Loopback),
        is_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::LowerUp),
        has_neighbours: !flags.contains(LinkFlags::Noarp),
        other_names: Vec::new(),
        parent: None,
        master: None,
        group: 0,
    };
    let (mut lower, mut is_elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.device = Device::from_kernel(name, link.device.index),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::PropList(properties) => {
                link.other_names.extend(properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Group(group) => link.group = *group,
            _ => {}
        }
    }
    // The link of a veth is its other end. A VLAN's packets carry a tag on the lower device.
    link.parent = lower.filter(|_| is_stacked(message) && !is_elsewhere);
    link
}

/// Whether a device shares the Ethernet of another one: macvlan and ipvlan.
fn is_stacked(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| {
            matches!(
                info,
                LinkInfo::Kind(InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap)
            )
        }),
        _ => false,
    })
}

fn neighbour_unchanged(neighbour: &Neighbour) -> impl FnOnce(std::io::Error) -> Error {
    Error::io(format!("change the neighbour {} on {}", neighbour.gateway, neighbour.device.name))
}

fn header(link_layer: LinkLayerType) -> Header {
    match link_layer {
        LinkLayerType::Ether => Header::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => Header::L3,
        _ => Header::Other,
    }
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

/// Returns the gateway of a route, with its device. `None` if it has several, or none.
fn route_gateway(route: &RouteMessage) -> Option<(u32, IpAddr)> {
    let [device] = route_devices(route)[..] else { return None };
    Some((device, gateway(&route.attributes)?))
}

/// Returns the gateways of a route, each with its device: several for a multipath route, which IPv6 makes of equal ones.
fn route_gateways(route: &RouteMessage) -> Vec<(u32, IpAddr)> {
    let hops = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let of_hop = |hop: &RouteNextHop| Some((hop.interface_index, gateway(&hop.attributes)?));
    hops.flatten().filter_map(of_hop).chain(route_gateway(route)).collect()
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
            Some(IpAddr::V4(*v4))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
            Some(IpAddr::V6(*v6))
        }
        _ => None,
    })
}

/// Why the destination of this route cannot be a gateway, if so.
fn local_kind(route: &RouteMessage) -> Option<Local> {
    match route.header.kind {
        RouteType::Local => Some(Local::Address),
        RouteType::Broadcast => Some(Local::Broadcast),
        _ => None,
    }
}

/// Returns the devices with strict `rp_filter`. A setting that cannot be read counts as off.
pub(crate) fn strict_rp_filter(links: &BTreeMap<u32, Link>) -> BTreeSet<u32> {
    let setting = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    let all = setting("all");
    links
        .values()
        .map(|link| &link.device)
        .filter(|it| setting(&it.name).max(all) == 1)
        .map(|it| it.index)
        .collect()
}

/// Returns the devices that a route leads out of: several for a multipath route.
pub(super) fn route_devices(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(device) => devices.push(*device),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    devices
}

/// Whether the route leads straight to its destinations, without a gateway.
fn is_connected(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast
        && !route.attributes.iter().any(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
            )
        })
        // The kernel may show only the number of a nexthop object (net.ipv4.nexthop_compat_mode): it may have a gateway.
        && route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Oif(_)))
}

fn covers(route: &RouteMessage, address: IpAddr) -> bool {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    match destination {
        Some(destination) => IpNet::new(destination, route.header.destination_prefix_length)
            .is_ok_and(|net| net.contains(&address)),
        None => route.header.destination_prefix_length == 0,
    }
}

fn neighbour_request(neighbour: &Neighbour) -> NeighbourMessage {
    let mut request = NeighbourMessage::default();
    request.header.family = family(neighbour.gateway);
    request.header.ifindex = neighbour.device.index;
    request.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(neighbour.gateway)));
    request
}

/// How long a neighbour's entry has been in its state. The kernel tells it in hundredths of a second (`USER_HZ`,
/// `neigh_fill_info` in net/core/neighbour.c).
fn since(message: &NeighbourMessage) -> Duration {
    let updated = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::CacheInfo(info) => Some(info.updated),
        _ => None,
    });
    Duration::from_millis(10 * u64::from(updated.unwrap_or(0)))
}

fn is_managed(message: &NeighbourMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed))
    })
}

/// Whether someone set the address by hand, so there is nothing to resolve.
fn is_fixed(message: &NeighbourMessage) -> bool {
    matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
}
