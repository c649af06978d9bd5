//! The result of a command, for printing.

use serde::Serialize;
use serde_json::{Value, json};

/// An answer in both forms: text for people, JSON for programs.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whole lines.
    pub(crate) text: String,
    /// One value; `None` if it has been printed already.
    pub(crate) json: Option<Value>,
    /// 0, unless the command has something to report by it.
    pub(crate) exit_code: u8,
}

impl Output {
    /// One line for a person, and the object that it is about.
    pub(crate) fn line(text: impl Into<String>, json: impl Serialize) -> Self {
        let mut text = text.into();
        text.push('\n');
        // Plain data always has a JSON form.
        let json = serde_json::to_value(json).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        Self { text, json: Some(json), exit_code: 0 }
    }

    #[cfg(feature = "demo")]
    /// An answer whose text has been printed already.
    pub(crate) fn told(json: Value) -> Self {
        Self { text: String::new(), json: Some(json), exit_code: 0 }
    }

    /// An answer that has been printed already, in the requested form.
    pub(crate) fn printed() -> Self {
        Self { text: String::new(), json: None, exit_code: 0 }
    }
}
