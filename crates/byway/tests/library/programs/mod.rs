//! The programs on crafted packets, one by one (`BPF_PROG_TEST_RUN`, bpf(2)). Their bytes are the same on each kernel.

mod answers;
mod differential;
mod mss;
mod packets;
mod replies;
