//! Marks replies like their requests, by the kernel's table of connections (conntrack).

use crate::{
    Node,
    attribute::text,
    error::{Doing, Result},
    nftables::{
        self, Batch, Known, Name, REGISTER_1, compare, compare_not, connection, immediate, interface_name,
        set_connection_mark, set_mark,
    },
};

/// `NFPROTO_IPV4` (linux/netfilter.h).
const IPV4: u8 = 2;
const TABLE: &str = "byway-lab";
const CHAIN: &str = "connmark";

impl Node {
    /// Marks the packets of each connection whose requests come in by `device`, as they come in by another one and before they
    /// are routed. With an `ip rule` for the mark, replies that the node forwards leave by the device of their requests. The
    /// same as
    ///
    /// ```text
    /// table ip byway-lab {
    ///     chain connmark {
    ///         type filter hook prerouting priority mangle;
    ///         iifname "DEVICE" ct direction original ct mark set MARK
    ///         iifname != "DEVICE" meta mark set ct mark
    ///     }
    /// }
    /// ```
    ///
    /// (nft(8)).
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] with what nf_tables reports, such as `EOPNOTSUPP` from a kernel without it.
    pub fn mark_replies(&self, device: &str, mark: u32) -> Result<()> {
        let name = nftables::padded(device);
        let note = [
            interface_name(Name::Input),
            compare(&name),
            connection(Known::Direction),
            compare(&[0]),
            immediate(REGISTER_1, &mark.to_ne_bytes()),
            set_connection_mark(),
        ];
        let restore = [interface_name(Name::Input), compare_not(&name), connection(Known::Mark), set_mark()];
        let mut batch = Batch::new(IPV4);
        batch.add(nftables::NEW_TABLE, &[text(1, TABLE)]);
        let chain = nftables::chain(TABLE, CHAIN, "filter", nftables::PRE_ROUTING, nftables::MANGLE);
        batch.add(nftables::NEW_CHAIN, &chain);
        for expressions in [&note[..], &restore[..]] {
            let rule = [text(1, TABLE), text(2, CHAIN), nftables::expressions(expressions)];
            batch.append(nftables::NEW_RULE, &rule);
        }
        self.run(|| batch.send()).doing(|| format!("marking replies to {device} on {}", self.name()))
    }
}
