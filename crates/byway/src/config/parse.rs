//! Parses one file: tables to groups and rules.

use std::{borrow::Borrow, net::IpAddr, ops::Range, path::Path};

use byway_abi::MAX_RULES;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ActionSpec, Attach,
    draft::{Draft, HostRef, Origin},
    file_error::FileError,
    problem::{PROBLEMS_MAX, Place, Problem, token},
    values::{Notes, Value},
};
use crate::model::{
    GroupSpec, MSS_MAX, MSS_MIN, MemberSpec, Mss, NextHopSpec, OnDown, Owner, Prefix, RuleError, Selector,
    TargetSpec, WEIGHT_MAX, check_action, check_families, check_gateway, check_mss, check_name,
    check_on_down, check_weight,
};

/// The keys of a file.
pub(crate) const FILE_KEYS: &[&str] = &["attach", "defaults", "group", "rule"];
/// The keys of `[defaults]`.
pub(crate) const DEFAULTS_KEYS: &[&str] = &["on-down", "mss"];
/// The keys of a group.
pub(crate) const GROUP_KEYS: &[&str] = &["nexthops", "on-down"];
/// The keys of a next hop.
pub(crate) const NEXT_HOP_KEYS: &[&str] = &["via", "dev", "weight"];
/// The keys of a rule.
pub(crate) const RULE_KEYS: &[&str] =
    &["name", "from", "from-file", "to", "via", "dev", "nexthops", "group", "target", "on-down", "mss"];

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

    /// What a rule does with its packets.
    fn action(&mut self, table: &DeTable<'_>, span: Range<usize>, has_unknown: bool) -> Option<ActionSpec> {
        let target = self.target(table, span.clone(), has_unknown);
        let on_down = self.on_down(table);
        let mss = self.mss(table);
        let name = get(table, "name").map(|value| self.notes().string("name", value).map(str::to_owned));
        let target = target?;
        let has_next_hop = matches!(target, TargetSpec::NextHop(_) | TargetSpec::NextHops(_));
        let leads_on = !matches!(target, TargetSpec::Pass | TargetSpec::Drop);
        let on_down = on_down.unwrap_or(if has_next_hop { self.defaults.on_down } else { OnDown::Pass });
        let mss = mss.unwrap_or(if leads_on { self.defaults.mss } else { Mss::Auto });
        let name = match name {
            Some(name) => Some(name?),
            None => None,
        };
        let of_keys = [
            ("on-down", check_on_down(&target, on_down)),
            ("mss", check_mss(&target, mss)),
            ("name", name.as_deref().map_or(Ok(()), check_name)),
        ];
        let mut wrong: Vec<_> = of_keys.into_iter().filter_map(|(key, is)| Some((key, is.err()?))).collect();
        if wrong.is_empty()
            && let Err(error) = check_action(&target, on_down, mss, name.as_deref())
        {
            wrong.push(("nexthops", error));
        }
        let is_right = wrong.is_empty();
        for (key, error) in wrong {
            let at = get(table, key).map_or(span.clone(), Spanned::span);
            self.refuse(at, &error);
        }
        is_right.then_some(ActionSpec { target, on_down, mss, name })
    }

    fn target(&mut self, table: &DeTable<'_>, span: Range<usize>, has_unknown: bool) -> Option<TargetSpec> {
        let said: Vec<(&str, Value<'_, '_>)> = ["target", "group", "nexthops", "via", "dev"]
            .into_iter()
            .filter_map(|key| Some((key, get(table, key)?)))
            .collect();
        match said[..] {
            [] if has_unknown => None,
            [] => {
                let help = "write `via`, `dev`, `nexthops`, `group`, or `target = \"pass\"` or `\"drop\"`";
                self.notes().wrong(span, "a rule needs a target", Some(help));
                None
            }
            [("target", value)] => match self.notes().string("target", value)? {
                "pass" => Some(TargetSpec::Pass),
                "drop" => Some(TargetSpec::Drop),
                other => {
                    let message = format!("`target = \"{other}\"` is not valid");
                    let help = "write `\"pass\"` or `\"drop\"`, or name next hops with `via`, `dev`, \
                                `nexthops` or `group`";
                    self.notes().wrong(value.span(), &message, Some(help));
                    None
                }
            },
            [("group", value)] => {
                let name = self.notes().string("group", value)?;
                self.draft.uses.push((name.to_owned(), Place { file: self.number, span: value.span() }));
                Some(TargetSpec::Group(name.to_owned()))
            }
            [("nexthops", _)] => self.members(table).map(TargetSpec::NextHops),
            [_] | [("via", _), ("dev", _)] => self.next_hop(table, span).map(TargetSpec::NextHop),
            [(one, _), (other, value), ..] => {
                let message = format!("a rule has one target: `{other}` cannot be combined with `{one}`");
                self.notes().wrong(value.span(), &message, Some("leave one out"));
                None
            }
        }
    }

    /// `via`, `dev` or both.
    fn next_hop(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<NextHopSpec> {
        let gateway: Option<IpAddr> = match get(table, "via") {
            Some(value) => {
                let text = self.notes().string("via", value)?;
                let Ok(gateway) = text.parse() else {
                    let message = format!("`{text}` is not an IPv4 or IPv6 address");
                    let help = "write it like `via = \"192.0.2.1\"`";
                    self.notes().wrong(value.span(), &message, Some(help));
                    return None;
                };
                Some(gateway)
            }
            None => None,
        };
        let device = match get(table, "dev") {
            Some(value) => Some(self.notes().string("dev", value)?.to_owned()),
            None => None,
        };
        let next_hop = match (gateway, device) {
            (Some(gateway), Some(device)) => NextHopSpec::ViaDev(gateway, device),
            (Some(gateway), None) => NextHopSpec::Via(gateway),
            (None, Some(device)) => NextHopSpec::Dev(device),
            (None, None) => {
                self.notes().wrong(span, "a next hop needs `via`, `dev` or both", Some("name the gateway"));
                return None;
            }
        };
        let of = |key: &str| get(table, key).map(Spanned::span);
        if let Err(error) = check_gateway(&next_hop) {
            self.refuse(of("via").unwrap_or(span), &error);
            return None;
        }
        if let Some((name, said)) = next_hop.device().zip(of("dev")) {
            let place = self.notes().place(said);
            self.draft.host_refs.push((HostRef::Device(name.to_owned()), place));
        }
        let place = self.notes().place(of("via").or(of("dev")).unwrap_or(span));
        self.draft.host_refs.push((HostRef::NextHop(next_hop.clone()), place));
        Some(next_hop)
    }

    fn members(&mut self, table: &DeTable<'_>) -> Option<Vec<MemberSpec>> {
        let value = get(table, "nexthops")?;
        let DeValue::Array(all) = value.get_ref() else {
            let is = "a list of next hops, each like `{ via = \"192.0.2.1\" }`";
            self.notes().wrong_type("nexthops", value, is);
            return None;
        };
        let members: Vec<Option<MemberSpec>> = all.iter().map(|member| self.member(member)).collect();
        let members: Vec<MemberSpec> = members.into_iter().collect::<Option<_>>()?;
        let mut is_right = true;
        for (nth, (member, value)) in members.iter().zip(all.iter()).enumerate() {
            if members[..nth].iter().any(|before| before.next_hop == member.next_hop) {
                let error = RuleError::Twice(member.next_hop.clone());
                self.refuse(value.span(), &error);
                is_right = false;
            }
        }
        is_right.then_some(members)
    }

    fn member(&mut self, value: Value<'_, '_>) -> Option<MemberSpec> {
        let table = self.table("a next hop", value)?;
        let has_unknown = self.notes().unknown_keys(table, NEXT_HOP_KEYS, "a next hop");
        if has_unknown && get(table, "via").is_none() && get(table, "dev").is_none() {
            return None;
        }
        let next_hop = self.next_hop(table, value.span())?;
        let weight = match get(table, "weight") {
            Some(value) => {
                self.notes().number("weight", value, &format!("a number from 1 to {WEIGHT_MAX}"))?
            }
            None => 1,
        };
        let member = MemberSpec { next_hop, weight };
        if let Err(error) = check_weight(&member) {
            let at = get(table, "weight").map_or(value.span(), Spanned::span);
            self.refuse(at, &error);
            return None;
        }
        Some(member)
    }

    fn on_down(&mut self, table: &DeTable<'_>) -> Option<OnDown> {
        let value = get(table, "on-down")?;
        match value.get_ref().as_str() {
            Some("pass") => Some(OnDown::Pass),
            Some("drop") => Some(OnDown::Drop),
            _ => {
                self.notes().wrong(
                    value.span(),
                    "this `on-down` is not valid",
                    Some("write \"pass\" or \"drop\""),
                );
                None
            }
        }
    }

    fn mss(&mut self, table: &DeTable<'_>) -> Option<Mss> {
        let value = get(table, "mss")?;
        match value.get_ref().as_str() {
            Some("auto") => Some(Mss::Auto),
            Some("off") => Some(Mss::Off),
            _ => {
                let is = format!("\"auto\", \"off\" or a number of bytes from {MSS_MIN} to {MSS_MAX}");
                let bytes = self.notes().number("mss", value, &is)?;
                if !(MSS_MIN..=MSS_MAX).contains(&bytes) {
                    self.refuse(value.span(), &RuleError::Mss(bytes));
                    return None;
                }
                Some(Mss::Bytes(bytes))
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

    /// One prefix, or several, with their places.
    fn prefixes(&mut self, key: &str, value: Value<'_, '_>) -> Vec<(Prefix, Origin)> {
        let file = self.number as u32;
        let mut one = |value: Value<'_, '_>| {
            let prefix = self.notes().prefix(key, value)?;
            Some((prefix, Origin { file, start: value.span().start as u32 }))
        };
        match value.get_ref() {
            DeValue::Array(all) if all.is_empty() => {
                self.says_nothing(value, &format!("`{key}` is empty"));
                Vec::new()
            }
            DeValue::Array(all) => all.iter().filter_map(one).collect(),
            _ => one(value).into_iter().collect(),
        }
    }

    /// Warns that a list is empty, which a program may have written by mistake.
    fn says_nothing(&mut self, value: Value<'_, '_>, what: &str) {
        let message = format!("{what}, so the rule matches no packet");
        let place = self.notes().place(value.span());
        self.draft.problems.push(Problem::warning(place, &message, Some("delete it, or fill the list")));
    }

    /// The prefixes of a list file: one on each line, with comments after `#`.
    fn list(&mut self, value: Value<'_, '_>) -> Option<Vec<(Prefix, Origin)>> {
        let name = self.notes().string("from-file", value)?;
        if name.is_empty() {
            self.notes().wrong(value.span(), "`from-file` names no file", Some("write the name of a list"));
            return None;
        }
        let path = self.folder.join(name);
        let text = match (self.load)(&path) {
            Ok(text) => text,
            Err(error) => {
                self.notes().wrong(value.span(), &error.to_string(), error.help().as_deref());
                return None;
            }
        };
        let file = self.draft.files.len();
        let mut prefixes = Vec::with_capacity(text.len() / 16);
        let mut is_empty = true;
        // What no problem may show.
        let mut hidden = Vec::new();
        // Windows starts a text with a byte order mark.
        let (mut start, lines) = text.strip_prefix('\u{feff}').map_or((0, &*text), |lines| (3, lines));
        hidden.push(0..start);
        for (nth, line) in lines.split('\n').enumerate() {
            let end = start + line.len();
            let said = line.split('#').next().unwrap_or("");
            if said.len() < line.len() {
                hidden.push(start + said.len()..end);
            }
            let word = said.trim();
            if !word.is_empty() {
                is_empty = false;
                let at = start + (said.len() - said.trim_start().len());
                match word.parse::<Prefix>() {
                    Ok(prefix) => {
                        prefixes.push((prefix, Origin { file: file as u32, start: at as u32 }));
                    }
                    Err(error) => {
                        let (length, message) = if may_quote(word) {
                            (word.len(), error.to_string())
                        } else {
                            hidden.push(at..at + word.len());
                            (0, format!("line {} is not a prefix", nth + 1))
                        };
                        let place = Place { file, span: at..at + length };
                        let help = error.help();
                        self.draft.problems.push(Problem::error(place, &message, help.as_deref()));
                    }
                }
            }
            start = end + 1;
        }
        if is_empty {
            self.says_nothing(value, &format!("there is no prefix in {}", path.display()));
        }
        let text = blank(text, hidden);
        self.draft.files.push(super::File { path, text });
        Some(prefixes)
    }
}

/// The longest word of a list that an error quotes, in bytes. A prefix has 49 at most.
const QUOTED_MAX: usize = 64;

/// Whether an error may quote this word of a list. Somebody may have named a file that only root may read, so only what looks
/// like an address or a prefix is shown.
fn may_quote(word: &str) -> bool {
    word.len() <= QUOTED_MAX
        && word.contains(['.', ':', '/'])
        && word.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte))
}

/// Puts spaces in the place of these bytes.
fn blank(text: String, hidden: Vec<Range<usize>>) -> String {
    let mut bytes = text.into_bytes();
    hidden.into_iter().for_each(|range| bytes[range].fill(b' '));
    // They are whole characters.
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Editors know the keys from the schema.
    #[test]
    fn the_schema_has_the_same_keys() {
        let schema: Value = serde_json::from_str(include_str!("../../../../docs/byway.schema.json")).unwrap();
        let file = &schema["properties"];
        let cases = [
            (&schema, FILE_KEYS),
            (&file["defaults"], DEFAULTS_KEYS),
            (&file["group"]["additionalProperties"], GROUP_KEYS),
            (&file["rule"]["items"], RULE_KEYS),
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
