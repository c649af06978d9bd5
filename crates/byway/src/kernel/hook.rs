//! A program on the egress of a device: a tcx link where the kernel has them (Linux 6.6), else a filter in the
//! egress chain of a clsact qdisc (tc-bpf(8)).

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::TcAttachOptions,
};
use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE,
    packet::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};
use serde::Serialize;

use super::{network::Network, sys};
use crate::{
    error::{Error, Result},
    plan::Role,
    rule::Device,
};

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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

/// Where Byway's filter stands in a clsact chain: behind those that an operator has put first, ahead of those
/// that the kernel has numbered (49152 and down).
const PRIORITY: u16 = 2842;
/// The handle of Byway's filter, whatever else has the same priority.
const HANDLE: u32 = 0xB1A7;
/// `ETH_P_ALL` (include/uapi/linux/if_ether.h).
const ETH_P_ALL: u16 = 3;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)` (include/uapi/linux/pkt_sched.h).
const EGRESS: u32 = 0xFFFF_FFF3;
/// `TC_H_CLSACT`, where the clsact and ingress qdiscs sit.
const CLSACT: u32 = 0xFFFF_FFF1;
const CLSACT_HANDLE: u32 = 0xFFFF_0000;

/// What an attach did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) hook: Hook,
    /// The clsact qdisc was added with it.
    pub(crate) qdisc_added: bool,
}

/// The two programs of one network namespace, and the folder with the pins of their tcx links.
#[derive(Debug)]
pub(crate) struct Programs {
    departure: SchedClassifier,
    arrival: SchedClassifier,
    links: PathBuf,
}

impl Programs {
    /// The names of the programs: in the object, and of their pins.
    pub(crate) const NAMES: [&str; 2] = ["departure", "arrival"];

    /// Opens the programs that are pinned in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let open = |name: &str| {
            SchedClassifier::from_pin(folder.join(name))
                .map_err(|error| Error::kernel(format!("open the program {name}"), error))
        };
        Ok(Self { departure: open("departure")?, arrival: open("arrival")?, links: links(folder) })
    }

    fn program(&mut self, role: Role) -> &mut SchedClassifier {
        match role {
            Role::Departure => &mut self.departure,
            Role::Arrival => &mut self.arrival,
        }
    }

    fn name(role: Role) -> &'static str {
        match role {
            Role::Departure => "departure",
            Role::Arrival => "arrival",
        }
    }

    fn id(&self, role: Role) -> Result<u32> {
        let program = match role {
            Role::Departure => &self.departure,
            Role::Arrival => &self.arrival,
        };
        program
            .info()
            .map(|info| info.id())
            .map_err(|error| Error::kernel(format!("look at the program {}", Self::name(role)), error))
    }

    fn pin(&self, index: u32) -> PathBuf {
        self.links.join(index.to_string())
    }

    /// Puts the program on a device: with tcx unless the kernel lacks it or `hook` asks for clsact.
    pub(crate) fn attach(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
        hook: Option<Hook>,
    ) -> Result<Attached> {
        if hook != Some(Hook::Clsact) {
            match self.attach_tcx(device, role) {
                Ok(()) => return Ok(Attached { hook: Hook::Tcx, qdisc_added: false }),
                // What a kernel without tcx says to the attach type that it does not know.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EINVAL) =>
                {
                    if hook.is_some() {
                        return Err(Error::KernelLacks("it has no tcx, which came with Linux 6.6".into()));
                    }
                }
                Err(error) => return Err(Error::kernel(format!("attach to {}", device.name), error)),
            }
        }
        let qdisc_added = add_clsact(network, device)?;
        let set = self.set_filter(network, device, role, NLM_F_CREATE | NLM_F_EXCL);
        if set.is_err() && qdisc_added {
            // The attach has failed already, and says why.
            let _ = remove_clsact(network, device);
        }
        set.map(|()| Attached { hook: Hook::Clsact, qdisc_added })
    }

    fn attach_tcx(&mut self, device: &Device, role: Role) -> std::result::Result<(), ProgramError> {
        let pin = self.pin(device.index);
        // The pin of a link whose device is gone, and whose ifindex this device has now.
        let _ = fs::remove_file(&pin);
        let program = self.program(role);
        // First in the chain: a miss hands the packet on, so that nobody behind is shut out.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(&device.name, TcAttachType::Egress, options)?;
        let link: FdLink = program.take_link(id)?.try_into().map_err(|_| {
            ProgramError::IOError(io::Error::other("the kernel made a link of another kind than asked for"))
        })?;
        link.pin(pin).map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
        Ok(())
    }

    /// Puts the program in place of the other one, in one instant.
    pub(crate) fn replace(
        &mut self,
        network: &mut Network,
        device: &Device,
        role: Role,
        hook: Hook,
    ) -> Result<()> {
        if hook == Hook::Clsact {
            return self.set_filter(network, device, role, NLM_F_CREATE | NLM_F_REPLACE);
        }
        let pin = self.pin(device.index);
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::kernel(format!("change the program of {}", device.name), error)
        };
        let link = FdLink::from(PinnedLink::from_pin(&pin).map_err(|error| failed(error.into()))?)
            .try_into()
            .map_err(|error: aya::programs::links::LinkError| failed(error.into()))?;
        let program = self.program(role);
        let id = program.attach_to_link(link).map_err(|error| failed(error.into()))?;
        // The pin holds the link; only this process's handle on it goes.
        program.take_link(id).map(drop).map_err(|error| failed(error.into()))
    }

    /// Takes the program off. A device or a program that is gone is no error.
    pub(crate) fn detach(
        &mut self,
        network: &mut Network,
        device: &Device,
        attached: Attached,
    ) -> Result<()> {
        match attached.hook {
            // Nobody else holds the link, so that it goes with its pin.
            Hook::Tcx => match fs::remove_file(self.pin(device.index)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::kernel(format!("detach from {}", device.name), error))
                }
                _ => Ok(()),
            },
            Hook::Clsact => {
                let ours = [self.id(Role::Departure)?, self.id(Role::Arrival)?];
                let filters = filters(network, device.index)?;
                if filters.iter().any(|program| ours.contains(program)) {
                    network
                        .netlink()
                        .change(RouteNetlinkMessage::DelTrafficFilter(filter_message(device.index)), 0)
                        .map_err(Error::io(format!("remove byway's filter from {}", device.name)))?;
                }
                if attached.qdisc_added && !has_filters(network, device.index)? {
                    remove_clsact(network, device)?;
                }
                Ok(())
            }
        }
    }

    /// Which program of Byway's is on the device, asked of the kernel itself.
    pub(crate) fn on_device(&self, network: &mut Network, index: u32, hook: Hook) -> Result<Option<Role>> {
        let programs = match hook {
            Hook::Tcx => match sys::tcx_egress_programs(index) {
                Ok(programs) => programs,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => Vec::new(),
                Err(error) => return Err(Error::kernel("list the programs on a device", error)),
            },
            Hook::Clsact => filters(network, index)?,
        };
        for role in [Role::Departure, Role::Arrival] {
            if programs.contains(&self.id(role)?) {
                return Ok(Some(role));
            }
        }
        Ok(None)
    }

    fn set_filter(&mut self, network: &mut Network, device: &Device, role: Role, flags: u16) -> Result<()> {
        let failed = format!("attach to {} with a clsact filter of priority {PRIORITY}", device.name);
        let program = self.program(role);
        let fd = program.fd().map_err(|error| Error::kernel(failed.clone(), error))?;
        let mut message = filter_message(device.index);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd.as_fd().as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(format!("byway_{}", Self::name(role)))),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        network
            .netlink()
            .change(RouteNetlinkMessage::NewTrafficFilter(message), flags)
            .map_err(Error::io(failed))
    }
}

/// The folder of the tcx links' pins.
pub(crate) fn links(folder: &Path) -> PathBuf {
    folder.join("links")
}

fn filter_message(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::from(EGRESS);
    message.header.handle = TcHandle::from(HANDLE);
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

fn dump_filters(network: &mut Network, index: u32) -> Result<Vec<TcMessage>> {
    let mut request = TcMessage::with_index(index as i32);
    request.header.parent = TcHandle::from(EGRESS);
    match network.netlink().dump(RouteNetlinkMessage::GetTrafficFilter(request)) {
        Ok(answers) => Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
                _ => None,
            })
            .collect()),
        // No such device, or no clsact qdisc on it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(Error::kernel("list the filters of a device", error)),
    }
}

/// The identities of the programs of the filters on a device's egress.
fn filters(network: &mut Network, index: u32) -> Result<Vec<u32>> {
    let program = |message: &TcMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().find_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                _ => None,
            }),
            _ => None,
        })
    };
    Ok(dump_filters(network, index)?.iter().filter_map(program).collect())
}

/// Whether anyone has a filter in the qdisc, on either side.
fn has_filters(network: &mut Network, index: u32) -> Result<bool> {
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
    const INGRESS: u32 = 0xFFFF_FFF2;
    let mut request = TcMessage::with_index(index as i32);
    request.header.parent = TcHandle::from(INGRESS);
    let ingress = network
        .netlink()
        .dump(RouteNetlinkMessage::GetTrafficFilter(request))
        .map_err(Error::io("list the filters of a device"))?;
    Ok(!ingress.is_empty() || !dump_filters(network, index)?.is_empty())
}

/// Adds the clsact qdisc unless it is there, and says whether it was added.
fn add_clsact(network: &mut Network, device: &Device) -> Result<bool> {
    match qdisc(network, device.index)?.as_deref() {
        Some("clsact") => return Ok(false),
        Some(_) => return Err(Error::IngressQdisc(device.name.clone())),
        None => {}
    }
    network
        .netlink()
        .change(
            RouteNetlinkMessage::NewQueueDiscipline(clsact_message(device.index)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(Error::io(format!("add a clsact qdisc to {}", device.name)))?;
    Ok(true)
}

fn remove_clsact(network: &mut Network, device: &Device) -> Result<()> {
    network
        .netlink()
        .change(RouteNetlinkMessage::DelQueueDiscipline(clsact_message(device.index)), 0)
        .map_err(Error::io(format!("remove the clsact qdisc from {}", device.name)))
}

fn clsact_message(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::from(CLSACT);
    message.header.handle = TcHandle::from(CLSACT_HANDLE);
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// The kind of the qdisc where clsact sits: `clsact`, `ingress`, or none.
fn qdisc(network: &mut Network, index: u32) -> Result<Option<String>> {
    let answers = network
        .netlink()
        .dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index as i32)))
        .map_err(Error::io("list the qdiscs"))?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(message)
            if message.header.index == index as i32 && u32::from(message.header.handle) == CLSACT_HANDLE =>
        {
            message.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            })
        }
        _ => None,
    }))
}
