//! Values that change while a program uses them.
//!
//! A helper may run the program again for another packet (`bpf_clone_redirect`), and two parts of a program may hold the
//! same row. So rows and their fields are [`Cell`]s. [`Shared`] and [`read_once`] read what others write at the same time.

use core::{cell::Cell, ptr};

use aya_ebpf::btf_maps::PerCpuArray;

/// A map that has a row for each CPU.
pub trait PerCpu {
    type Row: 'static;

    /// Returns this CPU's row for a key, if the map has that key.
    fn mine(&'static self, key: u32) -> Option<&'static Cell<Self::Row>>;
}

impl<T: 'static, const LEN: usize> PerCpu for PerCpuArray<T, LEN> {
    type Row = T;

    #[inline(always)]
    fn mine(&'static self, key: u32) -> Option<&'static Cell<T>> {
        // SAFETY: the row is this CPU's alone, and no program makes a reference to its content.
        self.get_ptr_mut(key).map(|row| unsafe { &*row.cast() })
    }
}

/// Returns a field of a row.
macro_rules! field {
    ($row:expr, $field:ident) => {{
        let row: &::core::cell::Cell<_> = $row;
        // SAFETY: a field lies in its row.
        unsafe { $crate::rows::part(row, &raw mut (*row.as_ptr()).$field) }
    }};
}
pub(crate) use field;

/// Returns the part of a row that a pointer points to.
///
/// # Safety
///
/// The pointer points into the row.
#[inline(always)]
pub unsafe fn part<R, T>(_: &Cell<R>, part: *mut T) -> &Cell<T> {
    // SAFETY: nobody has a reference to the content of a cell, so each part of it may be a cell as well.
    unsafe { &*part.cast() }
}

/// A word that all CPUs read and write, without a lock.
#[derive(Clone, Copy)]
pub struct Shared(*mut u64);

impl Shared {
    /// # Safety
    ///
    /// The word is in a map's value, and all programs use it through this type.
    #[inline(always)]
    pub unsafe fn new(word: *mut u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub fn get(self) -> u64 {
        // SAFETY: a map's value lives as long as the program. Volatile, because another CPU may write at the same time, all 64
        // bits at once. (The language has atomic accesses for this, but the instruction set of old kernels has none.)
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    pub fn set(self, value: u64) {
        // SAFETY: a map's value lives as long as the program. Volatile, so that other CPUs see all 64 bits change at once.
        unsafe { self.0.write_volatile(value) }
    }
}

/// Reads a value once, and as a whole. Userspace writes it, at the same time or before it loads the programs. Otherwise the
/// compiler would take a static for the 0 that it is here.
#[inline(always)]
pub fn read_once<T: Copy>(value: &T) -> T {
    // SAFETY: a reference can be read from.
    unsafe { ptr::read_volatile(value) }
}
