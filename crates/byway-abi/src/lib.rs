//! What crosses the kernel boundary between byway and its eBPF programs.
