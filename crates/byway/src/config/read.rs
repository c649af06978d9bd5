//! Combines all files of a configuration.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use byway_abi::MAX_RULES;

use super::{
    Attach, Config,
    draft::{Draft, HostRef},
    file_error::FileError,
    parse,
    problem::{File, PROBLEMS_MAX, Place, Problem, Problems, Severity},
    values::nearest,
    warnings,
};
use crate::model::{HealthCheck, HealthCheckSpec, NextHopSpec, RuleError, TargetSpec, check_families};

/// The result of reading a configuration.
#[derive(Debug, Default)]
pub struct Reading {
    /// The files in the order in which they were read, including lists.
    pub files: Vec<File>,
    /// The problems, by place.
    pub problems: Vec<Problem>,
    /// The configuration, unless a problem is an error.
    pub config: Option<Config>,
    /// The files and folders that somebody other than root and the caller may write
    /// ([`inspect_config`](crate::inspect_config)).
    pub unsafe_files: Vec<FileError>,
    /// Where it refers to the host.
    pub(crate) host_refs: Vec<(HostRef, Place)>,
}

/// Reads a configuration from the texts of its files: the first one, and those that add to it. `load` gets the text of a
/// list file that a rule names, or says why it cannot.
///
/// ```
/// use byway::{FileError, config::read};
///
/// let no_lists = &mut |path: &std::path::Path| Err(FileError::Missing(path.to_owned()));
/// let text = "[[rule]]\nfrom = \"192.0.2.7\"\nvia = \"10.0.0.1\"\ndev = \"eth1\"\n";
/// let reading = read([("byway.toml".into(), text.into())], no_lists);
/// let config = reading.config.ok_or("something is wrong")?;
/// let rules: Vec<String> = config.rules().map(|rule| rule.to_string()).collect();
/// assert_eq!(rules, ["from 192.0.2.7 via 10.0.0.1 dev eth1"]);
///
/// let text = "[[rule]]\nfrom = \"192.0.2.7\"\ngateway = \"10.0.0.1\"\n";
/// let reading = read([("byway.toml".into(), text.into())], no_lists);
/// assert!(reading.config.is_none() && reading.problems[0].message.contains("`gateway`"));
/// # Ok::<(), &str>(())
/// ```
pub fn read(
    texts: impl IntoIterator<Item = (PathBuf, String)>,
    load: &mut dyn FnMut(&Path) -> Result<String, FileError>,
) -> Reading {
    let mut draft = Draft::default();
    for (path, text) in texts {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        // Its text moves there once its values, which borrow from it, are no longer needed.
        draft.files.push(File { path, text: String::new() });
        let number = draft.files.len() - 1;
        parse::file(&text, &folder, &mut draft, load);
        draft.files[number].text = text;
    }
    draft.finish()
}

impl Reading {
    /// Adds a warning about this part, after all other problems.
    pub(crate) fn warn(&mut self, place: Place, message: &str, help: Option<&str>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem::warning(place, message, help));
        }
    }
}

fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| (problem.severity, problem.place.file, problem.place.span.start));
}

impl Draft {
    fn finish(mut self) -> Reading {
        self.check_groups();
        self.check_health_checks();
        self.add_default_health_checks();
        self.rules.sort_by_key(|(selector, ..)| *selector);
        self.check_twice();
        if let Some((_, _, origin)) = self.rules.get(MAX_RULES as usize) {
            let message = format!("there are more than {MAX_RULES} rules");
            let place = self.place(*origin);
            self.problems.push(Problem::error(place, &message, Some("use shorter prefixes")));
        }
        let is_right = self.problems.as_slice().iter().all(|problem| problem.severity != Severity::Error);
        if is_right {
            let action = |number: u32| &self.actions[number as usize].0;
            let mut odd = Problems::default();
            warnings::look(&self.rules, action, &mut |selector, origin, message, help| {
                let message = format!("the rule {selector} {message}");
                odd.push(Problem::warning(self.place(origin), &message, Some(help)));
            });
            odd.into_vec().into_iter().for_each(|problem| self.problems.push(problem));
            if let Some((Attach::Devices(names), place)) = &self.attach
                && names.is_empty()
                && !self.rules.is_empty()
            {
                let message = "`attach` is empty, so no rule takes effect";
                let help = "write \"auto\", name interfaces, or leave `attach` out to keep the attachments as they are";
                self.problems.push(Problem::warning(place.clone(), message, Some(help)));
            }
            let used: BTreeSet<&str> = self.uses.iter().map(|(name, _)| name.as_str()).collect();
            for (name, (_, place)) in self.groups.iter().filter(|(name, _)| !used.contains(name.as_str())) {
                let message = format!("no rule of the configuration uses the group {name}");
                let help = "delete it, unless you add such rules by hand";
                self.problems.push(Problem::warning(place.clone(), &message, Some(help)));
            }
        }
        let Self { files, problems, attach, groups, health_checks, actions, rules, host_refs, .. } = self;
        let mut problems = problems.into_vec();
        sort(&mut problems);
        let config = is_right.then(|| {
            let rules = rules.into_iter().map(|(selector, action, _)| (selector, action)).collect();
            Config {
                attach: attach.map(|(attach, _)| attach),
                groups: groups.into_values().map(|(group, _)| group).collect(),
                health_checks: health_checks.into_iter().map(|(check, _)| check).collect(),
                actions: actions.into_iter().map(|(action, _)| action).collect(),
                rules,
                left_out: Vec::new(),
            }
        });
        Reading { files, problems, config, unsafe_files: Vec::new(), host_refs }
    }

    /// Checks that the groups that rules use exist, and suit the family of their packets.
    fn check_groups(&mut self) {
        let known: Vec<&str> = self.named.iter().map(String::as_str).collect();
        for (name, place) in &self.uses {
            if self.named.contains(name) {
                continue;
            }
            let help = match nearest(name, &known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("add it: `[group.{name}]`"),
            };
            let message = format!("there is no group `{name}`");
            self.problems.push(Problem::error(place.clone(), &message, Some(&help)));
        }
        for (selector, action, origin) in &self.rules {
            let TargetSpec::Group(name) = &self.actions[*action as usize].0.target else { continue };
            let Some((group, _)) = self.groups.get(name) else { continue };
            let gateways = group.members.iter().filter_map(|member| member.next_hop.gateway_or_unspecified());
            let gateways: Vec<_> =
                if selector.source().address().is_ipv6() { gateways.collect() } else { continue };
            if let Err(error) = check_families(&selector.source(), gateways) {
                let (place, help) = (self.place(*origin), error.help());
                self.problems.push(Problem::error(place, &error.to_string(), help.as_deref()));
            }
        }
    }

    /// Checks that each health check is of a next hop that something uses, and the only one of it. Where a rule or a group is
    /// wrong, its next hops are not known.
    fn check_health_checks(&mut self) {
        let mut wrong = Vec::new();
        let is_complete = self.problems.as_slice().iter().all(|it| it.severity != Severity::Error);
        let of_groups = self.groups.values().flat_map(|(group, _)| &group.members).map(|it| &it.next_hop);
        let of_rules = self.actions.iter().flat_map(|(action, _)| action.target.next_hops());
        let used: HashSet<&NextHopSpec> = of_groups.chain(of_rules).collect();
        let mut first: HashMap<&NextHopSpec, &Place> = HashMap::new();
        for (HealthCheckSpec { next_hop, .. }, place) in &self.health_checks {
            let of = |error: &RuleError| {
                Problem::error(place.clone(), &error.to_string(), error.help().as_deref())
            };
            if let Some(first) = first.get(next_hop) {
                let error = RuleError::CheckedTwice(next_hop.clone());
                wrong.push(of(&error).also((*first).clone(), "the first one"));
            } else if is_complete && !used.contains(next_hop) {
                wrong.push(of(&RuleError::CheckOfNothing(next_hop.clone())));
            }
            first.entry(next_hop).or_insert(place);
        }
        wrong.into_iter().for_each(|problem| self.problems.push(problem));
    }

    /// Gives the health checks of `[defaults]` to the next hops of their files that have none of their own, as far as that makes
    /// sense. A gateway on a device may be written in two ways, so the next hop's own check comes after them: the last one counts.
    fn add_default_health_checks(&mut self) {
        let own: HashSet<&NextHopSpec> = self.health_checks.iter().map(|(it, _)| &it.next_hop).collect();
        let mut first: HashMap<&NextHopSpec, &(HealthCheck, Place)> = HashMap::new();
        let mut added = Vec::new();
        let mut wrong = Vec::new();
        for default in &self.default_health_checks {
            let (check, place) = default;
            let is_here = |it: &Place| it.file == place.file;
            let groups = self.groups.values().filter(|(_, it)| is_here(it));
            let of_groups = groups.flat_map(|(group, _)| &group.members).map(|it| &it.next_hop);
            let actions = self.actions.iter().filter(|(_, it)| is_here(it));
            let of_rules = actions.flat_map(|(action, _)| action.target.next_hops());
            let mut known = HashSet::new();
            for next_hop in of_groups.chain(of_rules).filter(|next_hop| known.insert(*next_hop)) {
                let spec = HealthCheckSpec::new(next_hop.clone(), check.clone());
                if own.contains(next_hop) || spec.check().is_err() {
                    continue;
                }
                match first.get(next_hop) {
                    Some((other, _)) if other == check => {}
                    Some((_, before)) => {
                        let error = RuleError::CheckedTwice(next_hop.clone());
                        let problem =
                            Problem::error(place.clone(), &error.to_string(), error.help().as_deref());
                        wrong.push(problem.also(before.clone(), "the first one"));
                    }
                    None => {
                        first.insert(next_hop, default);
                        added.push((spec, place.clone()));
                    }
                }
            }
        }
        wrong.into_iter().for_each(|problem| self.problems.push(problem));
        added.append(&mut self.health_checks);
        self.health_checks = added;
    }

    /// Reports two rules for the same packets.
    fn check_twice(&mut self) {
        for pair in self.rules.windows(2) {
            let [(one, _, first), (other, _, second)] = pair else { continue };
            if one == other {
                let message = format!("there are two rules {one}");
                let problem = Problem::error(self.place(*second), &message, Some("delete one of them"));
                self.problems.push(problem.also(self.place(*first), "the first one"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
