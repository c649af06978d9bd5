//! All files of a configuration to one whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use byway_abi::MAX_RULES;

use super::{
    Attach, Config, TreatmentSpec, parse,
    problem::{File, Place, Problem, Severity},
    values::nearest,
    warnings,
};
use crate::rule::{GroupSpec, Selector, TargetSpec, check_families};

/// What was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// The files, in the order of their reading, the lists included.
    pub files: Vec<File>,
    /// What is wrong, by its place.
    pub problems: Vec<Problem>,
    /// The configuration, unless one of those is an error.
    pub config: Option<Config>,
}

/// Reads a configuration from the texts of its files: the first one, and those that add to it. `load` gets the text of a
/// list file that a rule names, or says in a sentence why it cannot.
pub fn read(
    texts: impl IntoIterator<Item = (PathBuf, String)>,
    load: &mut dyn FnMut(&Path) -> Result<String, String>,
) -> Reading {
    let mut draft = Draft::default();
    for (path, text) in texts {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        // Its text is put there when its values, which are parts of it, are no longer needed.
        draft.files.push(File { path, text: String::new() });
        let number = draft.files.len() - 1;
        parse::file(&text, &folder, &mut draft, load);
        draft.files[number].text = text;
    }
    draft.finish()
}

/// Where a source was written: in which file, from which byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: u32,
    pub(super) start: u32,
}

/// What has been read so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) files: Vec<File>,
    pub(super) problems: Vec<Problem>,
    pub(super) attach: Option<(Attach, Place)>,
    pub(super) groups: BTreeMap<String, (GroupSpec, Place)>,
    /// The names of all groups, of those as well that mean nothing.
    pub(super) named: BTreeSet<String>,
    /// The groups that rules lead to.
    pub(super) uses: Vec<(String, Place)>,
    treatments: Vec<(TreatmentSpec, Place)>,
    /// The rules, with their treatments.
    pub(super) rules: Vec<(Selector, u32, Origin)>,
}

impl Draft {
    /// Gives a treatment a number.
    pub(super) fn treatment(&mut self, treatment: TreatmentSpec, place: Place) -> u32 {
        self.treatments.push((treatment, place));
        self.treatments.len() as u32 - 1
    }

    pub(super) fn place(&self, origin: Origin) -> Place {
        let (file, start) = (origin.file as usize, origin.start as usize);
        let token = |file: &File| file.token(start);
        Place { file, span: self.files.get(file).map_or(start..start, token) }
    }

    fn finish(mut self) -> Reading {
        self.check_groups();
        self.rules.sort_by_key(|(selector, ..)| *selector);
        self.check_twice();
        if let Some((_, _, origin)) = self.rules.get(MAX_RULES as usize) {
            let sentence = format!(
                "there is room for {MAX_RULES} rules, and here are {}; use shorter prefixes",
                self.rules.len()
            );
            let place = self.place(*origin);
            self.problems.push(Problem::error(place, &sentence));
        }
        let is_right = self.problems.iter().all(|problem| problem.severity != Severity::Error);
        if is_right {
            let target = |number: u32| &self.treatments[number as usize].0.target;
            let mut odd = Vec::new();
            warnings::look(&self.rules, target, &mut |selector, origin, sentence| {
                let sentence = format!("the rule {selector} {sentence}");
                odd.push(Problem::warning(self.place(origin), &sentence));
            });
            self.problems.append(&mut odd);
        }
        let used: BTreeSet<&str> = self.uses.iter().map(|(name, _)| name.as_str()).collect();
        for (name, (_, place)) in self.groups.iter().filter(|(name, _)| !used.contains(name.as_str())) {
            let sentence = format!(
                "no rule leads to the group {name}; delete it, or say `group = \"{name}\"` in a rule"
            );
            self.problems.push(Problem::warning(place.clone(), &sentence));
        }
        let Self { files, mut problems, attach, groups, treatments, rules, .. } = self;
        problems.sort_by_key(|problem| (problem.severity, problem.place.file, problem.place.span.start));
        let config = is_right.then(|| {
            let rules = rules.into_iter().map(|(selector, treatment, _)| (selector, treatment)).collect();
            Config {
                attach: attach.map(|(attach, _)| attach),
                groups: groups.into_values().map(|(group, _)| group).collect(),
                treatments: treatments.into_iter().map(|(treatment, _)| treatment).collect(),
                rules,
            }
        });
        Reading { files, problems, config }
    }

    /// Groups that rules lead to have to be there, and to take their packets.
    fn check_groups(&mut self) {
        let known: Vec<&str> = self.named.iter().map(String::as_str).collect();
        for (name, place) in &self.uses {
            if self.named.contains(name) {
                continue;
            }
            let mend = match nearest(name, &known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("make it: `[group.{name}]`"),
            };
            let sentence = format!("there is no group `{name}`; {mend}");
            self.problems.push(Problem::error(place.clone(), &sentence));
        }
        for (selector, treatment, origin) in &self.rules {
            let TargetSpec::Group(name) = &self.treatments[*treatment as usize].0.target else { continue };
            let Some((group, _)) = self.groups.get(name) else { continue };
            let gateways = group.members.iter().filter_map(|member| member.next_hop.gateway());
            let gateways: Vec<_> =
                if selector.source().address().is_ipv6() { gateways.collect() } else { continue };
            if let Err(error) = check_families(&selector.source(), &gateways) {
                self.problems.push(Problem::error(self.place(*origin), &error.to_string()));
            }
        }
    }

    /// Of two rules for the same packets one is too many.
    fn check_twice(&mut self) {
        for pair in self.rules.windows(2) {
            let [(one, _, first), (other, _, second)] = pair else { continue };
            if one == other {
                let sentence = format!("there are two rules {one}; delete one of them");
                let problem = Problem::error(self.place(*second), &sentence);
                self.problems.push(problem.also(self.place(*first), "the first one"));
            }
        }
    }
}
