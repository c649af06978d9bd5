//! Creates, opens and removes the pins of one network namespace, and renews their programs.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{ProgramError, SchedClassifier},
};
use byway_abi::{SCHEMA, meta};

use super::{
    bpffs, features,
    hook::{Hook, Programs},
    lifetime,
    meta::Meta,
    migrations::{self, MIGRATIONS},
    namespace,
    network::Network,
    next_hops::NextHops,
    privilege,
    replies::Replies,
    secret,
    tables::{self, Tables},
};
use crate::{
    error::{Error, Result},
    model::Device,
    policy::{
        snapshot::Link,
        state::{Place, Role},
    },
};

/// The eBPF programs, built from `crates/byway-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BYWAY_BPF_OBJECT"));

/// The open pins of the calling thread's network namespace.
pub(crate) struct Pins {
    pub(crate) tables: Tables,
    pub(crate) programs: Programs,
}

/// Returns the folder of the pins of the calling thread's network namespace, which may not exist.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(bpffs::folder().join(namespace::key()?))
}

impl Pins {
    /// Opens the pins, if there are any.
    ///
    /// # Errors
    ///
    /// [`Error::OlderSchema`] if an older version of Byway made them and the next change takes them over, [`Error::Schema`]
    /// if any other version did, [`Error::BpffsHidden`] if this process cannot see them.
    pub(crate) fn open() -> Result<Option<Self>> {
        if !bpffs::is_mounted() {
            bpffs::check_not_hidden()?;
            return Ok(None);
        }
        let folder = folder()?;
        // Before Linux 5.14 those of a namespace that is gone may have the name of this one's.
        if matches!(lifetime::exists(&folder), Ok(Some(false))) {
            return Ok(None);
        }
        loop {
            let Some(before) = bpffs::identity(&folder)? else { return Ok(None) };
            match Self::open_in(&folder) {
                Ok(pins) => return Ok(Some(pins)),
                // Another Byway may have removed them meanwhile, and a third may have created new ones.
                Err(error) if bpffs::identity(&folder)? == Some(before) => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn open_in(folder: &Path) -> Result<Self> {
        let found = Meta::open(folder)?.get(meta::SCHEMA)?;
        let path = folder.to_owned();
        if migrations::is_known(found) {
            return Err(Error::OlderSchema { path, found, known: SCHEMA });
        }
        if found != SCHEMA {
            return Err(Error::Schema { path, found, known: SCHEMA });
        }
        let tables = Tables::open(folder)?;
        tables.check_chunks(folder)?;
        Ok(Self { tables, programs: Programs::open(folder, folder)? })
    }

    /// Opens the maps of next hops alone, if there are pins of this schema, with a stamp that tells them from later ones.
    pub(crate) fn next_hops() -> Result<Option<(u64, NextHops)>> {
        let Some(stamp) = Self::stamp()? else { return Ok(None) };
        let folder = folder()?;
        if Meta::open(&folder)?.get(meta::SCHEMA)? != SCHEMA {
            return Ok(None);
        }
        let cpus =
            aya::util::nr_cpus().map_err(|(file, error)| Error::kernel(format!("read {file}"), error))?;
        Ok(Some((stamp, NextHops::open(&folder, cpus)?)))
    }

    /// Opens the maps of replies alone, with what tells these pins from later ones. `None` if there are none, or those of another
    /// schema.
    pub(crate) fn replies() -> Result<Option<(u64, Replies)>> {
        let Some(stamp) = Self::stamp()? else { return Ok(None) };
        let folder = folder()?;
        if Meta::open(&folder)?.get(meta::SCHEMA)? != SCHEMA {
            return Ok(None);
        }
        Ok(Some((stamp, Replies::open(&folder)?)))
    }

    /// Returns what tells these pins from later ones, or `None` if there are none.
    pub(crate) fn stamp() -> Result<Option<u64>> {
        if bpffs::is_mounted() { bpffs::identity(&folder()?) } else { Ok(None) }
    }

    /// Whether there are pins of any schema.
    ///
    /// # Errors
    ///
    /// [`Error::BpffsHidden`] if this process cannot see them.
    pub(crate) fn are_there() -> Result<bool> {
        if bpffs::is_mounted() {
            return Ok(bpffs::identity(&folder()?)?.is_some());
        }
        bpffs::check_not_hidden().map(|()| false)
    }

    /// Removes what is left if a Byway was killed while it created or removed pins. The caller holds the lock.
    pub(crate) fn remove_unfinished() -> Result<()> {
        lifetime::remove(&unfinished(&folder()?))
    }

    /// Notes which network namespace they belong to, if the byway that made them did not. The caller holds the lock.
    pub(crate) fn note_namespace(&self) -> Result<()> {
        lifetime::note(&folder()?)
    }

    /// Creates the pins, all in one instant. The caller holds the lock.
    pub(crate) fn create() -> Result<Self> {
        let folder = folder()?;
        let unfinished = unfinished(&folder);
        let made = Self::fill(&unfinished).and_then(|()| {
            fs::rename(&unfinished, &folder).map_err(Error::io(format!("make {}", folder.display())))
        });
        if made.is_err() {
            // Report only the first error.
            let _ = lifetime::remove(&unfinished);
        }
        made.and_then(|()| Self::open_in(&folder))
    }

    fn fill(folder: &Path) -> Result<()> {
        bpffs::make_folder(folder)?;
        lifetime::note(folder)?;
        let mut object = load(folder, 0)?;
        pin_programs(&mut object, folder, |_| false)?;
        let mut tables = Tables::open(folder)?;
        tables.meta.set(meta::OBJECT, fingerprint())?;
        tables.meta.set(meta::SCHEMA, SCHEMA)
    }

    /// Whether a record is of another device than the one that has its ifindex now, and that does not carry the program. A
    /// tcx link says that its device is gone. With clsact nothing of the program is left. Then an attachment that the kernel
    /// still knows is the same, whatever its name is now, and a device that is called as when it was attached to may be one
    /// that came back.
    pub(super) fn is_of_another(
        &self,
        place: Place,
        hook: Hook,
        role: Option<Role>,
        link: &Link,
        asked_as: &str,
    ) -> Result<bool> {
        if hook == Hook::Tcx && self.programs.is_device_gone(place)? {
            return Ok(true);
        }
        let is_known = match role {
            Some(Role::Departure) => self.tables.attachments.is_watched(place.ifindex)?,
            Some(Role::Reception) => self.tables.replies.is_receiver(place.ifindex)?,
            Some(Role::Arrival) | None => false,
        };
        Ok(!is_known && !link.is_called(asked_as))
    }

    /// Whether the pinned programs come from another build than this one.
    pub(crate) fn are_outdated(&self) -> Result<bool> {
        Ok(self.tables.meta.get(meta::OBJECT)? != fingerprint())
    }

    /// Loads this build's programs over the pinned maps, and pins them beside the pinned ones. The devices get them next. The
    /// caller holds the lock.
    pub(crate) fn load_programs(&mut self) -> Result<()> {
        self.programs = load_beside(&folder()?, 0)?;
        Ok(())
    }

    /// Loads and pins the program of a role for a device, unless it is there. The caller holds the lock.
    pub(crate) fn load_for(&mut self, network: &mut Network, device: &Device, role: Role) -> Result<()> {
        let name = Programs::name_for(network, device, role)?;
        if self.programs.have(name) {
            return Ok(());
        }
        let folder = folder()?;
        let pinned = self.programs.pinned().to_owned();
        pin_program(&mut load(&folder, 0)?, &pinned, name)?;
        self.programs = Programs::open(&pinned, &folder)?;
        Ok(())
    }

    /// Replaces the pinned programs by those of [`Pins::load_programs`], after every device has got them.
    pub(crate) fn renew_programs(&mut self) -> Result<()> {
        let folder = folder()?;
        rename_programs(&folder)?;
        // A Byway that took over an older schema may have been killed before it did this.
        migrations::remove_old(&folder, MIGRATIONS)?;
        note_object(&folder)?;
        self.programs = Programs::open(&folder, &folder)?;
        Ok(())
    }

    /// Removes the pins, and notes that in their `META`. Nothing in the kernel may use them any more. The caller holds the lock.
    pub(crate) fn remove(mut self) -> Result<()> {
        let folder = folder()?;
        // First move them away in one instant, because others would take half of them for damage.
        let unfinished = unfinished(&folder);
        fs::rename(&folder, &unfinished).map_err(Error::io(format!("remove {}", folder.display())))?;
        self.tables.meta.set(meta::SCHEMA, 0)?;
        lifetime::remove(&unfinished)
    }
}

/// The pins at a certain time, as somebody remembers them who wants to know what has become of them.
pub(crate) struct Remembered {
    stamp: u64,
    meta: Meta,
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

impl Remembered {
    /// Remembers the pins of now. `None` if there are none.
    pub(crate) fn now() -> Result<Option<Self>> {
        let Some(stamp) = Pins::stamp()? else { return Ok(None) };
        // The folder may be that of a lock, or be going.
        Ok(Meta::open(&folder()?).ok().map(|meta| Self { stamp, meta }))
    }

    /// Whether they are those of now.
    pub(crate) fn are_there(&self) -> Result<bool> {
        Ok(Pins::stamp()? == Some(self.stamp))
    }

    /// Whether a Byway has removed them. The caller holds the lock.
    pub(crate) fn are_removed(&self) -> Result<bool> {
        Ok(self.meta.get(meta::SCHEMA)? == 0)
    }
}

/// Returns the folder where programs are pinned until every device has them.
fn renewed(folder: &Path) -> PathBuf {
    folder.join("renewed")
}

/// Loads this build's programs over the pinned maps, and pins them beside the pinned ones. Creates missing maps.
/// `taking_over` is a value of [`Migration::rounds`](migrations::Migration::rounds), or 0. The caller holds the lock.
pub(super) fn load_beside(folder: &Path, taking_over: u32) -> Result<Programs> {
    let renewed = renewed(folder);
    // An interrupted renewal or the round before has left these. They are only further pins of programs on devices.
    bpffs::remove(&renewed)?;
    bpffs::make_folder(&renewed)?;
    let mut object = load(folder, taking_over)?;
    pin_programs(&mut object, &renewed, |name| folder.join(name).exists())?;
    Programs::open(&renewed, folder)
}

/// Replaces the pinned programs by those of [`load_beside`].
pub(super) fn rename_programs(folder: &Path) -> Result<()> {
    let renewed = renewed(folder);
    let is_there = |name: &&str| !Programs::is_on_demand(name) || renewed.join(name).exists();
    for name in Programs::NAMES.into_iter().rev().filter(is_there) {
        fs::rename(renewed.join(name), folder.join(name))
            .map_err(Error::io(format!("put the program {name} in place")))?;
    }
    bpffs::remove(&renewed)
}

/// Records that the programs, both the pinned ones and those on devices, are this build's.
pub(super) fn note_object(folder: &Path) -> Result<()> {
    Meta::open(folder)?.set(meta::OBJECT, fingerprint())
}

/// Loads and pins the programs that every host needs, and of the others those that are `needed`.
fn pin_programs(object: &mut Ebpf, folder: &Path, needed: impl Fn(&str) -> bool) -> Result<()> {
    Programs::NAMES
        .into_iter()
        .filter(|name| !Programs::is_on_demand(name) || needed(name))
        .try_for_each(|name| pin_program(object, folder, name))
}

fn pin_program(object: &mut Ebpf, folder: &Path, name: &str) -> Result<()> {
    let nth = Programs::NAMES.iter().position(|it| *it == name).unwrap_or_default();
    program(object, Programs::LOADED_AS[nth])?
        .pin(folder.join(name))
        .map_err(|error| Error::kernel(format!("pin the program {name}"), error))
}

/// What the name of a folder of pins begins with while they are being created or removed.
pub(crate) const UNFINISHED: &str = "unfinished-";

/// Returns the folder of pins that are being created or removed.
fn unfinished(folder: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(UNFINISHED);
    name.push(folder.file_name().unwrap_or_default());
    folder.with_file_name(name)
}

/// Loads the object with its maps pinned in `folder`. Uses those that exist, and creates the others.
fn load(folder: &Path, taking_over: u32) -> Result<Ebpf> {
    privilege::check_may_load()?;
    features::find()?;
    let has_check_mtu = u32::from(features::has_check_mtu()?);
    let secret = secret::read_or_make(folder)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_CHECK_MTU", &has_check_mtu, true);
    loader.override_global("TAKING_OVER", &taking_over, true);
    loader.override_global("MARK_SECRET", &secret, true);
    for name in tables::NAMES {
        loader.map_pin_path(name, folder.join(name));
    }
    loader.load(OBJECT).map_err(|error| match error {
        EbpfError::BtfError(_) => {
            Error::Unsupported { feature: "type information (BTF) that takes byway's", since: "5.10" }
        }
        EbpfError::MapError(MapError::CreateError { io_error, .. })
            if io_error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Error::Privilege("CAP_BPF in the initial user namespace")
        }
        error => Error::kernel("load byway's maps into the kernel", error),
    })
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let missing = || Error::kernel("load byway's programs", format!("the object has no program {name}"));
    let program: &mut SchedClassifier = object
        .program_mut(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|error| Error::kernel(format!("load the program {name}"), error))?;
    program.load().map_err(|error| refused(name, error))?;
    Ok(program)
}

/// Says why the kernel refuses a program: usually it lacks a helper.
fn refused(name: &str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { ref verifier_log, .. }
            if verifier_log.to_string().contains("unknown func bpf_redirect_neigh")
                || verifier_log.to_string().contains("invalid func") =>
        {
            Error::Unsupported { feature: "bpf_redirect_neigh helper", since: "5.10" }
        }
        // The verifier has nothing to do with it.
        ProgramError::LoadError { io_error, .. }
            if matches!(io_error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
        {
            Error::kernel(format!("load the program {name}"), io_error)
        }
        error => Error::kernel(format!("load the program {name}"), error),
    }
}

/// Returns the FNV-1a hash of the object. It tells builds apart, and protects against nothing.
fn fingerprint() -> u32 {
    OBJECT.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
