//! Who a rule or a group belongs to.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::in_one_sentence;

/// Who a rule or a group belongs to: a number, like the protocol of a route (ip-route(8)). A program that reconciles the rules
/// of an owner leaves those of every other owner alone, even of owners that it does not know.
///
/// Byway gives names to some numbers. It takes them from 1 to 15; other programs may take one from 16 to 254. 0 and 255 are
/// reserved: nobody puts a rule in with them. Byway reads a record with any of these numbers, and keeps its number.
///
/// Written as its name, or as its number if it has no name.
///
/// ```
/// use byway::Owner;
///
/// assert_eq!(Owner::CONFIG.to_string(), "config");
/// assert_eq!(Owner::new(42).to_string(), "42");
/// assert_eq!("config".parse(), Ok(Owner::CONFIG));
/// assert_eq!("42".parse(), Ok(Owner::new(42)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(u8);

/// The owners that have a name.
const NAMES: [(Owner, &str); 4] =
    [(Owner::CLI, "cli"), (Owner::API, "api"), (Owner::CONFIG, "config"), (Owner::KUBERNETES, "kubernetes")];

impl Owner {
    /// A person, with the command line.
    pub const CLI: Self = Self(byway_abi::OWNER_CLI);
    /// Another program, with this library.
    pub const API: Self = Self(byway_abi::OWNER_API);
    /// The configuration.
    pub const CONFIG: Self = Self(byway_abi::OWNER_CONFIG);
    /// The objects of a Kubernetes cluster.
    pub const KUBERNETES: Self = Self(byway_abi::OWNER_KUBERNETES);

    /// Returns the owner with this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Returns its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Returns its name, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(owner, _)| *owner == self).map(|(_, name)| *name)
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::API
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

/// A text is not an [`Owner`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an owner")]
pub struct OwnerError(String);

impl OwnerError {
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        let names = NAMES.map(|(_, name)| format!("`{name}`")).join(", ");
        Some(format!("use {names} or a number from 0 to 255"))
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        match NAMES.iter().find(|(_, name)| *name == text) {
            Some((owner, _)) => Ok(*owner),
            None => text.parse().map(Self).map_err(|_| OwnerError(text.to_owned())),
        }
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: OwnerError| de::Error::custom(error.sentence()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_survives_its_text() {
        for number in 0..=u8::MAX {
            let owner = Owner::new(number);
            assert_eq!(owner.to_string().parse(), Ok(owner));
            let json = serde_json::to_string(&owner).unwrap();
            assert_eq!(serde_json::from_str::<Owner>(&json).unwrap(), owner);
        }
        let names = ["0", "cli", "api", "config", "kubernetes", "5"];
        assert_eq!([0, 1, 2, 3, 4, 5].map(|number| Owner::new(number).to_string()), names);
        for text in ["", "CLI", "256", "-1"] {
            let sentence = format!(
                "`{text}` is not an owner; use `cli`, `api`, `config`, `kubernetes` or a number from 0 to 255"
            );
            assert_eq!(text.parse::<Owner>().unwrap_err().sentence(), sentence);
            let error = serde_json::from_value::<Owner>(text.into()).unwrap_err();
            assert_eq!(error.to_string(), sentence);
        }
    }
}
