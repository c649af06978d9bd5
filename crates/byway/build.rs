//! Says which eBPF object to embed: the committed one, or the one that `BYWAY_BPF_OBJECT` names, with which
//! `cargo xtask bpf --check` tests a freshly built object, and distributions embed theirs.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=BYWAY_BPF_OBJECT");
    let object = env::var_os("BYWAY_BPF_OBJECT").map(PathBuf::from).unwrap_or_else(|| {
        let crate_dir = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        PathBuf::from(crate_dir).join("src/kernel/byway.bpf.o")
    });
    // rustc would look for a relative path beside the source that embeds it.
    if !object.is_absolute() || !object.is_file() {
        println!(
            "cargo::error=BYWAY_BPF_OBJECT is {}, which is not the absolute path of a file",
            object.display()
        );
        return;
    }
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=BYWAY_BPF_OBJECT={}", object.display());
}
