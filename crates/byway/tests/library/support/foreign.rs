//! Somebody else's tc program: it counts what it sees, and hands it on or ends its way. Written in the kernel's own instructions, so
//! that it shares nothing with the code under test.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::FdLink,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};
use byway::Hook;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;

/// Where a foreign program stands to Byway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Ahead,
    Behind,
}

/// What a foreign program does with each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next program's turn.
    Next,
    /// The packet goes on, and no other program sees it.
    Ok,
    /// It is dropped.
    Shot,
    /// It leaves by another device, as it is (`bpf_redirect`).
    Redirect(u32),
    /// It is the next program's turn, with this in `skb->tc_index` and `skb->cb`.
    Write(u16, [u32; 5]),
}

/// A counting program on the egress of a device, until it is dropped or the lab ends.
pub(crate) struct Foreign {
    map: OwnedFd,
    program: SchedClassifier,
}

impl Foreign {
    /// Attaches to a device of the calling thread's network namespace. With tcx the order of attaching decides:
    /// attach what is to be ahead after Byway, at the front.
    pub(crate) fn attach(name: &str, device: &str, hook: Hook, place: Place) -> Self {
        Self::attach_with(Verdict::Next, name, device, hook, place)
    }

    /// The same with one that ends the chain.
    pub(crate) fn attach_with(verdict: Verdict, name: &str, device: &str, hook: Hook, place: Place) -> Self {
        let (map, mut program) = load(verdict, name);
        let options = match (hook, place) {
            (Hook::Tcx, Place::Ahead) => TcAttachOptions::TcxOrder(LinkOrder::first()),
            (Hook::Tcx, Place::Behind) => TcAttachOptions::TcxOrder(LinkOrder::last()),
            (Hook::Clsact, _) => {
                let _ = qdisc_add_clsact(device); // there already, where Byway or another has added it
                let priority = if place == Place::Ahead { 1 } else { 60_000 };
                TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
            }
            (other, _) => panic!("no test attaches by {other}"),
        };
        program.attach_with_options(device, TcAttachType::Egress, options).unwrap();
        Self { map, program }
    }

    /// Attaches as a newer byway would a program that this one does not know, with its tcx link pinned in `folder`.
    pub(crate) fn attach_as_byways(
        name: &str,
        device: &str,
        hook: Hook,
        direction: TcAttachType,
        folder: &Path,
    ) -> Self {
        let (map, mut program) = load(Verdict::Next, name);
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Hook::Clsact => {
                let _ = qdisc_add_clsact(device);
                TcAttachOptions::Netlink(NlOptions {
                    priority: 2842,
                    handle: 0xB1A7.into(),
                    ..NlOptions::default()
                })
            }
            other => panic!("no test attaches by {other}"),
        };
        let link = program.attach_with_options(device, direction, options).unwrap();
        if hook == Hook::Tcx {
            let link: FdLink = program.take_link(link).unwrap().try_into().unwrap();
            std::fs::create_dir_all(folder).unwrap();
            link.pin(folder.join(nix::net::if_::if_nametoindex(device).unwrap().to_string())).unwrap();
        }
        Self { map, program }
    }

    /// How many packets it has seen.
    pub(crate) fn seen(&self) -> u64 {
        lookup(&self.map).unwrap()
    }

    /// Its identity in the kernel.
    pub(crate) fn id(&self) -> u32 {
        self.program.info().unwrap().id()
    }
}

fn load(verdict: Verdict, name: &str) -> (OwnedFd, SchedClassifier) {
    let map = create_array().unwrap();
    let program = load_program(&map, verdict).unwrap();
    let pin = Path::new("/sys/fs/bpf").join(format!("foreign_{name}"));
    pin_object(&program, &pin).unwrap();
    (map, SchedClassifier::from_pin(&pin).unwrap())
}

fn create_array() -> io::Result<OwnedFd> {
    // map_type, key_size, value_size, max_entries
    bpf_fd(BPF_MAP_CREATE, &mut [BPF_MAP_TYPE_ARRAY, 4, 8, 1])
}

fn lookup(map: &OwnedFd) -> io::Result<u64> {
    #[repr(C)]
    struct Elem {
        fd: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (key, mut value) = (0_u32, 0_u64);
    let mut attr = Elem {
        fd: map.as_raw_fd() as u32,
        pad: 0,
        key: &raw const key as u64,
        value: &raw mut value as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// `(*map[0])++; return verdict;`
fn load_program(map: &OwnedFd, verdict: Verdict) -> io::Result<OwnedFd> {
    let mut code = vec![
        instruction(0xbf, 6, 1, 0, 0),               // r6 = r1: the packet
        instruction(0x62, 10, 0, -4, 0),             // *(u32 *)(r10 - 4) = 0
        instruction(0x18, 1, 1, 0, map.as_raw_fd()), // r1 = map
        instruction(0, 0, 0, 0, 0),                  // (its upper half)
        instruction(0xbf, 2, 10, 0, 0),              // r2 = r10
        instruction(0x07, 2, 0, 0, -4),              // r2 += -4
        instruction(0x85, 0, 0, 0, 1),               // call bpf_map_lookup_elem
        instruction(0x15, 0, 0, 2, 0),               // if r0 == 0 goto +2
        instruction(0xb7, 1, 0, 0, 1),               // r1 = 1
        instruction(0xdb, 0, 1, 0, 0),               // lock *(u64 *)(r0 + 0) += r1
    ];
    code.extend(match verdict {
        Verdict::Next => vec![instruction(0xb7, 0, 0, 0, TC_ACT_UNSPEC)], // r0 = TC_ACT_UNSPEC
        Verdict::Write(tc_index, cb) => {
            // Their places in `struct __sk_buff`.
            let places = [44, 48, 52, 56, 60, 64];
            let words = [i32::from(tc_index)].into_iter().chain(cb.map(|word| word as i32));
            let write = |(place, word)| {
                [instruction(0xb7, 2, 0, 0, word), instruction(0x63, 6, 2, place, 0)] // r2 = word; *(u32 *)(r6 + place) = r2
            };
            let mut code: Vec<u64> = places.into_iter().zip(words).flat_map(write).collect();
            code.push(instruction(0xb7, 0, 0, 0, TC_ACT_UNSPEC));
            code
        }
        Verdict::Ok => vec![instruction(0xb7, 0, 0, 0, TC_ACT_OK)],
        Verdict::Shot => vec![instruction(0xb7, 0, 0, 0, TC_ACT_SHOT)],
        Verdict::Redirect(index) => vec![
            instruction(0xb7, 1, 0, 0, index as i32), // r1 = index
            instruction(0xb7, 2, 0, 0, 0),            // r2 = 0: to the device's egress
            instruction(0x85, 0, 0, 0, 23),           // call bpf_redirect
        ],
    });
    code.push(instruction(0x95, 0, 0, 0, 0)); // exit
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log: [u64; 2],
        kern_version: u32,
        flags: u32,
    }
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log: [0; 2],
        kern_version: 0,
        flags: 0,
    };
    bpf_fd(BPF_PROG_LOAD, &mut attr)
}

fn pin_object(object: &OwnedFd, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    bpf(BPF_OBJ_PIN, &mut Pin { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 })?;
    Ok(())
}

/// `struct bpf_insn` (include/uapi/linux/bpf.h).
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(destination | source << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the call has made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` lies as the command's part of `union bpf_attr` does, is as long as said, and what it points
    // to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
