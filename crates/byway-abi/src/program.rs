//! Which devices carry which programs, and which are to carry one.

/// How many devices may carry programs.
pub const MAX_DEVICES: u32 = 1_024;
/// How many programs they may carry: one per device and direction.
pub const MAX_PROGRAMS: u32 = 2 * MAX_DEVICES;
/// How many attachments there may be.
pub const MAX_ATTACHMENTS: u32 = 256;
/// The longest name of a device, in bytes and with the zero at its end (`IFNAMSIZ`).
pub const DEVICE_NAME_LEN: usize = 16;

/// [`ProgramKey::direction`] of no program: the record is a requested attachment. It waits for the device of its name.
/// Without a name, it asks for the devices that carry a default route. The key's ifindex is then only a number that tells
/// such records apart.
pub const DIRECTION_NONE: u32 = 0;
/// [`ProgramKey::direction`] of a program for incoming packets.
pub const DIRECTION_INGRESS: u32 = 1;
/// [`ProgramKey::direction`] of a program for outgoing packets.
pub const DIRECTION_EGRESS: u32 = 2;

/// Key of `PROGRAMS`: a device and a direction. A device carries at most one program in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramKey {
    /// The device.
    pub ifindex: u32,
    /// [`DIRECTION_INGRESS`] or [`DIRECTION_EGRESS`]; or [`DIRECTION_NONE`].
    pub direction: u32,
}

/// [`ProgramRecord::role`] on the egress of an attachment.
pub const ROLE_DEPARTURE: u8 = 1;
/// [`ProgramRecord::role`] on the egress of a next hop's device that is no attachment.
pub const ROLE_ARRIVAL: u8 = 2;
/// [`ProgramRecord::role`] on the ingress of a device that requests come in by.
pub const ROLE_RECEPTION: u8 = 3;

/// [`ProgramRecord::hook`] of a pinned tcx link.
pub const HOOK_TCX: u8 = 1;
/// [`ProgramRecord::hook`] of a filter in that direction's chain of a clsact qdisc.
pub const HOOK_CLSACT: u8 = 2;

/// Value of `PROGRAMS`: which program it is, and how it is attached. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramRecord {
    /// The device's name when the program was attached, padded with zeros.
    pub name: [u8; DEVICE_NAME_LEN],
    /// [`ROLE_DEPARTURE`], [`ROLE_ARRIVAL`] or [`ROLE_RECEPTION`]. Byway leaves programs with any other role alone.
    pub role: u8,
    /// [`HOOK_TCX`] or [`HOOK_CLSACT`].
    pub hook: u8,
    /// 1 if Byway added the device's clsact qdisc, and so has to remove it with its last program there.
    pub qdisc_added: u8,
    /// Keeps the record free of padding.
    pub reserved: u8,
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<ProgramKey>() == 2 * 4);
    assert!(size_of::<ProgramRecord>() == DEVICE_NAME_LEN + 4);
};
