//! Who a rule or a group belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who put a rule in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Owner {
    /// A person, with the command line.
    Cli,
    /// Another program, with this library.
    Api,
    /// The configuration.
    Config,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cli => "cli",
            Self::Api => "api",
            Self::Config => "config",
        })
    }
}
