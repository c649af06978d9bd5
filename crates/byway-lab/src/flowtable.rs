//! Offload of forwarded flows past most of the stack: a flowtable of nftables, in software
//! (Documentation/networking/nf_flowtable.rst in the kernel's source; nft(8)).

use crate::{
    Node,
    attribute::{Attribute, nested, text},
    error::{Doing, Result},
    nftables::{self, Batch, Name, compare, drop, flow_add, interface_name, number, padded},
};

/// `NFPROTO_INET` (linux/netfilter.h): both families.
const INET: u8 = 1;
const TABLE: &str = "byway-lab";
const CHAIN: &str = "forward";
const FLOWTABLE: &str = "flows";

impl Node {
    /// Offloads flows between `devices`, once the node forwards one of their packets out of `leaving_by`. The same as
    ///
    /// ```text
    /// table inet byway-lab {
    ///     flowtable flows {
    ///         hook ingress priority filter; devices = { DEVICES };
    ///     }
    ///     chain forward {
    ///         type filter hook forward priority filter;
    ///         oifname LEAVING_BY flow add @flows
    ///     }
    /// }
    /// ```
    ///
    /// The packet that starts the offload has to belong to an established connection. It decides both directions. Its own
    /// direction stays as it is. For the other one, the kernel looks for a route by the device that the packet came in by
    /// (`nft_flow_route`, net/netfilter/nft_flow_offload.c).
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] if there is no such device, and with `ENOENT` or `EOPNOTSUPP` from a kernel without
    /// flowtables.
    pub fn offload_flows(&self, devices: &[&str], leaving_by: &str) -> Result<()> {
        let mut batch = Batch::new(INET);
        batch.add(nftables::NEW_TABLE, &[text(1, TABLE)]);
        batch.add(nftables::NEW_FLOWTABLE, &flowtable(devices));
        batch.add(nftables::NEW_CHAIN, &chain());
        batch.append(
            nftables::NEW_RULE,
            &rule(&[interface_name(Name::Output), compare(&padded(leaving_by)), flow_add(FLOWTABLE)]),
        );
        self.run(|| batch.send()).doing(|| format!("making a flowtable on {}", self.name()))
    }

    /// Drops packets to be forwarded that come in by a device, unless they are offloaded. Call [`Node::offload_flows`] first:
    /// this adds a rule at the end of its chain (`iifname DEVICE drop`).
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] with what nf_tables reports.
    pub fn drop_forwarded(&self, device: &str) -> Result<()> {
        let mut batch = Batch::new(INET);
        batch.append(
            nftables::NEW_RULE,
            &rule(&[interface_name(Name::Input), compare(&padded(device)), drop()]),
        );
        self.run(|| batch.send())
            .doing(|| format!("dropping what comes in by {device} to be forwarded on {}", self.name()))
    }
}

/// `NFTA_FLOWTABLE_TABLE` 1, `_NAME` 2, `_HOOK` 3; `NFTA_FLOWTABLE_HOOK_NUM` 1, `_PRIORITY` 2, `_DEVS` 3, a list of
/// `NFTA_DEVICE_NAME` 1.
fn flowtable(devices: &[&str]) -> [Attribute; 3] {
    const NF_NETDEV_INGRESS: u32 = 0;
    let devices: Vec<Attribute> = devices.iter().map(|device| text(1, device)).collect();
    let hook = nested(3, &[number(1, NF_NETDEV_INGRESS), number(2, 0), nested(3, &devices)]);
    [text(1, TABLE), text(2, FLOWTABLE), hook]
}

/// As for destination NAT.
fn chain() -> [Attribute; 4] {
    const NF_INET_FORWARD: u32 = 2;
    let hook = nested(4, &[number(1, NF_INET_FORWARD), number(2, 0)]);
    [text(1, TABLE), text(3, CHAIN), hook, text(7, "filter")]
}

fn rule(expressions: &[Vec<Attribute>]) -> [Attribute; 3] {
    [text(1, TABLE), text(2, CHAIN), nftables::expressions(expressions)]
}
