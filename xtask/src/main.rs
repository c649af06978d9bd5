//! The project's own chores: `cargo xtask VERB`.

#![forbid(unsafe_code)]

mod bench;
mod boot;
mod bpf;
mod dist;
mod fuzz;
mod fuzz_datapath;
mod kernels;
mod nightly;
mod run;
mod suite;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Bench(bench::Bench),
    Boot(boot::Boot),
    Bpf(bpf::Bpf),
    Dist(dist::Dist),
    Fuzz(fuzz::Fuzz),
    FuzzDatapath(fuzz_datapath::FuzzDatapath),
    Kernels(kernels::Kernels),
    Nightly(nightly::Nightly),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Bench(bench) => bench.exec().map(|()| ExitCode::SUCCESS),
        Verb::Boot(boot) => boot.exec().map(|()| ExitCode::SUCCESS),
        Verb::Bpf(bpf) => bpf.exec(),
        Verb::Dist(dist) => dist.exec().map(|()| ExitCode::SUCCESS),
        Verb::Fuzz(fuzz) => fuzz.exec().map(|()| ExitCode::SUCCESS),
        Verb::FuzzDatapath(fuzz) => fuzz.exec().map(|()| ExitCode::SUCCESS),
        Verb::Kernels(kernels) => kernels.exec(),
        Verb::Nightly(nightly) => nightly.exec(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
