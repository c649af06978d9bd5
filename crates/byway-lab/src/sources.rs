//! Marks packets by source address with nftables, instead of many routing policy rules.

use std::net::Ipv4Addr;

use crate::{
    Node,
    attribute::{Attribute, nested, text},
    error::{Doing, Result},
    nftables::{self, Base, Batch, lookup, number, payload, set_mark},
};

/// `NFPROTO_IPV4` (linux/netfilter.h).
const IPV4: u8 = 2;
const TABLE: &str = "byway-lab";
const CHAIN: &str = "marks";
const SET: &str = "sources";
/// How many elements fit into one request: 16 bytes each, in a list with a length of 16 bits.
const AT_ONCE: usize = 2_000;

impl Node {
    /// Marks packets that come in from one of `sources`, before they are routed. The same as
    ///
    /// ```text
    /// table ip byway-lab {
    ///     set sources {
    ///         type ipv4_addr; size NUMBER; elements = { SOURCES }
    ///     }
    ///     chain marks {
    ///         type filter hook prerouting priority mangle;
    ///         ip saddr @sources meta mark set MARK
    ///     }
    /// }
    /// ```
    ///
    /// (nft(8)). The size is that of `sources`, so the kernel can choose its fastest kind of set.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] with what nf_tables reports, such as `EOPNOTSUPP` from a kernel without it.
    pub fn mark_sources(&self, sources: &[Ipv4Addr], mark: u32) -> Result<()> {
        let doing = || format!("marking packets by {} sources on {}", sources.len(), self.name());
        let mut batch = Batch::new(IPV4);
        batch.add(nftables::NEW_TABLE, &[text(1, TABLE)]);
        batch.add(nftables::NEW_SET, &set(sources.len()));
        let chain = nftables::chain(TABLE, CHAIN, "filter", nftables::PRE_ROUTING, nftables::MANGLE);
        batch.add(nftables::NEW_CHAIN, &chain);
        batch.append(nftables::NEW_RULE, &rule(mark));
        self.run(|| batch.send()).doing(doing)?;
        for sources in sources.chunks(AT_ONCE) {
            let mut batch = Batch::new(IPV4);
            batch.add(nftables::NEW_SET_ELEMENT, &elements(sources));
            self.run(|| batch.send()).doing(doing)?;
        }
        Ok(())
    }
}

/// `NFTA_SET_TABLE` 1, `_NAME` 2, `_FLAGS` 3, `_KEY_TYPE` 4 (for nft(8) alone: its type `ipv4_addr` is 7), `_KEY_LEN` 5,
/// `_DESC` 9, `_ID` 10; `NFTA_SET_DESC_SIZE` 1.
fn set(size: usize) -> [Attribute; 7] {
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    let description = nested(9, &[number(1, size)]);
    [text(1, TABLE), text(2, SET), number(3, 0), number(4, 7), number(5, 4), description, number(10, 1)]
}

fn rule(mark: u32) -> [Attribute; 3] {
    // The source address's place in an IPv4 header.
    let expressions = [
        payload(Base::Network, 12, 4),
        lookup(SET),
        nftables::immediate(nftables::REGISTER_1, &mark.to_ne_bytes()),
        set_mark(),
    ];
    [text(1, TABLE), text(2, CHAIN), nftables::expressions(&expressions)]
}

/// `NFTA_SET_ELEM_LIST_TABLE` 1, `_SET` 2, `_ELEMENTS` 3, a list of `NFTA_LIST_ELEM` 1; `NFTA_SET_ELEM_KEY` 1,
/// `NFTA_DATA_VALUE` 1.
fn elements(sources: &[Ipv4Addr]) -> [Attribute; 3] {
    let element = |source: &Ipv4Addr| nested(1, &[nested(1, &[Attribute::new(1, source.octets().to_vec())])]);
    let elements: Vec<Attribute> = sources.iter().map(element).collect();
    [text(1, TABLE), text(2, SET), nested(3, &elements)]
}
