//! What the fingers of iproute2's users type, in the words that the parser knows. Pure.
//!
//! As with ip(8), options of several letters have one dash or two and may be cut short (`-js`), and so may commands
//! (`byway sh`). Where several commands begin so, the first one of `byway --help` is meant, as in ip(8); but one that changes
//! everything at once is never the meaning of a part of its name.

use std::ffi::OsString;

use clap::Command;

/// Commands that change all rules or all attachments, and so have to be written out.
const WRITTEN_OUT: [&str; 4] = ["flush", "detach", "apply", "rollback"];

/// The command that stays, and never ends by itself: no part of its name is meant as it.
const STAYS: &str = "run";

/// The options of several letters that one dash may introduce, and what they are called here. Those that begin so first.
const OPTIONS: [(&str, &str); 13] = [
    ("json", "json"),
    ("pretty", "pretty"),
    ("netns", "netns"),
    ("statistics", "statistics"),
    ("stats", "statistics"),
    ("details", "details"),
    ("oneline", "oneline"),
    ("brief", "oneline"),
    ("color", "color"),
    ("batch", "batch"),
    ("quiet", "quiet"),
    ("Version", "version"),
    ("help", "help"),
];

/// What `byway rule` may do, which is what it does without `rule`.
const OF_RULES: [&str; 5] = ["add", "replace", "del", "show", "flush"];

/// The plurals that `show` shows.
const NOUNS: [&str; 5] = ["rules", "groups", "nexthops", "attachments", "flows"];

/// Commands of ip(8) and others that Byway does not have, how much of them is enough, and what it has instead.
const ELSEWHERE: [(&str, usize, &str); 2] = [
    ("monitor", 3, "`byway show --watch` shows the counters again and again"),
    ("statistics", 4, "`byway show` has the counters"),
];

/// What others do to next hops.
const OF_NEXT_HOPS: [&str; 6] = ["add", "del", "delete", "replace", "change", "flush"];

/// Arguments, without the name of the program, in the words of the parser. What stands behind `--` stays as it is, and so does
/// what this does not understand: the parser says what is wrong with it.
///
/// # Errors
///
/// A sentence, where a part of a command's name may not stand for it.
pub(crate) fn translated(arguments: Vec<OsString>, cli: &Command) -> Result<Vec<OsString>, String> {
    let mut arguments = with_pauses(arguments);
    let end = arguments.iter().position(|it| it == "--").unwrap_or(arguments.len());
    let literal = arguments.split_off(end);
    let mut places = Vec::new();
    let mut is_value = false;
    for (place, argument) in arguments.iter_mut().enumerate() {
        if std::mem::take(&mut is_value) {
            continue;
        }
        match argument.to_str() {
            Some(text) if text.len() > 1 && text.starts_with('-') => {
                let option = option(text);
                is_value = takes_next(&option, cli);
                *argument = option.into();
            }
            _ => places.push(place),
        }
    }
    let words: Vec<&str> = places.iter().map_while(|place| arguments[*place].to_str()).collect();
    let Meaning { words, instead_of, wants_help } = meaning(&words, cli)?;
    let gone = &places[..instead_of];
    let mut translated = Vec::new();
    for (place, argument) in arguments.into_iter().enumerate() {
        if gone.first() == Some(&place) {
            translated.extend(words.iter().map(OsString::from));
        } else if !gone.contains(&place) {
            translated.push(argument);
        }
    }
    translated.extend(wants_help.then(|| OsString::from("--help")));
    translated.extend(literal);
    Ok(translated)
}

/// `--watch 5` as `--watch=5`. Nothing else that may follow there is like a number.
fn with_pauses(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_number = |text: &str| {
        text.starts_with(|it: char| it.is_ascii_digit())
            && !text.contains([':', '/'])
            && text.matches('.').count() < 2
    };
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    let mut is_over = false;
    for argument in arguments {
        is_over |= argument == "--";
        match joined.last_mut().filter(|last| !is_over && *last == "--watch") {
            Some(watch) if argument.to_str().is_some_and(is_number) => {
                watch.push("=");
                watch.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// An option with two dashes, where it has several letters.
fn option(text: &str) -> String {
    let letters = match text.strip_prefix("--") {
        Some(letters) => letters,
        // One letter is the parser's, and so are several letters together.
        None if text.len() == 2 => return text.to_owned(),
        None => &text[1..],
    };
    let (name, value) = match letters.split_once('=') {
        Some((name, value)) => (name, format!("={value}")),
        None => (letters, String::new()),
    };
    // `-c=always` is one letter with its value. What has two dashes is written out, but for the names that differ.
    let is_it = |known: &str| match text.starts_with("--") {
        true => known == name,
        false => name.len() > 1 && known.starts_with(name),
    };
    match OPTIONS.iter().find(|(known, _)| is_it(known)) {
        Some((_, option)) => format!("--{option}{value}"),
        None => text.to_owned(),
    }
}

/// Whether the value of an option is the argument behind it.
fn takes_next(option: &str, cli: &Command) -> bool {
    let takes_one = |it: &&clap::Arg| it.get_action().takes_values() && !it.is_require_equals_set();
    let with_value = || cli.get_arguments().filter(takes_one);
    match option.strip_prefix("--") {
        Some(name) => with_value().any(|it| it.get_long() == Some(name)),
        None => {
            let letters = &option[1..];
            // What follows the first such letter is its value.
            let first = letters.find(|letter| with_value().any(|it| it.get_short() == Some(letter)));
            first.is_some_and(|at| at + 1 == letters.len())
        }
    }
}

/// What the first words mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// The command in the words of the parser.
    pub(crate) words: Vec<String>,
    /// How many of the given words they replace.
    pub(crate) instead_of: usize,
    /// Whether `help` was among them.
    pub(crate) wants_help: bool,
}

impl Meaning {
    fn of(words: &[&str], instead_of: usize) -> Self {
        Self { words: words.iter().map(|it| (*it).to_owned()).collect(), instead_of, wants_help: false }
    }

    /// The same with a number of words before it.
    fn behind(self, words: usize) -> Self {
        Self { instead_of: self.instead_of + words, ..self }
    }
}

/// Which command these words begin with.
pub(crate) fn meaning(words: &[&str], cli: &Command) -> Result<Meaning, String> {
    let [first, rest @ ..] = words else { return Ok(Meaning::of(&[], 0)) };
    if !first.is_empty() && "help".starts_with(first) {
        return Ok(Meaning { wants_help: true, ..meaning(rest, cli)?.behind(1) });
    }
    let Some(command) = command(first, cli)? else {
        let is_it = |(name, enough, _): &&(&str, usize, &str)| first.len() >= *enough && begins(name, first);
        return match ELSEWHERE.iter().find(is_it) {
            Some((_, _, instead)) => Err(format!("`{first}` is no command; {instead}")),
            None => Ok(Meaning::of(&[], 0)),
        };
    };
    let asks = |word: Option<&&str>| word == Some(&"help");
    match command {
        // As `ip rule` alone.
        "rule" if rest.is_empty() => Ok(Meaning::of(&["show"], 1)),
        "rule" if asks(rest.first()) => Ok(Meaning { wants_help: true, ..Meaning::of(&[], 2) }),
        "rule" => {
            let verbs = || cli.get_subcommands().filter(|it| OF_RULES.contains(&it.get_name()));
            match named(rest[0], verbs)? {
                Some(verb) => {
                    let words: Vec<&str> = std::iter::once(verb).chain(rest[1..].iter().copied()).collect();
                    Ok(meaning(&words, cli)?.behind(1))
                }
                None => Err(format!(
                    "`rule {}` is no command; it is `rule` with `add`, `replace`, `del`, `show` or `flush`",
                    rest[0]
                )),
            }
        }
        "attachment" => match rest.first() {
            None => Ok(Meaning::of(&["show", "attachments"], 1)),
            Some(&"help") => Ok(Meaning { wants_help: true, ..Meaning::of(&["attach"], 2) }),
            Some(&"add") => Ok(Meaning::of(&["attach"], 2)),
            Some(&"del" | &"delete") => Ok(Meaning::of(&["detach"], 2)),
            Some(verb) if is_show(verb, cli) => Ok(Meaning::of(&["show", "attachments"], 2)),
            Some(verb) => Err(format!(
                "`attachment {verb}` is no command; it is `attachment` with `add`, `del` or `show`"
            )),
        },
        "nexthop" if rest.first().is_some_and(|verb| is_show(verb, cli)) => {
            Ok(Meaning::of(&["show", "nexthops"], 2))
        }
        "flush" if rest.first() == Some(&"flows") => Ok(Meaning::of(&["flow", "flush"], 2)),
        "show" => {
            let noun = rest
                .first()
                .and_then(|word| NOUNS.iter().find(|noun| !word.is_empty() && noun.starts_with(word)));
            match noun.copied() {
                Some("rules") => Ok(Meaning::of(&["show"], 2)),
                Some("groups") => Ok(Meaning::of(&["group", "show"], 2)),
                Some("flows") => Ok(Meaning::of(&["flow", "show"], 2)),
                Some(noun) => Ok(Meaning::of(&["show", noun], 2)),
                None if asks(rest.first()) => Ok(Meaning { wants_help: true, ..Meaning::of(&["show"], 2) }),
                None => Ok(Meaning::of(&["show"], 1)),
            }
            .map(|meaning| match asks(rest.get(1)) && noun.is_some() {
                true => Meaning { wants_help: true, instead_of: 3, ..meaning },
                false => meaning,
            })
        }
        _ => {
            let verbs = || cli.find_subcommand(command).into_iter().flat_map(|it| it.get_subcommands());
            let Some(word) = rest.first().filter(|_| verbs().next().is_some()) else {
                // A rule does not begin so, and a file or a device of that name has a path, or `dev` before it.
                let wants_help = *rest == ["help"];
                return Ok(Meaning { wants_help, ..Meaning::of(&[command], 1 + usize::from(wants_help)) });
            };
            if asks(Some(word)) {
                let verb = rest.get(1).and_then(|it| named(it, verbs).ok().flatten());
                let all: Vec<&str> = [command].into_iter().chain(verb).collect();
                return Ok(Meaning { wants_help: true, ..Meaning::of(&all, 1 + all.len()) });
            }
            match named(word, verbs)? {
                Some(verb) if rest[1..] == ["help"] => {
                    Ok(Meaning { wants_help: true, ..Meaning::of(&[command, verb], 3) })
                }
                Some(verb) => Ok(Meaning::of(&[command, verb], 2)),
                None if command == "nexthop" && OF_NEXT_HOPS.iter().any(|verb| verb.starts_with(word)) => {
                    Err(format!(
                        "`nexthop {word}` is no command; a next hop comes with the first rule or group that names it, and goes \
                         with the last; `byway nexthop down` takes it out of service"
                    ))
                }
                None => Ok(Meaning::of(&[command], 1)),
            }
        }
    }
}

/// Whether a word is the beginning of a name, or the name without its end: `stats` is `statistics`.
fn begins(name: &str, word: &str) -> bool {
    name.starts_with(word.strip_suffix('s').unwrap_or(word))
}

/// The command, or the noun that takes a command, that a word begins or is.
fn command<'a>(word: &str, cli: &'a Command) -> Result<Option<&'a str>, String> {
    Ok(named(word, || cli.get_subcommands())?.or_else(|| {
        ["rule", "attachment"].into_iter().find(|noun| !word.is_empty() && noun.starts_with(word))
    }))
}

fn is_show(word: &str, cli: &Command) -> bool {
    matches!(named(word, || cli.get_subcommands().filter(|it| it.get_name() == "show")), Ok(Some(_)))
}

/// The one that a word means: by its name or another name of it, else by the beginning of its name, else by the beginning of
/// another name.
fn named<'a, I: Iterator<Item = &'a Command>>(
    word: &str,
    commands: impl Fn() -> I,
) -> Result<Option<&'a str>, String> {
    if word.is_empty() {
        return Ok(None);
    }
    let whole = commands().find(|it| it.get_name() == word || it.get_all_aliases().any(|name| name == word));
    if let Some(command) = whole {
        return Ok(Some(command.get_name()));
    }
    let shown = || commands().filter(|it| !it.is_hide_set() && it.get_name() != STAYS);
    let by_name = shown().find(|it| it.get_name().starts_with(word));
    let by_other = || shown().find(|it| it.get_all_aliases().any(|name| name.starts_with(word)));
    match by_name.or_else(by_other).map(Command::get_name) {
        Some(name) if WRITTEN_OUT.contains(&name) => {
            Err(format!("`{word}` is too short for `{name}`, which changes much at once; write it out"))
        }
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn translation(text: &str) -> Result<String, String> {
        let arguments = translated(words(text), &crate::Cli::command())?;
        let arguments: Vec<String> = arguments.into_iter().map(|it| it.into_string().unwrap()).collect();
        Ok(arguments.join(" "))
    }

    #[track_caller]
    fn means(cases: &[(&str, &str)]) {
        for (typed, meant) in cases {
            assert_eq!(translation(typed).as_deref(), Ok(*meant), "byway {typed}");
        }
    }

    #[test]
    fn a_part_of_a_name_is_the_first_command_that_begins_so() {
        means(&[
            ("a from 192.0.2.7 drop", "add from 192.0.2.7 drop"),
            ("d 192.0.2.7", "del 192.0.2.7"),
            ("de 192.0.2.7", "del 192.0.2.7"),
            ("delete 192.0.2.7", "del 192.0.2.7"),
            ("delet 192.0.2.7", "del 192.0.2.7"),
            ("s", "show"),
            ("sh", "show"),
            ("l", "show"),
            ("ls", "show"),
            ("lst", "show"),
            ("list", "show"),
            ("r from 192.0.2.7 drop", "replace from 192.0.2.7 drop"),
            ("change from 192.0.2.7 drop", "replace from 192.0.2.7 drop"),
            ("chg from 192.0.2.7 drop", "replace from 192.0.2.7 drop"),
            ("c", "check"),
            ("co", "confirm"),
            ("n d via 10.0.0.1", "nexthop down via 10.0.0.1"),
            ("n u 10.0.0.1", "nexthop up 10.0.0.1"),
            ("gr a up nexthop dev eth1", "group add up nexthop dev eth1"),
            ("group r up nexthop dev eth1", "group replace up nexthop dev eth1"),
            ("group delete up", "group del up"),
            ("att eth1", "attach eth1"),
            ("di", "diff"),
            ("e", "export"),
            ("i", "import"),
            ("m", "metrics"),
            // A hidden command has no part.
            ("gua", "gua"),
            ("guard token", "guard token"),
            ("frobnicate", "frobnicate"),
        ]);
    }

    #[test]
    fn what_changes_everything_is_written_out() {
        for (typed, name) in [
            ("f", "flush"),
            ("flus", "flush"),
            ("det", "detach"),
            ("ap", "apply"),
            ("appl file", "apply"),
            ("ro", "rollback"),
            ("rule f", "flush"),
        ] {
            let word = typed.trim_start_matches("rule ").split(' ').next().unwrap();
            let sentence =
                format!("`{word}` is too short for `{name}`, which changes much at once; write it out");
            assert_eq!(translation(typed), Err(sentence), "byway {typed}");
        }
        let names = WRITTEN_OUT.map(|name| (name, name));
        means(&names);
        let cli = crate::Cli::command();
        assert!(WRITTEN_OUT.iter().all(|name| cli.find_subcommand(name).is_some()));
    }

    #[test]
    fn nouns_and_verbs_come_in_any_order() {
        means(&[
            ("rule", "show"),
            ("rule show", "show"),
            ("ru ls", "show"),
            ("ru", "show"),
            ("run", "run"),
            ("rule add from 192.0.2.7 drop", "add from 192.0.2.7 drop"),
            ("rule d 192.0.2.7", "del 192.0.2.7"),
            ("rule flush", "flush"),
            ("show rules", "show"),
            ("show rule", "show"),
            ("sh groups", "group show"),
            ("show f dev eth1", "flow show dev eth1"),
            ("flush flows dev eth1", "flow flush dev eth1"),
            ("flow d 10.0.0.1 to 10.0.0.2", "flow del 10.0.0.1 to 10.0.0.2"),
            ("show g up", "group show up"),
            ("group ls", "group show"),
            ("group list up", "group show up"),
            ("show nexthop", "show nexthops"),
            ("show n --watch", "show nexthops --watch"),
            ("nexthop list", "show nexthops"),
            ("nexthop sh", "show nexthops"),
            ("attachment", "show attachments"),
            ("attachment show", "show attachments"),
            ("attachment add eth1", "attach eth1"),
            ("attachment del eth1", "detach eth1"),
            ("show from 192.0.2.7", "show from 192.0.2.7"),
            ("show any", "show any"),
            ("show", "show"),
        ]);
        for (typed, sentence) in [
            (
                "rule attach eth1",
                "`rule attach` is no command; it is `rule` with `add`, `replace`, `del`, `show` or `flush`",
            ),
            (
                "attachment flush",
                "`attachment flush` is no command; it is `attachment` with `add`, `del` or `show`",
            ),
        ] {
            assert_eq!(translation(typed), Err(sentence.to_owned()));
        }
    }

    #[test]
    fn what_others_have_is_answered_with_what_there_is() {
        let counters = "`byway show` has the counters";
        let watch = "`byway show --watch` shows the counters again and again";
        for (typed, instead) in [
            ("monitor", watch),
            ("mon all", watch),
            ("stat", counters),
            ("stats", counters),
            ("statistics show", counters),
        ] {
            let word = typed.split(' ').next().unwrap();
            assert_eq!(translation(typed), Err(format!("`{word}` is no command; {instead}")), "{typed}");
        }
        for verb in ["add", "a", "del", "delete", "replace", "flush"] {
            let said = translation(&format!("nexthop {verb} via 10.0.0.1")).unwrap_err();
            assert!(said.starts_with(&format!("`nexthop {verb}` is no command; a next hop comes")), "{said}");
        }
        means(&[("mo", "mo"), ("stack", "stack"), ("nexthop frobnicate", "nexthop frobnicate")]);
    }

    #[test]
    fn help_is_everywhere() {
        means(&[
            ("help", "--help"),
            ("h", "--help"),
            ("help -h", "-h --help"),
            ("help help", "--help"),
            ("add help", "add --help"),
            ("help a", "add --help"),
            ("show help", "show --help"),
            ("show nexthops help", "show nexthops --help"),
            ("rule help", "--help"),
            ("rule add help", "add --help"),
            ("group help", "group --help"),
            ("group help -h", "group -h --help"),
            ("group help add", "group add --help"),
            ("help group add", "group add --help"),
            ("group add help", "group add --help"),
            ("nexthop help", "nexthop --help"),
            ("attachment help", "attach --help"),
            // Not where it is a name.
            ("group add help nexthop dev eth1", "group add help nexthop dev eth1"),
            ("attach dev help", "attach dev help"),
            ("group del -- help", "group del -- help"),
        ]);
    }

    #[test]
    fn options_have_one_dash_or_two() {
        means(&[
            ("-j show", "-j show"),
            ("-json show", "--json show"),
            ("-js show", "--json show"),
            ("--json show", "--json show"),
            ("show -json", "show --json"),
            ("-j -p sh", "-j -p show"),
            ("-jp sh", "-jp show"),
            ("-n blue sh", "-n blue show"),
            ("-netns show show", "--netns show show"),
            ("-netns=blue s", "--netns=blue show"),
            ("-nblue s", "-nblue show"),
            ("-jn s s", "-jn s show"),
            ("s -n s", "show -n s"),
            ("-4 s", "-4 show"),
            ("-6 -o s", "-6 -o show"),
            ("-br s", "--oneline show"),
            ("--brief s", "--oneline show"),
            ("-s -stats -d -det s", "-s --statistics -d --details show"),
            ("-c s", "-c show"),
            ("-color s", "--color show"),
            ("-color=always s", "--color=always show"),
            ("-c=never s", "-c=never show"),
            ("-b show", "-b show"),
            ("-batch show", "--batch show"),
            ("-b -", "-b -"),
            ("-q a 192.0.2.7 drop", "-q add 192.0.2.7 drop"),
            ("-V", "-V"),
            ("-Version", "--version"),
            ("-help", "--help"),
            ("--wait 5s s", "--wait 5s show"),
            ("apply --confirm 60s a", "apply --confirm 60s a"),
            ("check -", "check -"),
            ("-frobnicate s", "-frobnicate show"),
        ]);
    }

    #[test]
    fn a_pause_may_stand_apart() {
        means(&[
            ("s --watch 5", "show --watch=5"),
            ("show --watch 0.5 unused", "show --watch=0.5 unused"),
            ("show --watch 5x", "show --watch=5x"),
            ("show --watch 192.0.2.7", "show --watch 192.0.2.7"),
            ("show --watch 10/8", "show --watch 10/8"),
            ("show --watch 2001:db8::7", "show --watch 2001:db8::7"),
            ("show --watch unused", "show --watch unused"),
            ("show --watch=5 unused", "show --watch=5 unused"),
            ("show --watch", "show --watch"),
            ("show -- --watch 5", "show -- --watch 5"),
        ]);
    }

    #[test]
    fn nothing_behind_two_dashes_is_touched() {
        means(&[
            ("-- -json s help", "-- -json s help"),
            ("group del -- -br", "group del -- -br"),
            ("a -- help -n", "add -- help -n"),
        ]);
    }

    #[test]
    fn all_options_are_the_parsers() {
        let mut cli = crate::Cli::command();
        cli.build();
        for (_, name) in OPTIONS {
            assert!(cli.get_arguments().any(|it| it.get_long() == Some(name)), "--{name}");
        }
    }

    #[test]
    fn other_bytes_are_left_alone() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = vec![OsString::from("s"), OsString::from_vec(vec![0xff, b'-'])];
        let expected = vec![OsString::from("show"), bytes[1].clone()];
        assert_eq!(translated(bytes, &crate::Cli::command()), Ok(expected));
    }
}
