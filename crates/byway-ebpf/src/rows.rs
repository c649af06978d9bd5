//! Values of maps that programs write.
//!
//! A program's call may run it once more on the same CPU, for another packet (`bpf_clone_redirect`), and two parts of one
//! program may hold the same row. So a row is a [`Cell`], and so is each field of one.

use core::{cell::Cell, ptr};

use aya_ebpf::btf_maps::PerCpuArray;

/// A map that has a row for each CPU.
pub trait PerCpu {
    type Row: 'static;

    /// The row of this CPU, if there is one of this key.
    fn mine(&'static self, key: u32) -> Option<&'static Cell<Self::Row>>;
}

impl<T: 'static, const LEN: usize> PerCpu for PerCpuArray<T, LEN> {
    type Row = T;

    #[inline(always)]
    fn mine(&'static self, key: u32) -> Option<&'static Cell<T>> {
        // SAFETY: no other CPU's programs come to this row, and no reference to what is in it is ever made.
        self.get_ptr_mut(key).map(|row| unsafe { &*row.cast() })
    }
}

/// A field of a row.
macro_rules! field {
    ($row:expr, $field:ident) => {{
        let row: &::core::cell::Cell<_> = $row;
        // SAFETY: the field is in the row.
        unsafe { $crate::rows::part(row, &raw mut (*row.as_ptr()).$field) }
    }};
}
pub(crate) use field;

/// What a pointer into a row points to.
///
/// # Safety
///
/// It does point into the row.
#[inline(always)]
pub unsafe fn part<R, T>(_: &Cell<R>, part: *mut T) -> &Cell<T> {
    // SAFETY: what is in a cell may be changed part by part: nobody has a reference to it.
    unsafe { &*part.cast() }
}

/// A word that all CPUs read and write as it comes.
#[derive(Clone, Copy)]
pub struct Shared(*mut u64);

impl Shared {
    /// # Safety
    ///
    /// The word is in a map's value, to whose words all programs go in this way.
    #[inline(always)]
    pub unsafe fn new(word: *mut u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub fn get(self) -> u64 {
        // SAFETY: maps' values live as long as the program. Volatile, as another CPU may write at the same time: all 64 bits at
        // once. (Atomic accesses are what the language has for it; the instruction set that old kernels know has none.)
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    pub fn set(self, value: u64) {
        // SAFETY: likewise.
        unsafe { self.0.write_volatile(value) }
    }
}

/// Reads all of a value at once, and once: userspace writes it, at the same time or before it loads the programs. Of a static the
/// compiler knows no other value than the 0 here.
#[inline(always)]
pub fn read_once<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is good to read from.
    unsafe { ptr::read_volatile(value) }
}
