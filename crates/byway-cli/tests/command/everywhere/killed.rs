//! An apply that is killed at each of its system calls that may change anything.
#![cfg(target_arch = "x86_64")] // as what it is built on

use crate::contract::killed::killed_at_each;

#[test]
fn an_apply_is_killed_at_each_system_call() {
    killed_at_each(1);
}
