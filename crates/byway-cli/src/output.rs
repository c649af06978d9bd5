//! The result of a command, for printing.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

/// The version of the JSON that docs/json.md describes.
const VERSION: u32 = 1;

/// JSON with the time that it is of, and the version of its form.
#[derive(Debug, Serialize)]
pub(crate) struct Stamped<'a, T> {
    version: u32,
    /// RFC 3339, in UTC.
    time: String,
    #[serde(flatten)]
    of: &'a T,
}

impl<'a, T> Stamped<'a, T> {
    pub(crate) fn now(of: &'a T) -> Self {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        Self { version: VERSION, time, of }
    }
}

/// An answer in both forms: text for people, JSON for programs.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whole lines.
    pub(crate) text: String,
    /// One value; `None` if it has been printed already.
    pub(crate) json: Option<Value>,
    /// 0, unless the command has something to report by it.
    pub(crate) exit_code: u8,
    /// What has been changed, for the log: empty if nothing has, and `None` if the text says it.
    pub(crate) done: Option<String>,
    /// What is said behind it, on standard error.
    pub(crate) warnings: Vec<String>,
}

impl Output {
    /// One line for a person, and the object that it is about.
    pub(crate) fn line(text: impl Into<String>, json: impl Serialize) -> Self {
        let mut text = text.into();
        text.push('\n');
        // Plain data always has a JSON form.
        let json = serde_json::to_value(json).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        Self { text, json: Some(json), ..Self::printed() }
    }

    #[cfg(feature = "demo")]
    /// An answer whose text has been printed already.
    pub(crate) fn told(json: Value) -> Self {
        Self { json: Some(json), ..Self::printed() }
    }

    /// The same for a command that has changed something, with what the log says of it.
    pub(crate) fn changed(done: impl Into<String>) -> Self {
        Self { done: Some(done.into()), ..Self::printed() }
    }

    /// An answer that has been printed already, in the requested form.
    pub(crate) fn printed() -> Self {
        Self { text: String::new(), json: None, exit_code: 0, done: None, warnings: Vec::new() }
    }
}

/// An error may quote what comes from outside, such as the name of a network namespace. Nothing of that may move the cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|it| match it {
            it if it.is_control() && it != '\n' => it.escape_default().collect::<Vec<_>>(),
            it => vec![it],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use byway::{Rule, RuleStatus, Status, Target};

    use super::*;

    #[test]
    fn an_error_moves_no_cursor() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\nd"), "a\\u{1b}[2Jb\\u{9b}c\nd");
    }

    #[test]
    fn large_counts_stay_exact() {
        let mut rule = RuleStatus::new(Rule::new("192.0.2.7".parse().unwrap(), Target::Pass));
        rule.passed.bytes = u64::MAX;
        let mut status = Status::default();
        status.rules.push(rule.clone());
        let line = Output::line("", Stamped::now(&rule)).json.unwrap().to_string();
        for json in [serde_json::to_string(&Stamped::now(&status)).unwrap(), line] {
            assert!(json.contains(r#""bytes":18446744073709551615"#), "{json}");
        }
    }

    #[test]
    fn a_stamp_says_when_and_in_which_form() {
        let before = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let json = serde_json::to_value(Stamped::now(&Status::default())).unwrap();
        let time = json["time"].as_str().unwrap();
        // Such texts are in the order of their times.
        assert!(before.as_str() <= time && time.ends_with('Z'), "{before} {time}");
        assert_eq!((&json["version"], &json["rules"]), (&1.into(), &json!([])));
    }
}
