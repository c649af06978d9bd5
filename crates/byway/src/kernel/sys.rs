//! The few system calls that no dependency wraps as Byway needs them. (aya's `SchedClassifier::query_tcx` takes the name of a
//! device, which another device may have by then.)

use std::{
    ffi::CString,
    io, mem,
    net::UdpSocket,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::atomic::AtomicU64,
};

use byway_abi::RuleRecord;
use socket2::{SockAddr, SockAddrStorage};

use crate::policy::state::Direction;

/// `BPF_PROG_QUERY` (bpf(2), include/uapi/linux/bpf.h).
const BPF_PROG_QUERY: libc::c_long = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`, Linux 6.6.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// More programs than a hook can carry (`BPF_MPROG_MAX` is 64).
const PROGRAMS_MAX: usize = 64;

/// The part of `query` in `union bpf_attr` that tcx uses.
#[derive(Default)]
#[repr(C)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Returns the identities of the programs on a device's tcx hook of one direction, in the order in which they run.
///
/// # Errors
///
/// `EINVAL` if the kernel has no tcx, `ENODEV` if there is no such device.
pub(super) fn tcx_programs(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; PROGRAMS_MAX];
    let mut query = ProgQuery {
        target_ifindex: ifindex,
        attach_type: match direction {
            Direction::Ingress => BPF_TCX_INGRESS,
            Direction::Egress => BPF_TCX_EGRESS,
        },
        prog_ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        ..ProgQuery::default()
    };
    // SAFETY: `query` lies as the kernel reads it and is as long as the length says, and `prog_ids` points to
    // room for `count` identities.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<ProgQuery>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(ids.into_iter().take(query.count as usize).collect()),
    }
}

/// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_DEVMAP` (bpf(2), include/uapi/linux/bpf.h).
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_TYPE_DEVMAP: u32 = 14;

/// Creates a map of devices. aya creates other kinds only.
///
/// # Errors
///
/// Those of bpf(2).
pub(super) fn create_devmap(entries: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct MapCreate {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    let create = MapCreate {
        map_type: BPF_MAP_TYPE_DEVMAP,
        key_size: size_of::<u32>() as u32,
        // `struct bpf_devmap_val`: an ifindex and a program.
        value_size: 2 * size_of::<u32>() as u32,
        max_entries: entries,
    };
    // SAFETY: `create` lies as the kernel reads it and is as long as the length says. The kernel takes the rest for zeros.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const create, size_of::<MapCreate>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `BPF_OBJ_GET_INFO_BY_FD` (bpf(2), include/uapi/linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Returns the ifindex of the device that a pinned tcx link is on, or 0 if that device is gone.
///
/// # Errors
///
/// `ENOENT` if nothing is pinned there, or others of bpf(2).
pub(super) fn tcx_device(pin: &Path) -> io::Result<u32> {
    /// The part of `struct bpf_link_info` that tcx uses.
    #[derive(Default)]
    #[repr(C, align(8))]
    struct LinkInfo {
        kind: u32,
        id: u32,
        prog_id: u32,
        padding: u32,
        ifindex: u32,
        attach_type: u32,
    }
    #[repr(C)]
    struct GetInfo {
        fd: u32,
        length: u32,
        info: u64,
    }
    let link = open_pin(pin)?;
    let mut info = LinkInfo::default();
    let mut get = GetInfo {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `get` lies as the kernel reads it and is as long as the length says, and `info` has room for as much as it says.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut get, size_of::<GetInfo>()) }
    {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(info.ifindex),
    }
}

/// `BPF_OBJ_GET` and `BPF_LINK_DETACH` (bpf(2), include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Detaches the program of a pinned link from its device, at once. Removing the pin detaches it some time later, because
/// the kernel frees links in the background.
///
/// # Errors
///
/// `ENOENT` if nothing is pinned there, or others of bpf(2). A link whose device is gone is not an error.
pub(super) fn detach_link(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut detach = [link.as_raw_fd() as u32];
    // SAFETY: the command reads one descriptor, and the length says so.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw mut detach, size_of_val(&detach)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Opens what is pinned at a path.
fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    #[derive(Default)]
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjGet { pathname: path.as_ptr() as u64, ..ObjGet::default() };
    // SAFETY: `get` lies as the kernel reads it and is as long as the length says, and `path` outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut get, size_of::<ObjGet>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h), Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Returns the cookie of the calling thread's network namespace. No other namespace gets the same until the next boot.
///
/// # Errors
///
/// `ENOPROTOOPT` if the kernel has no cookies.
pub(super) fn netns_cookie() -> io::Result<u64> {
    // Any socket will do; port 0 cannot be in use.
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option is a u64, and `length` says that there is room for one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Makes a packet socket send straight to the device: past its queues and past programs such as Byway's own (packet(7)).
///
/// # Errors
///
/// Those of setsockopt(2).
pub(super) fn bypass_queues(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, and the length says so.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `MAX_ADDR_LEN` (include/linux/netdevice.h).
const MAX_ADDR_LEN: usize = 32;

/// Returns the address of a packet socket (packet(7)): a device, a protocol, and who gets the frame. A link-layer address that
/// is too long for one is cut.
pub(super) fn packet_address(ifindex: u32, protocol: u16, address: &[u8]) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is aligned for every kind of address and larger than this one, and any bytes make a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = ifindex as i32;
    let length = address.len().min(link.sll_addr.len());
    link.sll_addr[..length].copy_from_slice(&address[..length]);
    link.sll_halen = length as u8;
    // The kernel wants room for the longest link-layer address of the device's kind, even if there is none in the frame.
    let length = mem::offset_of!(libc::sockaddr_ll, sll_addr) + MAX_ADDR_LEN;
    // SAFETY: the storage has such an address, is longer than this, and zero behind it.
    unsafe { SockAddr::new(storage, length as libc::socklen_t) }
}

/// Returns the Ethernet address that the device of a packet socket has now, if it has one (`packet_getname`,
/// net/packet/af_packet.c).
///
/// # Errors
///
/// Those of getsockname(2).
pub(super) fn own_address(socket: BorrowedFd<'_>) -> io::Result<Option<[u8; 6]>> {
    // Link-layer addresses may be longer than the structure has room for.
    let mut storage = SockAddrStorage::zeroed();
    let mut length = storage.size_of();
    // SAFETY: `length` says how much room there is.
    let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut storage).cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the storage is aligned for every kind of address and larger than this one, and any bytes make a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    Ok(link.sll_addr.first_chunk().copied().filter(|_| usize::from(link.sll_halen) == 6))
}

/// `MEMBARRIER_CMD_GLOBAL` (membarrier(2)).
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// Waits until every program that was running on any CPU has ended. Programs run within an RCU read-side section, and this
/// command waits for all of those (kernel/sched/membarrier.c).
///
/// # Errors
///
/// `EINVAL` if the host has `nohz_full` CPUs.
pub(super) fn wait_for_programs() -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// `BPF_MAP_DELETE_ELEM` (bpf(2), include/uapi/linux/bpf.h).
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;

/// Empties a slot of an array of maps.
///
/// # Errors
///
/// `ENOENT` if it is empty already.
pub(super) fn empty_slot(map: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    #[repr(C)]
    struct Element {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let element = Element {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const slot) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: `element` lies as the kernel reads it and is as long as the length says, and the key is there until the
    // call ends.
    match unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw const element, size_of::<Element>())
    } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The memory of an array map, shared with the programs.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Memory {
    /// Maps `bytes` bytes of an array map (`BPF_F_MMAPABLE`, Linux 5.5), from byte `first` on, which must begin a page.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub(super) fn of(map: BorrowedFd<'_>, first: usize, bytes: usize) -> io::Result<Self> {
        let words = bytes / size_of::<AtomicU64>();
        // SAFETY: a new mapping, of no memory that Rust knows of.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                first as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words })
    }

    /// The mapped memory as words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is that long and begins at a page; it stays until this is dropped, also when the map is gone.
        // Whoever else writes there, in another process or in the kernel, writes words of 64 bits.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

// SAFETY: the mapping belongs to the process and to no thread of it, and is read and written as atomic words only.
unsafe impl Send for Memory {}
// SAFETY: threads that share it read and write it as atomic words only.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, which nobody refers to any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// 64-bit words of a [`RuleRecord`].
pub(super) const RECORD_WORDS: usize = size_of::<RuleRecord>() / size_of::<u64>();

/// Converts a record to words of a map's memory.
pub(super) fn record_to_words(record: RuleRecord) -> [u64; RECORD_WORDS] {
    // SAFETY: both are plain bytes of the same number, and the record has no padding (asserted in byway-abi).
    unsafe { mem::transmute(record) }
}

/// Converts words of a map's memory to a record.
pub(super) fn record_of_words(words: [u64; RECORD_WORDS]) -> RuleRecord {
    // SAFETY: both are plain bytes of the same number, and any bytes make a valid record (`Pod` in byway-abi).
    unsafe { mem::transmute(words) }
}
