//! Parses one file: tables to groups and rules.

mod action;
mod health_check;
mod prefixes;

use std::{borrow::Borrow, ops::Range, path::Path};

use byway_abi::MAX_RULES;
use toml::de::{DeTable, DeValue};

use super::{
    Attach,
    draft::{Draft, HostRef, Origin},
    file_error::FileError,
    problem::{PROBLEMS_MAX, Place, Problem, token},
    values::{Notes, Value},
};
use crate::model::{GroupSpec, Mss, OnDown, Owner, RuleError, Selector, check_families};

/// The keys of a file.
pub(crate) const FILE_KEYS: &[&str] = &["attach", "defaults", "group", "health-check", "rule"];
/// The keys of `[defaults]`.
pub(crate) const DEFAULTS_KEYS: &[&str] = &["on-down", "mss", "health-check"];
/// The keys of a group.
pub(crate) const GROUP_KEYS: &[&str] = &["nexthops", "on-down"];
/// The keys of a next hop.
pub(crate) const NEXT_HOP_KEYS: &[&str] = &["via", "dev", "weight", "backup"];
/// The keys of the health check of `[defaults]`.
pub(crate) const CHECK_KEYS: &[&str] =
    &["ping", "tcp", "port", "neighbour", "quorum", "src", "interval", "timeout", "fall", "rise"];
/// The keys of a health check.
pub(crate) const HEALTH_CHECK_KEYS: &[&str] = &[
    "via",
    "dev",
    "ping",
    "tcp",
    "port",
    "neighbour",
    "quorum",
    "src",
    "interval",
    "timeout",
    "fall",
    "rise",
];
/// The keys of a rule.
pub(crate) const RULE_KEYS: &[&str] = &[
    "name",
    "from",
    "from-file",
    "to",
    "reply-to",
    "via",
    "dev",
    "nexthops",
    "group",
    "target",
    "on-down",
    "mss",
];

/// The values for rules and groups of the file that do not set their own.
#[derive(Default)]
struct Defaults {
    on_down: OnDown,
    mss: Mss,
}

/// Reads a file into the draft. `load` gets the text of a list file.
pub(super) fn file(
    text: &str,
    folder: &Path,
    draft: &mut Draft,
    load: &mut dyn FnMut(&Path) -> Result<String, FileError>,
) {
    let number = draft.files.len() - 1;
    let (document, errors) = DeTable::parse_recoverable(text);
    let no_toml: Vec<Problem> = errors
        .iter()
        .take(PROBLEMS_MAX)
        .map(|error| {
            let place = Place { file: number, span: error.span().unwrap_or(0..0) };
            Problem::error(place, error.message(), None)
        })
        .collect();
    let before = draft.problems.as_slice().len();
    let document = document.get_ref();
    let mut parser = Parser { number, text, folder, draft, load, defaults: Defaults::default() };
    parser.notes().unknown_keys(document, FILE_KEYS, "a configuration");
    if let Some(value) = get(document, "defaults") {
        parser.defaults(value);
    }
    if let Some(value) = get(document, "attach") {
        parser.attach(value);
    }
    if let Some(value) = get(document, "group") {
        parser.groups(value);
    }
    if let Some(value) = get(document, "rule") {
        parser.rules(value);
    }
    if let Some(value) = get(document, "health-check") {
        parser.health_checks(value);
    }
    // Suppress follow-up errors at positions that already have a syntax error.
    let mut found = draft.problems.split_off(before);
    found.retain(|it| {
        no_toml.iter().all(|other| it.place.span.start != other.place.span.start || it.place.file != number)
    });
    no_toml.into_iter().chain(found).for_each(|problem| draft.problems.push(problem));
}

fn get<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<Value<'a, 'i>> {
    table.get(key)
}

struct Parser<'a> {
    number: usize,
    text: &'a str,
    folder: &'a Path,
    draft: &'a mut Draft,
    load: &'a mut dyn FnMut(&Path) -> Result<String, FileError>,
    defaults: Defaults,
}

impl Parser<'_> {
    fn notes(&mut self) -> Notes<'_> {
        Notes { file: self.number, problems: &mut self.draft.problems }
    }

    /// Adds an error about this part of the file.
    fn refuse(&mut self, span: Range<usize>, error: &RuleError) {
        self.notes().wrong(span, &error.to_string(), error.help().as_deref());
    }

    fn table<'a, 'i>(&mut self, key: &str, value: Value<'a, 'i>) -> Option<&'a DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.notes().wrong_type(key, value, "a table");
        }
        table
    }

    fn defaults(&mut self, value: Value<'_, '_>) {
        let Some(table) = self.table("defaults", value) else { return };
        self.notes().unknown_keys(table, DEFAULTS_KEYS, "`[defaults]`");
        self.defaults = Defaults {
            on_down: self.on_down(table).unwrap_or_default(),
            mss: self.mss(table).unwrap_or_default(),
        };
        if let Some(value) = get(table, "health-check") {
            self.default_health_check(value);
        }
    }

    fn attach(&mut self, value: Value<'_, '_>) {
        let attach = match value.get_ref() {
            DeValue::String(text) if text == "auto" => {
                let place = self.notes().place(value.span());
                self.draft.host_refs.push((HostRef::AttachAuto, place));
                Attach::Auto
            }
            DeValue::Array(names) => {
                let mut devices: Vec<String> = Vec::new();
                for value in names.iter() {
                    let Some(name) = value.get_ref().as_str() else {
                        self.notes().wrong_type("attach", value, "a list of interfaces");
                        continue;
                    };
                    let place = self.notes().place(value.span());
                    if devices.iter().any(|it| it == name) {
                        let message = format!("`attach` names {name} twice");
                        let warning = Problem::warning(place.clone(), &message, Some("once is enough"));
                        self.draft.problems.push(warning);
                    }
                    self.draft.host_refs.push((HostRef::Attach(name.to_owned()), place));
                    devices.push(name.to_owned());
                }
                Attach::Devices(devices)
            }
            _ => {
                let message = "`attach` must be \"auto\" or a list of interfaces";
                let help = "write it like `attach = [\"eth0\"]`";
                return self.notes().wrong(value.span(), message, Some(help));
            }
        };
        let place = self.notes().place(value.span());
        if let Some((_, first)) = &self.draft.attach {
            let help = "set it in one of the files only";
            let problem = Problem::error(place, "`attach` is set twice", Some(help));
            self.draft.problems.push(problem.also(first.clone(), "here as well"));
        } else {
            self.draft.attach = Some((attach, place));
        }
    }

    fn groups(&mut self, value: Value<'_, '_>) {
        let Some(groups) = self.table("group", value) else { return };
        for (name, value) in groups {
            let text: &str = name.get_ref().borrow();
            let Some(table) = self.table(text, value) else { continue };
            let has_unknown = self.notes().unknown_keys(table, GROUP_KEYS, "a group");
            let place = self.notes().place(name.span());
            self.draft.named.insert(text.to_owned());
            let on_down = self.on_down(table).unwrap_or(self.defaults.on_down);
            let Some(members) = self.members(table) else {
                if get(table, "nexthops").is_none() && !has_unknown {
                    let help = "write `nexthops = [{ via = \"192.0.2.1\", dev = \"eth1\" }]`";
                    let message = format!("the group {text} needs next hops");
                    self.notes().wrong(name.span(), &message, Some(help));
                }
                continue;
            };
            let group = GroupSpec { name: text.to_owned(), members, on_down, owner: Owner::CONFIG };
            if let Err(error) = group.check() {
                self.refuse(name.span(), &error);
            }
            match self.draft.groups.get(text) {
                Some((_, first)) => {
                    let message = format!("there is already a group {text}");
                    let problem = Problem::error(place, &message, Some("give one of them another name"));
                    self.draft.problems.push(problem.also(first.clone(), "the first one"));
                }
                None => drop(self.draft.groups.insert(text.to_owned(), (group, place))),
            }
        }
    }

    fn rules(&mut self, value: Value<'_, '_>) {
        let DeValue::Array(rules) = value.get_ref() else {
            return self.notes().wrong_type("rule", value, "an array of tables, each written `[[rule]]`");
        };
        for rule in rules.iter() {
            if let Some(table) = self.table("rule", rule) {
                self.rule(table, rule.span());
            }
        }
    }

    fn rule(&mut self, table: &DeTable<'_>, span: Range<usize>) {
        let has_unknown = self.notes().unknown_keys(table, RULE_KEYS, "a rule");
        let action = self.action(table, span.clone(), has_unknown);
        let to = match get(table, "to") {
            Some(value) => self.prefixes("to", value).into_iter().map(|(to, _)| Some(to)).collect(),
            None => vec![None],
        };
        // Even if the rule has other problems: all of them are reported at once.
        let from = match (get(table, "from"), get(table, "from-file")) {
            (Some(value), None) => self.prefixes("from", value),
            (None, Some(value)) => self.list(value).unwrap_or_default(),
            (None, None) if has_unknown => return,
            (None, None) => {
                let help = "write `from = \"192.0.2.7\"`, or `from-file` with the name of a list";
                return self.notes().wrong(span, "a rule needs the source of its packets", Some(help));
            }
            (Some(_), Some(value)) => {
                let message = "a rule has either `from` or `from-file`";
                return self.notes().wrong(value.span(), message, Some("leave one of them out"));
            }
        };
        let Some(action) = action else { return };
        let gateways = action.target.gateways();
        let number = self.draft.action(action, Place { file: self.number, span });
        for (source, origin) in from {
            for destination in &to {
                if self.draft.rules.len() > MAX_RULES as usize {
                    // One rule too many is enough to report it.
                    return;
                }
                let selector = Selector::new(source, *destination);
                let checked = selector.check().and_then(|()| check_families(&selector.source(), &gateways));
                match checked {
                    Ok(()) => self.draft.rules.push((selector, number, origin)),
                    Err(error) => {
                        let (place, help) = (self.place(origin), error.help());
                        let problem = Problem::error(place, &error.to_string(), help.as_deref());
                        self.draft.problems.push(problem);
                    }
                }
            }
        }
    }

    /// The text of this file is not in the draft yet.
    fn place(&self, origin: Origin) -> Place {
        if origin.file as usize == self.number {
            return Place { file: self.number, span: token(self.text, origin.start as usize) };
        }
        self.draft.place(origin)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::{MSS_MAX, MSS_MIN, WEIGHT_MAX};

    /// Editors know the keys from the schema.
    #[test]
    fn the_schema_has_the_same_keys() {
        let schema: Value = serde_json::from_str(include_str!("../../../../docs/byway.schema.json")).unwrap();
        let file = &schema["properties"];
        let cases = [
            (&schema, FILE_KEYS),
            (&file["defaults"], DEFAULTS_KEYS),
            (&file["defaults"]["properties"]["health-check"], CHECK_KEYS),
            (&file["group"]["additionalProperties"], GROUP_KEYS),
            (&file["rule"]["items"], RULE_KEYS),
            (&file["health-check"]["items"], HEALTH_CHECK_KEYS),
            (&schema["$defs"]["nexthops"]["items"], NEXT_HOP_KEYS),
        ];
        for (of, keys) in cases {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            let mut known: Vec<&str> =
                of["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            known.sort_unstable();
            assert_eq!(known, keys);
            assert_eq!(of["additionalProperties"], false, "{keys:?}");
        }
        let weight = &schema["$defs"]["nexthops"]["items"]["properties"]["weight"];
        assert_eq!(weight["maximum"], WEIGHT_MAX);
        let bytes = &schema["$defs"]["mss"]["oneOf"][1];
        assert_eq!((&bytes["minimum"], &bytes["maximum"]), (&MSS_MIN.into(), &MSS_MAX.into()));
    }
}
