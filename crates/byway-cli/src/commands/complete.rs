use std::{collections::BTreeSet, ffi::OsString, fs, io::Write};

use byway::{Listing, NextHop};
use clap::{Arg, Args, Command, CommandFactory};
use nix::net::if_::if_nameindex;

use super::{answer, open::open_as_it_is};
use crate::{Cli, error::Error, options::Options, output::Output, words};

/// Print the words that may come next, for the completions of shells
///
/// One word on each line, with a tab and its description behind it. The line `:files` alone stands for the names of files.
#[derive(Debug, Args)]
#[command(hide = true, disable_help_flag = true)]
pub(crate) struct Complete {
    /// The words after `byway`. The last one is the beginning of the word to complete, and may be empty
    #[arg(num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    words: Vec<String>,
}

impl Complete {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut command = Cli::command();
        command.build();
        let (current, before) = self.words.split_last().map_or(("", &[][..]), |(last, rest)| (last, rest));
        let verbs = verbs(before);
        let before = &in_full(before, &command);
        let candidates = match verbs {
            [] => candidates(&command, before, current, options),
            verbs => verbs.iter().map(|verb| Candidate::new(*verb, "")).collect(),
        };
        answer::stream(options, |out| {
            for Candidate { word, help } in candidates.iter().filter(|it| it.fits(current)) {
                writeln!(out, "{word}\t{help}").map_err(Error::Print)?;
            }
            if candidates.is_empty() && wants_file(&command, before) {
                writeln!(out, ":files").map_err(Error::Print)?;
            }
            Ok(())
        })?;
        Ok(Output::printed())
    }
}

/// The words as the parser knows them: of a part of a command's name, the whole.
fn in_full(words: &[String], cli: &Command) -> Vec<String> {
    let translated = words::translated(words.iter().map(Into::into).collect(), cli);
    let text = |words: Vec<OsString>| words.into_iter().map(|it| it.into_string().ok()).collect();
    translated.ok().and_then(text).unwrap_or_else(|| words.to_vec())
}

/// The verbs of a noun that is no command by itself. Alone, it shows what there is.
fn verbs(words: &[String]) -> &'static [&'static str] {
    let Some((noun, before)) = words.split_last() else { return &[] };
    match noun.as_str() {
        _ if !before.iter().all(|word| word.starts_with('-')) => &[],
        "rule" => &["add", "replace", "del", "show", "flush"],
        "attachment" => &["add", "del", "show"],
        _ => &[],
    }
}

/// A word that may come next.
struct Candidate {
    word: String,
    help: String,
}

impl Candidate {
    fn new(word: impl Into<String>, help: impl Into<String>) -> Self {
        Self { word: word.into(), help: help.into() }
    }

    fn fits(&self, current: &str) -> bool {
        self.word.starts_with(current)
    }
}

/// The words before the current one: which command they name, its words, and the option that still needs its value.
struct Line<'a> {
    command: &'a Command,
    path: Vec<&'a str>,
    words: Vec<&'a str>,
    open_option: Option<&'a Arg>,
    netns: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// Returns `None` if there is no such command.
    fn read(root: &'a Command, before: &'a [String]) -> Option<Self> {
        let mut line =
            Self { command: root, path: Vec::new(), words: Vec::new(), open_option: None, netns: None };
        for word in before {
            if let Some(option) = line.open_option.take() {
                line.set(option, word);
            } else if let Some(option) = word.strip_prefix("--") {
                let (name, value) =
                    option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
                let option = line.command.get_arguments().find(|it| it.get_long() == Some(name))?;
                match value {
                    Some(value) => line.set(option, value),
                    None if needs_a_word(option) => line.open_option = Some(option),
                    None => {}
                }
            } else if let Some(letters) = word.strip_prefix('-').filter(|it| !it.is_empty()) {
                line.read_letters(letters)?;
            } else if line.command.has_subcommands() {
                line.command = line.command.find_subcommand(word)?;
                line.path.push(line.command.get_name());
            } else {
                line.words.push(word);
            }
        }
        Some(line)
    }

    /// Reads options of one letter, of which the last may have a value: in the same word, or in the next.
    fn read_letters(&mut self, letters: &'a str) -> Option<()> {
        for (place, letter) in letters.char_indices() {
            let option = self.command.get_arguments().find(|it| it.get_short() == Some(letter))?;
            let value = &letters[place + letter.len_utf8()..];
            if option.get_action().takes_values() && !value.is_empty() {
                self.set(option, value.strip_prefix('=').unwrap_or(value));
                break;
            }
            self.open_option = Some(option).filter(|it| needs_a_word(it));
        }
        Some(())
    }

    fn set(&mut self, option: &Arg, value: &'a str) {
        if option.get_id() == "netns" {
            self.netns = Some(value);
        }
    }
}

/// Whether the option's value is the next word.
fn needs_a_word(option: &Arg) -> bool {
    option.get_action().takes_values() && !option.is_require_equals_set()
}

fn wants_file(root: &Command, before: &[String]) -> bool {
    Line::read(root, before).is_some_and(|line| {
        let is_file =
            |arg: &Arg| arg.get_value_names().is_some_and(|names| names.iter().any(|it| it == "FILE"));
        line.open_option.is_none()
            && line.words.is_empty()
            && line.command.get_positionals().next().is_some_and(is_file)
    })
}

fn candidates(root: &Command, before: &[String], current: &str, options: &Options) -> Vec<Candidate> {
    let Some(line) = Line::read(root, before) else { return Vec::new() };
    if let Some(option) = line.open_option {
        return values(option);
    }
    if let Some((name, _)) = current.strip_prefix("--").and_then(|option| option.split_once('=')) {
        let option = line.command.get_arguments().find(|it| it.get_long() == Some(name));
        return option
            .map_or_else(Vec::new, values)
            .into_iter()
            .map(|it| Candidate::new(format!("--{name}={}", it.word), it.help))
            .collect();
    }
    if current.starts_with('-') {
        return long_options(line.command);
    }
    if line.command.has_subcommands() {
        let shown = line.command.get_subcommands().filter(|it| !it.is_hide_set());
        return shown.map(|it| Candidate::new(it.get_name(), about(it.get_about()))).collect();
    }
    let Some(grammar) = grammar(&line.path) else {
        // A command with words of its own, such as the name of a shell.
        let next = line.command.get_positionals().nth(line.words.len());
        return next.map_or_else(Vec::new, values);
    };
    if line.netns.is_some_and(|name| byway::enter_namespace(name).is_err()) {
        return Vec::new();
    }
    match grammar.next(&line.words) {
        Next::Keywords(keywords) => {
            let keywords = keywords.into_iter().map(|it| Candidate::new(it, help(it)));
            // What may stand first, without its keyword.
            let bare = match grammar {
                _ if !line.words.is_empty() => None,
                Grammar::Groups => Some("group"),
                Grammar::Selector | Grammar::Show | Grammar::Flow => Some("from"),
                Grammar::NextHop => Some("via"),
                Grammar::Devices => Some("dev"),
                _ => None,
            };
            let bare = bare.map_or_else(Vec::new, |keyword| Live::read(options).values(keyword, &line));
            bare.into_iter().chain(keywords).collect()
        }
        Next::Value(keyword) => Live::read(options).values(keyword, &line),
    }
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|it| it.to_string().lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn long_options(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|it| !it.is_hide_set());
    shown
        .filter_map(|it| Some(Candidate::new(format!("--{}", it.get_long()?), about(it.get_help()))))
        .collect()
}

/// The values that are known of an option, or of a word.
fn values(arg: &Arg) -> Vec<Candidate> {
    if arg.get_id() == "netns" {
        // The names that ip-netns(8) knows.
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        return names.filter_map(|it| Some(Candidate::new(it.file_name().into_string().ok()?, ""))).collect();
    }
    let possible = arg.get_possible_values();
    possible.iter().filter(|it| !it.is_hide_set()).map(|it| Candidate::new(it.get_name(), "")).collect()
}

/// Which words a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grammar {
    Rule,
    Selector,
    Show,
    Flush,
    Devices,
    Group,
    Groups,
    GroupName,
    NextHop,
    Flow,
}

fn grammar(path: &[&str]) -> Option<Grammar> {
    Some(match path {
        ["add" | "replace"] => Grammar::Rule,
        ["del"] => Grammar::Selector,
        ["show"] => Grammar::Show,
        ["flush"] => Grammar::Flush,
        ["attach" | "detach"] => Grammar::Devices,
        ["group", "add" | "replace"] => Grammar::Group,
        ["group", "del"] => Grammar::GroupName,
        ["group", "show"] => Grammar::Groups,
        ["nexthop", _] => Grammar::NextHop,
        ["flow", "show" | "flush"] => Grammar::Devices,
        ["get"] | ["flow", "del"] => Grammar::Flow,
        _ => return None,
    })
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// One of these.
    Keywords(Vec<&'static str>),
    /// The value of this keyword.
    Value(&'static str),
}

/// The keywords that stand alone.
const WITHOUT_VALUE: &[&str] = &[
    "pass",
    "drop",
    "reply-to",
    "else",
    "nexthop",
    "backup",
    "rules",
    "nexthops",
    "groups",
    "attachments",
    "flows",
    "unused",
];

/// The keywords of `show`: those of one rule, the nouns, and those of a selection.
const OF_SHOW: [&str; 18] = [
    "from",
    "to",
    "rules",
    "nexthops",
    "groups",
    "attachments",
    "flows",
    "within",
    "covering",
    "owner",
    "group",
    "via",
    "dev",
    "name",
    "with",
    "unused",
    "sort",
    "head",
];
const NOT_OF_A_SELECTION: [&str; 7] = ["from", "to", "rules", "nexthops", "groups", "attachments", "flows"];
const OF_NEXT_HOPS: [&str; 7] = ["group", "via", "dev", "with", "unused", "sort", "head"];

impl Grammar {
    fn keywords(self) -> &'static [&'static str] {
        match self {
            Self::Rule => &[
                "from", "to", "via", "dev", "nexthop", "group", "reply-to", "else", "pass", "drop",
                "on-down", "mss", "name",
            ],
            Self::Selector => &["from", "to"],
            Self::Show => &OF_SHOW,
            Self::Flush => &["within", "covering", "owner", "group", "via", "dev", "name", "with", "unused"],
            Self::Groups => &["owner", "via", "dev", "name", "unused", "head"],
            Self::Devices => &["dev"],
            Self::Group => &["nexthop", "on-down"],
            Self::NextHop => &["via", "dev"],
            Self::GroupName => &[],
            Self::Flow => &["from", "to", "proto", "sport", "dport", "iif"],
        }
    }

    /// Returns what may come after these words. What is wrong in them is not its business.
    fn next(self, words: &[&str]) -> Next {
        let mut words = words;
        if matches!(self, Self::Group | Self::GroupName) {
            let [_, rest @ ..] = words else { return Next::Value("group") };
            words = rest;
        }
        let mut seen: Vec<&str> = Vec::new();
        // The keywords since the last `nexthop`, which belong to it.
        let mut member: Option<Vec<&str>> = None;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let of_member = MEMBER_KEYWORDS.iter().find(|it| *it == word).filter(|_| member.is_some());
            let Some(keyword) = of_member.or_else(|| self.keywords().iter().find(|it| *it == word)) else {
                continue;
            };
            if *keyword == "dev" && seen.last() == Some(&"reply-to") {
                if words.next().is_none() {
                    return Next::Value("dev");
                }
                continue;
            }
            match &mut member {
                Some(member) if of_member.is_some() => member.push(keyword),
                _ => {
                    member = (*keyword == "nexthop").then(Vec::new);
                    seen.push(keyword);
                }
            }
            if *keyword == "sort" && words.next().is_none() {
                return Next::Keywords(vec!["by"]);
            }
            if !WITHOUT_VALUE.contains(keyword) && words.next().is_none() {
                return Next::Value(keyword);
            }
        }
        if let Some(member) = &member
            && !member.iter().any(|it| ["via", "dev"].contains(it))
        {
            return Next::Keywords(vec!["via", "dev"]);
        }
        let of_member =
            MEMBER_KEYWORDS.iter().filter(|it| member.as_ref().is_some_and(|member| !member.contains(it)));
        let others = self.keywords().iter().filter(|it| self.may_follow(it, &seen));
        Next::Keywords(of_member.chain(others).copied().collect())
    }

    fn may_follow(self, keyword: &str, seen: &[&str]) -> bool {
        let has = |keywords: &[&str]| seen.iter().any(|it| keywords.contains(it));
        let is_of_selection = || !NOT_OF_A_SELECTION.contains(&keyword);
        match keyword {
            _ if matches!(self, Self::Flush | Self::Groups) => !has(&[keyword]),
            _ if self == Self::Show && is_of_selection() => {
                !has(&["from", "to", "groups", "attachments", keyword])
                    && (!has(&["nexthops"]) || OF_NEXT_HOPS.contains(&keyword))
                    && (!has(&["flows"]) || keyword == "dev")
            }
            "from" | "to" if self == Self::Show => {
                !has(&[keyword]) && seen.iter().all(|it| ["from", "to"].contains(it))
            }
            "dev" if seen.last() == Some(&"reply-to") => true,
            "else" => has(&["reply-to"]) && !has(&["else"]),
            "reply-to" => !has(&OF_TARGETS) && !has(&["reply-to"]),
            // A target behind `reply-to` has `else` before it.
            word if OF_TARGETS.contains(&word)
                && self == Self::Rule
                && has(&["reply-to"])
                && !has(&["else"]) =>
            {
                false
            }
            "nexthop" => !has(&["via", "dev", "group", "pass", "drop"]),
            "group" | "pass" | "drop" => !has(&OF_TARGETS),
            "dev" if self == Self::Devices => true,
            "via" | "dev" => !has(&["nexthop", "group", "pass", "drop", keyword]),
            "on-down" => !has(&["group", "pass", "drop", keyword]) && has(&["reply-to"]) <= has(&["else"]),
            "mss" => !has(&[keyword]) && (has(&["reply-to"]) || !has(&["pass", "drop"])),
            "rules" | "nexthops" | "groups" | "attachments" | "flows" => seen.is_empty(),
            _ => !has(&[keyword]),
        }
    }
}

/// The keywords that begin a target.
const OF_TARGETS: [&str; 6] = ["via", "dev", "nexthop", "group", "pass", "drop"];

/// The keywords after a `nexthop`.
const MEMBER_KEYWORDS: &[&str] = &["via", "dev", "weight", "backup"];

fn help(keyword: &str) -> &'static str {
    match keyword {
        "from" => "the source: an address or a prefix",
        "to" => "the destination: an address or a prefix",
        "via" => "the gateway",
        "dev" => "the interface",
        "nexthop" => "one of several next hops",
        "weight" => "its share of the flows",
        "backup" => "only while no other is in service",
        "group" => "a group of next hops",
        "reply-to" => "send replies back the way that their requests came in",
        "else" => "what to do with packets that are no replies",
        "pass" => "leave the packets to normal routing",
        "drop" => "drop the packets",
        "on-down" => "what to do while no next hop is in service",
        "mss" => "clamp TCP's MSS option",
        "name" => "a name for people",
        "within" => "sources in a prefix",
        "covering" => "sources around a prefix",
        "owner" => "who has made it",
        "with" => "`loss`: not all of its packets have arrived",
        "unused" => "what has done nothing",
        "sort" => "the most first",
        "head" => "so many at most",
        "nexthops" => "next hops, their state and their counters",
        "attachments" => "what each has seen, and what it left alone",
        "rules" => "rules and their counters",
        "groups" => "groups and their members",
        "flows" => "the ways of replies, and how many flows each has",
        "proto" => "what follows the IP header",
        "sport" => "the source port",
        "dport" => "the destination port",
        "iif" => "the interface that it came in by",
        _ => "",
    }
}

/// The most rules to look at: among more, nobody chooses by the tabulator, and it takes its time.
const RULES: usize = 10_000;

/// What this host has. Whoever may not see Byway's state gets the interfaces alone.
struct Live(Listing);

impl Live {
    fn read(options: &Options) -> Self {
        Self(open_as_it_is(options).and_then(|mut byway| Ok(byway.listing()?)).unwrap_or_default())
    }

    fn values(&self, keyword: &str, line: &Line<'_>) -> Vec<Candidate> {
        let words: BTreeSet<String> = match keyword {
            "from" => self.selectors().map(|(source, _)| source).collect(),
            "to" => {
                let from = line.words.iter().skip_while(|it| **it != "from").nth(1);
                self.selectors()
                    .filter(|(source, _)| from.is_none_or(|it| it == source))
                    .filter_map(|(_, destination)| destination)
                    .collect()
            }
            "via" => {
                // A selection has addresses alone.
                let is_selection = line.path.iter().any(|it| ["show", "flush"].contains(it));
                let learned = ["dhcp", "ra"].iter().filter(|_| !is_selection).map(|it| (*it).to_owned());
                self.next_hops().filter_map(|it| Some(it.gateway?.to_string())).chain(learned).collect()
            }
            "dev" | "iif" => self.devices(line),
            "proto" => ["tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite"].map(str::to_owned).into(),
            "group" => self.0.groups.iter().map(|it| it.group.name.clone()).collect(),
            "on-down" => ["pass", "drop"].map(str::to_owned).into(),
            "mss" => ["auto", "off"].map(str::to_owned).into(),
            "owner" => ["cli", "config", "api", "kubernetes"].map(str::to_owned).into(),
            "with" => ["loss".to_owned()].into(),
            "sort" => ["packets", "bytes", "loss", "rate"].map(str::to_owned).into(),
            // A new rule gets a name of its own.
            "name" if line.path == ["group", "show"] => {
                self.0.groups.iter().map(|it| it.group.name.clone()).collect()
            }
            "name" if matches!(line.path[..], ["show" | "flush"]) => {
                self.0.rules().take(RULES).flatten().filter_map(|it| it.rule.name).collect()
            }
            _ => BTreeSet::new(),
        };
        words.into_iter().map(|it| Candidate::new(it, "")).collect()
    }

    /// The sources and destinations of the rules.
    fn selectors(&self) -> impl Iterator<Item = (String, Option<String>)> {
        self.0.rules().take(RULES).flatten().map(|it| {
            let selector = it.rule.selector();
            (selector.source().to_string(), selector.destination().map(|it| it.to_string()))
        })
    }

    fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        self.0.next_hops.iter().map(|it| &it.next_hop)
    }

    fn devices(&self, line: &Line<'_>) -> BTreeSet<String> {
        match line.path[..] {
            ["detach"] => self.0.attachments.iter().map(|it| it.device.name.clone()).collect(),
            ["nexthop", _] => self.next_hops().map(|it| it.device.name.clone()).collect(),
            _ => {
                let all = if_nameindex();
                let names = all.iter().flatten().map(|it| it.name().to_string_lossy().into_owned());
                names.filter(|it| it != "lo").collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use byway::{
        Selectable,
        grammar::{self, GrammarError},
    };
    use clap::Parser;

    use super::*;

    fn next(grammar: Grammar, words: &str) -> Next {
        grammar.next(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// The parser's keywords, which it names where a word does not belong.
    fn known<T: std::fmt::Debug>(read: Result<T, GrammarError>) -> BTreeSet<String> {
        let Err(GrammarError::Unknown(_, expected)) = read else { panic!("{read:?}") };
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_parser_knows_the_same_keywords() {
        let cases = [
            (Grammar::Rule, known(grammar::rule(&["?"]))),
            (Grammar::Selector, known(grammar::selector(&["?"]))),
            (Grammar::Group, known(grammar::group(&["uplinks", "?"]))),
            (Grammar::NextHop, known(grammar::next_hop(&["?"]))),
            (Grammar::Groups, known(grammar::selection(Selectable::Groups, None, &["?"]))),
            // The first address needs no `from`.
            (
                Grammar::Flow,
                &known(grammar::flow(&["192.0.2.7", "?"])) | &BTreeSet::from(["from".to_owned()]),
            ),
        ];
        for (grammar, known) in cases {
            let keywords: BTreeSet<String> = grammar.keywords().iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(keywords, known, "{grammar:?}");
        }
        let of_rules = known(grammar::selection(Selectable::Rules, None, &["?"]));
        let of_show = OF_SHOW.iter().filter(|it| !NOT_OF_A_SELECTION.contains(it));
        assert_eq!(of_show.map(|it| (*it).to_owned()).collect::<BTreeSet<_>>(), of_rules);
        let flush = Grammar::Flush.keywords().iter().copied().chain(["sort", "head"]);
        assert_eq!(flush.map(str::to_owned).collect::<BTreeSet<_>>(), of_rules);
        let of_next_hops = known(grammar::selection(Selectable::NextHops, None, &["?"]));
        assert_eq!(OF_NEXT_HOPS.map(str::to_owned).into_iter().collect::<BTreeSet<_>>(), of_next_hops);
    }

    #[test]
    fn each_word_leads_to_those_that_may_follow() {
        let keywords = |words: &[&'static str]| Next::Keywords(words.to_vec());
        let of_rules = Grammar::Rule.keywords().iter().copied();
        let all = Next::Keywords(of_rules.filter(|it| *it != "else").collect());
        for (grammar, words, then) in [
            (Grammar::Rule, "", all),
            (Grammar::Rule, "from", Next::Value("from")),
            (Grammar::Rule, "from 192.0.2.7 pass", keywords(&["to", "name"])),
            (Grammar::Rule, "from 192.0.2.7 reply-to", keywords(&["to", "dev", "else", "mss", "name"])),
            (Grammar::Rule, "from 192.0.2.7 reply-to dev", Next::Value("dev")),
            (
                Grammar::Rule,
                "from 192.0.2.7 reply-to dev eth1",
                keywords(&["to", "dev", "else", "mss", "name"]),
            ),
            (
                Grammar::Rule,
                "from 192.0.2.7 reply-to dev eth1 else dev wg0",
                keywords(&["to", "via", "on-down", "mss", "name"]),
            ),
            (Grammar::Rule, "from 192.0.2.7 reply-to else drop", keywords(&["to", "mss", "name"])),
            (Grammar::Rule, "from 192.0.2.7 via", Next::Value("via")),
            (
                Grammar::Rule,
                "from 192.0.2.7 to 10.0.0.0/8 via 192.0.2.1",
                keywords(&["dev", "on-down", "mss", "name"]),
            ),
            (Grammar::Rule, "from 192.0.2.7 to 10.0.0.0/8 nexthop", keywords(&["via", "dev"])),
            (
                Grammar::Rule,
                "from 192.0.2.7 to 10.0.0.0/8 nexthop via 192.0.2.1 nexthop dev wg0",
                keywords(&["via", "weight", "backup", "nexthop", "on-down", "mss", "name"]),
            ),
            (
                Grammar::Rule,
                "from 192.0.2.7 name via",
                keywords(&[
                    "to", "via", "dev", "nexthop", "group", "reply-to", "pass", "drop", "on-down", "mss",
                ]),
            ),
            (Grammar::Group, "", Next::Value("group")),
            (Grammar::Group, "uplinks", keywords(&["nexthop", "on-down"])),
            (Grammar::Group, "uplinks nexthop dev wg0 weight", Next::Value("weight")),
            (Grammar::GroupName, "uplinks", keywords(&[])),
            (Grammar::Devices, "dev eth0", keywords(&["dev"])),
            (Grammar::Show, "attachments", keywords(&[])),
            (Grammar::Show, "nexthops", keywords(&OF_NEXT_HOPS)),
            (
                Grammar::Show,
                "nexthops dev eth1 head 3",
                keywords(&["group", "via", "with", "unused", "sort"]),
            ),
            (Grammar::Show, "rules", keywords(&OF_SHOW[7..])),
            (Grammar::Show, "flows", keywords(&["dev"])),
            (Grammar::Flow, "192.0.2.7 to 10.0.0.1", keywords(&["from", "proto", "sport", "dport", "iif"])),
            (Grammar::Flow, "192.0.2.7 proto", Next::Value("proto")),
            (Grammar::Show, "unused sort", keywords(&["by"])),
            (Grammar::Show, "unused sort by", Next::Value("sort")),
            (Grammar::Flush, "within 10/8 owner", Next::Value("owner")),
            (Grammar::Groups, "owner cli", keywords(&["via", "dev", "name", "unused", "head"])),
            (Grammar::Show, "from 192.0.2.7", keywords(&["to"])),
            (Grammar::NextHop, "via 192.0.2.1", keywords(&["dev"])),
        ] {
            assert_eq!(next(grammar, words), then, "{grammar:?} {words}");
        }
    }

    /// The words that come after these, without those that depend on this host.
    fn words(line: &str) -> Vec<String> {
        let mut command = Cli::command();
        command.build();
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let current = words.pop().unwrap_or_default();
        let options = Cli::try_parse_from(["byway", "show"]).unwrap().options;
        let all = candidates(&command, &in_full(&words, &command), &current, &options);
        all.into_iter().filter(|it| it.fits(&current)).map(|it| it.word).collect()
    }

    #[test]
    fn commands_options_and_keywords_are_completed() {
        for (line, expected) in [
            ("at", &["attach"][..]),
            ("gua", &[]),
            ("group d", &["del"]),
            ("flow flu", &["flush"]),
            ("flow del fr", &["from"]),
            ("--json add fr", &["from"]),
            ("--netns=blue add from 192.0.2.7 p", &[]),
            ("apply --conf", &["--confirm"]),
            ("apply --confirm 60s --s", &["--strict"]),
            ("apply --confirm ", &[]),
            ("completion z", &["zsh"]),
            ("-j a fr", &["from"]),
            ("-qj a fr", &["from"]),
            // There is no such namespace to ask.
            ("-qn blue a fr", &[]),
            ("-nblue a fr", &[]),
            ("rule delete fr", &["from"]),
            ("nonsense ", &[]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        assert!(words("").contains(&"add".to_owned()));
    }

    #[test]
    fn files_are_left_to_the_shell() {
        let mut command = Cli::command();
        command.build();
        for (line, expected) in
            [("apply", true), ("check --offline", true), ("apply a.toml", false), ("show", false)]
        {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(wants_file(&command, &words), expected, "{line}");
        }
    }
}
