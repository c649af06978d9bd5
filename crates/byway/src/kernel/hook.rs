//! A program on a device, in one direction: a tcx link if the kernel has them (Linux 6.6), otherwise a filter in that chain
//! of a clsact qdisc (tc-bpf(8)).

use std::{
    collections::BTreeSet,
    fs, io,
    iter::zip,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    tc::TcAttachOptions,
};
use serde::Serialize;

use super::{bpffs, clsact, features, network::Network, sys};
use crate::{
    error::{Error, Result},
    model::Device,
    policy::{
        snapshot::Header,
        state::{Direction, Place, Role},
    },
};

/// How long to wait for the kernel to free a link: some grace periods. Each may take a tenth of a second.
const LINK_FREED_WITHIN: Duration = Duration::from_secs(5);
/// How long to sleep between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Hook {
    /// A pinned tcx link (Linux 6.6).
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// What an attach did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) hook: Hook,
    /// Whether the clsact qdisc was added with it.
    pub(crate) qdisc_added: bool,
}

/// The programs of one network namespace, and the folder with the pins of their tcx links. Each role has two programs: one
/// for devices with an Ethernet header, and one for those without.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Those that are there, each where its name is in [`Programs::NAMES`].
    opened: [Option<SchedClassifier>; 6],
    pinned: PathBuf,
    folder: PathBuf,
}

impl Programs {
    /// The names of the programs' pins: two for each of [`Role::ALL`].
    pub(crate) const NAMES: [&str; 6] =
        ["departure", "departure_l3", "arrival", "arrival_l3", "reception", "reception_l3"];
    /// Their names in the object, in the same order, and so in the kernel, where bpftool(8) shows them. The kernel takes 15
    /// characters (`BPF_OBJ_NAME_LEN`, include/uapi/linux/bpf.h).
    pub(crate) const LOADED_AS: [&str; 6] = [
        "byway_departure",
        "byway_dep_l3",
        "byway_arrival",
        "byway_arr_l3",
        "byway_reception",
        "byway_rec_l3",
    ];

    /// Whether the program of this name is loaded only once a device needs it. Most hosts do without most of these, and the kernel
    /// takes long to verify one. The others are loaded with the maps: a kernel that refuses them does so before anything else.
    pub(super) fn is_on_demand(name: &str) -> bool {
        !["departure", "arrival"].contains(&name)
    }

    /// The name of the program of a role for a device.
    pub(super) fn name_for(network: &mut Network, device: &Device, role: Role) -> Result<&'static str> {
        let is_l3 = network.link(device)?.header == Header::L3;
        Ok(match role {
            Role::Departure if is_l3 => "departure_l3",
            Role::Departure => "departure",
            Role::Arrival if is_l3 => "arrival_l3",
            Role::Arrival => "arrival",
            Role::Reception if is_l3 => "reception_l3",
            Role::Reception => "reception",
        })
    }

    /// The folder of their pins.
    pub(super) fn pinned(&self) -> &Path {
        &self.pinned
    }

    /// Whether the program of this name is there.
    pub(super) fn have(&self, name: &str) -> bool {
        zip(Self::NAMES, &self.opened).any(|(its, program)| its == name && program.is_some())
    }

    /// Opens the programs that are pinned in `programs`, for the links that are pinned below `folder`.
    pub(crate) fn open(programs: &Path, folder: &Path) -> Result<Self> {
        let mut opened = [const { None }; Self::NAMES.len()];
        for (program, name) in opened.iter_mut().zip(Self::NAMES) {
            *program = match SchedClassifier::from_pin(programs.join(name)) {
                Ok(program) => Some(program),
                Err(error) => {
                    let error = Error::kernel(format!("open the program {name}"), error);
                    match Error::opening_pin(programs, name, error) {
                        Error::MissingPin { .. } if Self::is_on_demand(name) => None,
                        error => return Err(error),
                    }
                }
            };
        }
        Ok(Self { opened, pinned: programs.to_owned(), folder: folder.to_owned() })
    }

    /// Returns the program of a role for a device.
    pub(super) fn program(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
    ) -> Result<&mut SchedClassifier> {
        let name = Self::name_for(network, device, role)?;
        let found = zip(Self::NAMES, &mut self.opened)
            .find_map(|(its, program)| if its == name { program.as_mut() } else { None });
        found.ok_or_else(|| Error::MissingPin { folder: self.pinned.clone(), name: name.to_owned() })
    }

    /// Returns the role of the program with this identity, if it is one of these.
    fn role_of(&self, id: u32) -> Result<Option<Role>> {
        for (nth, program) in self.opened.iter().enumerate() {
            let Some(program) = program else { continue };
            let info = program.info().map_err(|error| Error::kernel("look at a program", error))?;
            if info.id() == id {
                return Ok(Role::ALL.get(nth / 2).copied());
            }
        }
        Ok(None)
    }

    fn pin(&self, place: Place) -> PathBuf {
        links(&self.folder, place.direction).join(place.ifindex.to_string())
    }

    /// Puts the program on a device: by tcx, unless the kernel lacks it or `hook` demands clsact. Calls `record` with what is
    /// about to be there before each change in the kernel, so that nothing is ever left without a record.
    pub(crate) fn attach(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
        hook: Option<Hook>,
        mut record: impl FnMut(Attached) -> Result<()>,
    ) -> Result<()> {
        self.check_alone(network, device)?;
        if hook != Some(Hook::Clsact) {
            record(Attached { hook: Hook::Tcx, qdisc_added: false })?;
            match self.attach_tcx(network, device, role)? {
                Ok(()) => return Ok(()),
                // The answer of a kernel without tcx, which does not know the attach type.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EINVAL) =>
                {
                    if hook.is_some() {
                        return Err(Error::Unsupported { feature: "tcx", since: "6.6" });
                    }
                }
                Err(error) => return Err(Error::kernel(format!("attach to {}", device.name), error)),
            }
        }
        let attached = Attached { hook: Hook::Clsact, qdisc_added: !clsact::has_qdisc(network, device)? };
        record(attached)?;
        if attached.qdisc_added {
            clsact::add_qdisc(network, device)?;
        }
        let set = self
            .program(network, device, role)
            .and_then(|program| clsact::set(network, device, role, program));
        if set.is_err() && attached.qdisc_added {
            // The attach has failed already, and says why.
            let _ = clsact::remove_qdisc_if_empty(network, device);
        }
        set
    }

    /// Refuses the device if another Byway has a program on it, in either direction. That one has a BPF file system of its
    /// own, as in a container on the host's network. Each would redirect the packets that the other one has redirected.
    fn check_alone(&self, network: &mut Network, device: &Device) -> Result<()> {
        let mut others = Vec::new();
        for direction in Direction::ALL {
            // None on a kernel without tcx. If the device is gone, the attach itself has the better error.
            let on_tcx = sys::tcx_programs(device.index, direction).unwrap_or_default();
            let filter = clsact::program(network, Place { ifindex: device.index, direction })?;
            for id in on_tcx.into_iter().chain(filter) {
                if self.role_of(id)?.is_none() {
                    others.push(id);
                }
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        // Without CAP_SYS_ADMIN, both programs stay side by side, and neither accepts the marks of the other.
        let byways = byways()?;
        let is_byways = others.iter().any(|id| byways.contains(id));
        if is_byways { Err(Error::AnotherByway(device.name.clone())) } else { Ok(()) }
    }

    fn attach_tcx(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
    ) -> Result<std::result::Result<(), ProgramError>> {
        let direction = role.direction();
        bpffs::make_folder(&links(&self.folder, direction))?;
        let pin = self.pin(Place::of(device, role));
        // The pin may be that of a device that is gone and had the same ifindex, or of this device before it moved to another
        // network namespace.
        let _ = sys::detach_link(&pin).and_then(|()| fs::remove_file(&pin));
        let attach_type = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let program = self.program(network, device, role)?;
        let id = program.info().map_err(|error| Error::kernel("look at a program", error))?.id();
        wait_until_gone(id, Place::of(device, role));
        // First in the chain: on a miss the next program still runs, so this shuts nobody out.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let attach = || {
            let id = program.attach_with_options(&device.name, attach_type, options)?;
            let link: FdLink = program.take_link(id)?.try_into().map_err(|_| {
                ProgramError::IOError(io::Error::other(
                    "the kernel made a link of another kind than asked for",
                ))
            })?;
            link.pin(&pin).map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
            Ok(())
        };
        let attached = attach();
        // It was attached by name, and another device may have the name by now.
        if attached.is_ok() && sys::tcx_device(&pin).is_ok_and(|index| index != device.index) {
            let _ = sys::detach_link(&pin).and_then(|()| fs::remove_file(&pin));
            return Err(Error::NoSuchDevice(device.name.clone()));
        }
        Ok(attached)
    }

    /// Replaces the program of the same direction on the device by this one, in one instant.
    pub(crate) fn replace(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
        hook: Hook,
    ) -> Result<()> {
        if hook == Hook::Clsact {
            let program = self.program(network, device, role)?;
            return clsact::set(network, device, role, program);
        }
        let link = PinnedLink::from_pin(self.pin(Place::of(device, role)))
            .and_then(|pinned| FdLink::from(pinned).try_into())
            .map_err(|error| Error::kernel(format!("change the program of {}", device.name), error))?;
        let program = self.program(network, device, role)?;
        program
            .attach_to_link(link)
            // The pin keeps the link. This drops only this process's handle on it.
            .and_then(|id| program.take_link(id).map(drop))
            .map_err(|error| Error::kernel(format!("change the program of {}", device.name), error))
    }

    /// Removes the program of a role from the device. A missing device or program is not an error.
    pub(crate) fn detach(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
        attached: Attached,
    ) -> Result<()> {
        match attached.hook {
            Hook::Tcx => {
                let pin = self.pin(Place::of(device, role));
                match sys::detach_link(&pin).and_then(|()| fs::remove_file(&pin)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(Error::kernel(format!("detach from {}", device.name), error))
                    }
                    _ => Ok(()),
                }
            }
            Hook::Clsact => {
                clsact::remove(network, device, role.direction())?;
                if attached.qdisc_added { clsact::remove_qdisc_if_empty(network, device) } else { Ok(()) }
            }
        }
    }

    /// Whether the device of the tcx link at a place is gone. A link that is missing says nothing.
    pub(crate) fn is_device_gone(&self, place: Place) -> Result<bool> {
        match sys::tcx_device(&self.pin(place)) {
            Ok(ifindex) => Ok(ifindex == 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::kernel("look at the link of a device", error)),
        }
    }

    /// Asks the kernel which program of Byway's is at a place. If it is another build's, the record tells its role.
    pub(crate) fn on_device(
        &self,
        network: &mut Network,
        place: Place,
        hook: Hook,
        recorded: Option<Role>,
    ) -> Result<Option<Role>> {
        if hook == Hook::Clsact {
            return clsact::role(network, place);
        }
        let failed = |error: LinkError| Error::kernel("look at the link of a device", error);
        let link = match PinnedLink::from_pin(self.pin(place)) {
            Ok(pinned) => FdLink::from(pinned),
            Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let program = link.info().map_err(failed)?.program_id();
        // The link of a device that is gone stays as long as its pin, and another device may have its ifindex now.
        let is_there = match sys::tcx_programs(place.ifindex, place.direction) {
            Ok(programs) => programs.contains(&program),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => false,
            Err(error) => return Err(Error::kernel("list the programs on a device", error)),
        };
        Ok(self.role_of(program)?.or(recorded).filter(|_| is_there))
    }
}

/// Waits until a device no longer has this program. If somebody has removed the pin of its link, the kernel detaches the
/// program some time later (`bpf_link_put`, kernel/bpf/syscall.c). Until then it refuses to attach it again. If somebody holds
/// the link, it refuses after the wait as well.
fn wait_until_gone(program: u32, place: Place) {
    let start = Instant::now();
    let is_there = || sys::tcx_programs(place.ifindex, place.direction).is_ok_and(|it| it.contains(&program));
    while is_there() && start.elapsed() < LINK_FREED_WITHIN {
        thread::sleep(PAUSE);
    }
}

/// Returns the identities of all loaded programs that have the name of one of Byway's. Reading names needs `CAP_SYS_ADMIN`:
/// without it, there are none.
fn byways() -> Result<BTreeSet<u32>> {
    features::find()?;
    // Earlier builds loaded them by the names of their pins.
    let is_byways = |name: &str| Programs::LOADED_AS.contains(&name) || Programs::NAMES.contains(&name);
    let mut found = BTreeSet::new();
    for program in loaded_programs() {
        match program {
            Ok(program) if program.name_as_str().is_some_and(is_byways) => drop(found.insert(program.id())),
            Err(error) => there_or_gone(error)?,
            Ok(_) => {}
        }
    }
    Ok(found)
}

/// What cannot be opened is gone, or is somebody else's. But who may open nothing more cannot say so.
fn there_or_gone(error: ProgramError) -> Result<()> {
    let error = Error::kernel("look at the loaded programs", error);
    match error.errno() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Err(error),
        _ => Ok(()),
    }
}

/// Checks that no device carries a program of a Byway that is pinned in another BPF file system. For a network namespace without
/// pins here: a listing would show nothing, although packets are redirected. A device that came from another namespace
/// does not count if that one's pins are here.
///
/// # Errors
///
/// [`Error::AnotherByway`] names the first such device.
pub(crate) fn check_none_elsewhere(network: &mut Network) -> Result<()> {
    // The devices first: most hosts have no program on any, and there may be thousands of loaded programs.
    let mut found = Vec::new();
    let with_clsact = clsact::devices(network)?;
    for link in network.links()?.into_values() {
        for direction in Direction::ALL {
            let place = Place { ifindex: link.device.index, direction };
            // None on a kernel without tcx.
            let on_tcx = sys::tcx_programs(place.ifindex, direction).unwrap_or_default();
            let filter =
                if with_clsact.contains(&place.ifindex) { clsact::program(network, place)? } else { None };
            found.extend(on_tcx.into_iter().chain(filter).map(|id| (id, link.device.name.clone())));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut byways = byways()?;
    for id in pinned_here()? {
        byways.remove(&id);
    }
    match found.into_iter().find(|(id, _)| byways.contains(id)) {
        Some((_, device)) => Err(Error::AnotherByway(device)),
        None => Ok(()),
    }
}

/// The programs that are pinned in this BPF file system, for whatever network namespace. What cannot be opened is not there.
fn pinned_here() -> Result<Vec<u32>> {
    if !bpffs::folder().exists() {
        return Ok(Vec::new());
    }
    let folders = bpffs::names(&bpffs::folder())?;
    let pins = folders
        .into_iter()
        .flat_map(|folder| Programs::NAMES.map(|name| bpffs::folder().join(&folder).join(name)));
    let mut found = Vec::new();
    for pin in pins {
        match SchedClassifier::from_pin(pin).and_then(|program| program.info()) {
            Ok(info) => found.push(info.id()),
            Err(error) => there_or_gone(error)?,
        }
    }
    Ok(found)
}

/// Returns the folder of the pins of one direction's tcx links. It exists once there is such a link.
fn links(folder: &Path, direction: Direction) -> PathBuf {
    folder.join(match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    })
}
