//! Hosts, links and traffic in network namespaces, for tests, demonstrations and benchmarks.
//!
//! A [`Lab`] holds [`Node`]s: network namespaces that stand for hosts and routers. They are joined by veth pairs
//! ([`Lab::link`]), by a LAN ([`Lab::bridge`]) or by WireGuard ([`Lab::wireguard`]), have devices of other kinds
//! ([`Node::vlan`], [`Node::bond`], …), take addresses, routes, rules and sysctls as text in iproute2's
//! words, and send and receive real traffic. A topology has one line for each fact:
//!
//! ```no_run
//! # use std::time::Duration;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lab = byway_lab::Lab::new()?;
//! let client = lab.node("client")?;
//! let router = lab.node("router")?;
//! let server = lab.node("server")?;
//! lab.link((&client, "eth0"), (&router, "eth0"))?;
//! lab.link((&router, "eth1"), (&server, "eth0"))?;
//! client.address("eth0", "10.1.0.2/24")?;
//! router.address("eth0", "10.1.0.1/24")?;
//! router.address("eth1", "10.2.0.1/24")?;
//! server.address("eth0", "10.2.0.2/24")?;
//! router.forwarding()?;
//! client.route("default via 10.1.0.1")?;
//! server.route("default via 10.2.0.1")?;
//!
//! let echo = server.tcp_serve("10.2.0.2:80".parse()?)?;
//! let answer = client.tcp_echo(None, echo.address(), b"hello", Duration::from_secs(5))?;
//! assert_eq!(answer, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! Everything is done with netlink, setns(2), mount(2) and writes to `/proc/sys`; no other program is needed. No
//! packet ever leaves the namespaces: no lab is connected to the host. A lab needs `CAP_SYS_ADMIN`, `CAP_NET_ADMIN` and
//! `CAP_NET_RAW`; without them it is an error, never a skipped test. It needs Linux 5.10 or later.

#![forbid(unsafe_code)]

mod address;
mod attribute;
mod bridge;
mod bulk;
mod capture;
mod connections;
mod connmark;
mod datagrams;
mod device;
mod error;
mod flood;
mod flowtable;
pub mod frame;
mod ipsec;
mod lab;
mod latency;
mod link;
mod mounts;
mod namespace;
mod nat;
mod neighbour;
mod nftables;
mod node;
mod offload;
mod ping;
mod policy;
mod process;
mod processor;
mod route;
pub mod seed;
mod service;
mod sources;
mod sysctl;
mod tcp;
mod traffic;
mod udp;
mod wait;
mod wireguard;

pub use bridge::Bridge;
pub use bulk::Bulk;
pub use capture::Capture;
pub use datagrams::DatagramSender;
pub use device::Bonding;
pub use error::{Error, Result};
pub use flood::FrameSender;
pub use frame::{Direction, Frame};
pub use ipsec::{Esp, EspMode, EspPolicy};
pub use lab::Lab;
pub use link::LinkCounters;
pub use nat::Protocol;
pub use neighbour::{Neighbour, NeighbourState};
pub use node::Node;
pub use offload::Offload;
pub use process::Process;
pub use processor::{run_before_others, stay_on_processor};
pub use service::Service;
pub use traffic::Traffic;
pub use wait::wait_until;
