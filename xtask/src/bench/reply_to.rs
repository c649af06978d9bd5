//! Measures what `reply-to` costs: the programs for one packet ([`packets`]),
//! and replies through a router ([`replies`]).

mod host;
mod packets;

use anyhow::Result;
use byway_lab::seed::{IPV4, IPV6};

use super::{Effort, figures::Chart, forward::replies};

/// Measures everything of this part.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for (family, addresses) in [("IPv4", IPV4), ("IPv6", IPV6)] {
        charts.extend(packets::measure(effort, family, addresses)?);
    }
    charts.push(replies::measure(effort)?);
    Ok(charts)
}
