use std::io::Write;

use clap::Args;
use serde_json::json;

use crate::{error::Error, output::Output};

/// Print the host's policy routing as a configuration
///
/// Reads the entries of `ip rule` and the routes of their tables, IPv4 and IPv6, and writes a configuration that does the
/// same, with comments on what differs and what has no equivalent. Changes nothing, and needs no privilege.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway import > /etc/byway/byway.toml
  byway --netns blue import

Read the comments; then `byway check`, `byway diff` and `byway apply`. Remove the
old entries of `ip rule` last: as long as they exist, they decide first.")]
pub(crate) struct Import {}

impl Import {
    pub(crate) fn exec(&self) -> Result<Output, Error> {
        let imported = byway::import()?;
        let line = summary(imported.imported, imported.left_out, imported.without_equivalent);
        // Not on standard output: the configuration goes there, and likely into a file.
        let _ = writeln!(anstream::stderr(), "{line}");
        for line in &imported.too_much {
            let _ = writeln!(anstream::stderr(), "this cannot be applied as it is: {line}");
        }
        let json = json!({
            "config": imported.to_string(),
            "imported": imported.imported,
            "left_out": imported.left_out,
            "without_equivalent": imported.without_equivalent,
            "too_much": imported.too_much,
        });
        Ok(Output { text: imported.to_string(), json: Some(json), ..Output::printed() })
    }
}

fn summary(imported: usize, left_out: usize, without: usize) -> String {
    let mut line = match imported {
        1 => "imported 1 entry".to_owned(),
        entries => format!("imported {entries} entries"),
    };
    match left_out {
        0 => {}
        1 => line += "; 1 entry decides nothing now and is left out",
        entries => line += &format!("; {entries} entries decide nothing now and are left out"),
    }
    match without {
        0 => {}
        1 => line += "; 1 entry has no equivalent",
        entries => line += &format!("; {entries} entries have no equivalent"),
    }
    if left_out + without > 0 {
        line += ", see the comments";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_sentence() {
        assert_eq!(summary(0, 0, 0), "imported 0 entries");
        assert_eq!(summary(1, 0, 1), "imported 1 entry; 1 entry has no equivalent, see the comments");
        assert_eq!(summary(4, 0, 3), "imported 4 entries; 3 entries have no equivalent, see the comments");
        assert_eq!(
            summary(2, 1, 0),
            "imported 2 entries; 1 entry decides nothing now and is left out, see the comments"
        );
    }
}
