//! A node's kernel parameters (sysctl(8)). `/proc/sys/net` shows those of the reading thread's namespace.

use std::{fs, io, path::PathBuf};

use crate::{
    Node,
    error::{Doing, Error, Result},
};

/// The initial values of every node, because kernels, distributions and `net.core.devconf_inherit_init_net` differ.
const EXPLICIT: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    // The limit of all destinations together. In Linux 5.10 it is even one for all namespaces, so one test could silence another
    // (icmp_global_allow, net/ipv4/icmp.c). It holds for the types of the mask, and 255 is none that is in use.
    ("net.ipv4.icmp_ratemask", "0"),
    ("net.ipv6.icmp.ratemask", "255"),
];

const EXPLICIT_PER_DEVICE: &[(&str, &str)] = &[
    ("net.ipv4.conf.DEVICE.rp_filter", "0"),
    ("net.ipv4.conf.DEVICE.arp_announce", "0"),
    ("net.ipv4.conf.DEVICE.arp_filter", "0"),
    ("net.ipv4.conf.DEVICE.arp_ignore", "0"),
    ("net.ipv4.conf.DEVICE.accept_local", "0"),
    ("net.ipv4.conf.DEVICE.accept_redirects", "0"),
    ("net.ipv4.conf.DEVICE.secure_redirects", "0"),
    ("net.ipv4.conf.DEVICE.send_redirects", "0"),
    ("net.ipv4.conf.DEVICE.src_valid_mark", "0"),
    ("net.ipv4.conf.DEVICE.route_localnet", "0"),
    ("net.ipv6.conf.DEVICE.disable_ipv6", "0"),
    ("net.ipv6.conf.DEVICE.forwarding", "0"),
    ("net.ipv6.conf.DEVICE.accept_dad", "0"),
    ("net.ipv6.conf.DEVICE.dad_transmits", "0"),
    ("net.ipv6.conf.DEVICE.accept_ra", "0"),
    ("net.ipv6.conf.DEVICE.autoconf", "0"),
    ("net.ipv6.conf.DEVICE.accept_redirects", "0"),
    ("net.ipv6.conf.DEVICE.addr_gen_mode", "0"),
    ("net.ipv6.conf.DEVICE.use_tempaddr", "0"),
    ("net.ipv6.conf.DEVICE.keep_addr_on_down", "0"),
];

impl Node {
    /// Sets a kernel parameter: `net.ipv4.ip_forward`, or with slashes where a device name has a dot:
    /// `net/ipv4/conf/eth0.5/rp_filter`.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the kernel does not know it or does not take the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| write(name, value)).doing(|| format!("setting {name} to {value} on {}", self.name()))
    }

    /// Reads a kernel parameter, without the line's end.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the kernel does not know it.
    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        self.run(|| fs::read_to_string(path(name)))
            .map(|value| value.trim_end().to_owned())
            .doing(|| format!("reading {name} on {}", self.name()))
    }

    /// Makes the node a router, for IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// [`Error::System`], as for [`Node::sysctl`].
    pub fn forwarding(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    pub(crate) fn set_explicit_sysctls(&self) -> Result<()> {
        let set = |name: &str, value| {
            write(name, value).map_err(|source| Error::System {
                doing: format!("setting {name} to {value} on {}", self.name()),
                source,
            })
        };
        self.run(|| {
            for (name, value) in EXPLICIT {
                set(name, value)?;
            }
            for (name, value) in EXPLICIT_PER_DEVICE {
                for device in ["all", "default", "lo"] {
                    set(&name.replace("DEVICE", device), value)?;
                }
            }
            Ok(())
        })
    }
}

fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}

fn path(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    PathBuf::from("/proc/sys").join(relative)
}
