use std::{
    io::Write,
    thread,
    time::{Duration, Instant, SystemTime},
};

use byway::{
    Byway, Family, Listing, NextHop, NextHopSpec, Rule, RuleSpec, RuleStatus, Selectable, Selection,
    Selector, SortBy, Status, Target,
    grammar::{self, GrammarError},
};
use clap::Args;

use super::{answer, open::open};
use crate::{
    error::Error,
    options::{Options, time_from},
    output::{Output, Stamped},
    render::{Reader, Screen, Window, cells::Since, table},
};

/// Show rules with their counters, and attachments
#[derive(Debug, Args)]
#[command(after_help = "\
PACKETS and BYTES count what the rule has matched. ARRIVED counts the packets that
reached the egress of the next hop's device. NO NEXT HOP counts those that found no
next hop in service, and ICMP SENT and TOO BIG those that did not fit. What is left
has departed, and waits for the next hop's neighbour entry or is lost.

A selection shows only the rules that match all of its words:
  within PREFIX     the source lies in the prefix
  covering PREFIX   the source contains the prefix
  owner NAME        cli, config, api, kubernetes, or a number
  group NAME        the rule uses the group
  via ADDR          the rule leads there, directly or by a group
  dev IF            likewise
  name PATTERN      its whole name: `*` is any characters, `?` is one
  with loss         not all of its packets have arrived
  unused            it has matched no packet
  sort by WHAT      packets, bytes, loss, or rate: the most first
  head N            the first N of these
Next hops have group, via, dev, with loss, unused, sort and head. In the shell,
quote a pattern: name 'web-*'.

In a pipe, a table always has all columns, with `-` for nothing, no spaces
within a column, and no separators in numbers.

Examples:
  byway show
  byway show 192.168.1.5        this rule alone; fast even among a million
  byway show within 192.168.0.0/16 with loss
  byway show sort by rate head 10
  byway show rules group uplinks
  byway show nexthops           next hops, their state and their counters
  byway show nexthops dev eth1
  byway show groups             as `byway group show`
  byway show flows              what `reply-to` sends back, as `byway flow show`
  byway show attachments        what each has seen, and why it left some alone
  byway -6 show                 IPv6 alone: rules by their source
  byway -o show                 each rule on one line, in the words that add it
  byway show --watch            look again every second; the busiest rules first
  byway --json show --watch=5   one line of JSON every five seconds")]
pub(crate) struct Show {
    /// rules | nexthops | groups | attachments | flows, and a selection; or [from] PREFIX [to PREFIX]; all rules by default
    #[arg(value_name = "WHAT", num_args = 0..)]
    what: Vec<String>,
    /// Show it again and again, as much as fits on the screen, with the rates in between: every second, or so often (5, 0.5,
    /// 2m)
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = pause)]
    watch: Option<Duration>,
}

impl Show {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let (what, selection) = shown(&self.what, options.family())?;
        let mut byway = open(options)?;
        if let Some(pause) = self.watch {
            return watch(&mut byway, what, selection, pause, options);
        }
        if let Shown::Rule(selector) = what {
            let rule = rule(&mut byway, &selector)?;
            let mut text = match options.oneline {
                true => in_words(&rule.rule),
                false => table::rules(&[&rule], 1, None, Reader::of_stdout())?,
            };
            if options.json || options.oneline {
                return Ok(Output::line(text, Stamped::now(&rule)));
            }
            for trouble in troubles_of(&mut byway, &rule) {
                text += &format!("\n{trouble}");
            }
            let output = Output::line(text, Stamped::now(&rule));
            let warnings = answer::warnings_of_listed(&mut byway, vec![rule]);
            return Ok(Output { warnings, ..output });
        }
        if selection.sort == Some(SortBy::Rate) {
            return with_rates(&mut byway, what, &selection, options);
        }
        let mut listing = byway.listing()?;
        let next_hops = listing.next_hops.len();
        choose(&mut listing, what, &selection)?;
        answer::stream(options, |out| {
            match what {
                _ if options.json => return write_json(&listing, out),
                _ if options.oneline => return one_line_each(&listing, what, out),
                Shown::NextHops if listing.next_hops.is_empty() && next_hops > 0 => {
                    write!(out, "{}", answer::none_matches("next hop", &selection))
                }
                Shown::NextHops => {
                    let rows: Vec<_> = listing.next_hops.iter().collect();
                    write!(out, "{}", table::next_hops(&rows, next_hops, None, Reader::of_stdout()))
                }
                Shown::Attachments => {
                    write!(out, "{}", table::attachments(&listing.attachments, None, Reader::of_stdout()))
                }
                Shown::Rules | Shown::Rule(_) => return write_text(&listing, &selection, out),
            }
            .and_then(|()| out.write_all(b"\n"))
            .map_err(Error::Print)
        })?;
        if options.json || options.oneline {
            return Ok(Output::printed());
        }
        let rules: Vec<RuleStatus> = listing.rules().take(answer::MANY).flatten().collect();
        Ok(Output { warnings: answer::warnings_of_listed(&mut byway, rules), ..Output::printed() })
    }
}

/// A shorter one shows nothing that anybody could read.
fn pause(text: &str) -> Result<Duration, String> {
    time_from(Duration::from_millis(100), text)
}

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Rules,
    NextHops,
    Attachments,
    Rule(Selector),
}

/// `[nexthops] SELECTION`, `attachments` or `[from] PREFIX [to PREFIX]`
fn shown(words: &[String], family: Option<Family>) -> Result<(Shown, Selection), GrammarError> {
    let some = |from, words: &[String]| grammar::selection(from, family, words);
    let all = || some(Selectable::Rules, &[]);
    match words {
        [] => Ok((Shown::Rules, all()?)),
        [first, ..] if grammar::begins_selection(first) => {
            Ok((Shown::Rules, some(Selectable::Rules, words)?))
        }
        [first, rest @ ..] if first == "nexthops" => Ok((Shown::NextHops, some(Selectable::NextHops, rest)?)),
        [first] if first == "attachments" => Ok((Shown::Attachments, all()?)),
        [first, word, ..] if first == "attachments" => {
            Err(GrammarError::Unknown(word.clone(), format!("nothing after `{first}`")))
        }
        [first, ..] => match grammar::selector_of(family, words) {
            Ok(selector) => Ok((Shown::Rule(selector), all()?)),
            Err(GrammarError::Unknown(word, _)) if word == *first => {
                let expected = "`rules`, `nexthops`, `groups`, `attachments`, `flows`, a rule's `from` and `to`, or a selection like \
                                `within 192.0.2.0/24`";
                Err(GrammarError::Unknown(word, expected.to_owned()))
            }
            Err(error) => Err(error),
        },
    }
}

/// The part of a selection that holds for everything that is shown beside what it chooses from.
fn of_family(selection: &Selection) -> Selection {
    let mut of_family = Selection::default();
    of_family.family = selection.family;
    of_family
}

/// Keeps what is to be shown.
fn choose(listing: &mut Listing, what: Shown, selection: &Selection) -> Result<(), Error> {
    let of_family = of_family(selection);
    let (rules, next_hops) =
        if what == Shown::NextHops { (&of_family, selection) } else { (selection, &of_family) };
    if *rules != Selection::default() {
        listing.select(rules)?;
    }
    listing.next_hops = next_hops.next_hops(&listing.next_hops, &[]).into_iter().cloned().collect();
    Ok(())
}

/// What is wrong with the next hops of a rule that has lost packets, after an empty line if anything is.
fn troubles_of(byway: &mut Byway, rule: &RuleStatus) -> Vec<String> {
    // Among a million rules, this takes longer than everything else.
    let has_next_hop = !matches!(rule.rule.target, Target::Pass | Target::Drop);
    let is_fine = rule.lost() == 0 && (rule.no_next_hop.packets == 0 || !has_next_hop);
    let Some(listing) = (!is_fine).then(|| byway.listing().ok()).flatten() else { return Vec::new() };
    let target = &rule.rule.target;
    let group = listing.groups.iter().map(|it| &it.group);
    let group = group.filter(|it| matches!(target, Target::Group(name) if it.name == *name));
    let of_group = group.flat_map(|it| &it.members).map(|member| &member.next_hop);
    let used: Vec<&NextHop> = target.next_hops().chain(of_group).collect();
    let troubles = listing.next_hops.iter().filter(|it| used.contains(&&it.next_hop));
    let troubles: Vec<String> = troubles.filter_map(table::trouble_of_next_hop).collect();
    if troubles.is_empty() { troubles } else { [vec![String::new()], troubles].concat() }
}

/// The rule for exactly these packets. If there is none, other rules may match some of them.
fn rule(byway: &mut Byway, selector: &Selector) -> Result<RuleStatus, Error> {
    match byway.rule(selector) {
        Err(byway::Error::NoSuchRule(_)) => {}
        found => return Ok(found?),
    }
    let mut covering = Selection::default();
    covering.covering = Some(selector.source());
    let mut listing = byway.listing()?;
    listing.select(&covering)?;
    for rule in listing.rules() {
        let destinations = (rule?.rule.destination, selector.destination());
        if !matches!(destinations, (Some(one), Some(other)) if !one.covers(&other) && !other.covers(&one)) {
            return Err(Error::OnlyOthers(*selector));
        }
    }
    Err(byway::Error::NoSuchRule(*selector).into())
}

/// The words that add a rule.
fn in_words(rule: &Rule) -> String {
    RuleSpec::try_from(rule).map_or_else(|_| rule.to_string(), |spec| spec.to_string())
}

/// A line for each, in the words that name it.
fn one_line_each(listing: &Listing, what: Shown, out: &mut impl Write) -> Result<(), Error> {
    match what {
        Shown::NextHops => listing
            .next_hops
            .iter()
            .try_for_each(|it| writeln!(out, "{}", NextHopSpec::from(&it.next_hop)))
            .map_err(Error::Print),
        Shown::Attachments => {
            let names = listing.attachments.iter().map(|it| &it.device.name);
            names.into_iter().try_for_each(|it| writeln!(out, "{it}")).map_err(Error::Print)
        }
        Shown::Rules | Shown::Rule(_) => {
            listing.rules().try_for_each(|it| writeln!(out, "{}", in_words(&it?.rule)).map_err(Error::Print))
        }
    }
}

fn write_text(listing: &Listing, selection: &Selection, out: &mut impl Write) -> Result<(), Error> {
    let reader = Reader::of_stdout();
    if selection.is_all() {
        table::write_listing(listing, reader, out)?;
    } else if listing.rule_count() > 0 && listing.rules().next().is_none() {
        write!(out, "{}", answer::none_matches("rule", selection)).map_err(Error::Print)?;
    } else {
        table::write_rules(listing, reader, out)?;
    }
    out.write_all(b"\n").map_err(Error::Print)
}

fn write_json(listing: &Listing, out: &mut impl Write) -> Result<(), Error> {
    serde_json::to_writer_pretty(&mut *out, &Stamped::now(listing))
        .map_err(|error| Error::Print(error.into()))?;
    out.write_all(b"\n").map_err(Error::Print)
}

/// Looks twice, a second apart, and shows what it has found.
fn with_rates(
    byway: &mut Byway,
    what: Shown,
    selection: &Selection,
    options: &Options,
) -> Result<Output, Error> {
    let (before, then) = (byway.status()?, Instant::now());
    thread::sleep(Duration::from_secs(1));
    let status = byway.status()?;
    let since = Since { status: &before, seconds: then.elapsed().as_secs_f64() };
    if options.oneline && !options.json {
        let lines: Vec<String> = match what {
            Shown::NextHops => {
                let rows = selection.next_hops(&status.next_hops, &before.next_hops);
                rows.iter().map(|it| NextHopSpec::from(&it.next_hop).to_string()).collect()
            }
            _ => selection.rules(&status, Some(&before)).iter().map(|rule| in_words(&rule.rule)).collect(),
        };
        return Ok(Output { text: lines.iter().map(|it| format!("{it}\n")).collect(), ..Output::printed() });
    }
    let looked = Looked { what, selection, is_alone: true, status: &status, since: Some(&since) };
    Ok(Output::line(looked.text(None)?, Stamped::now(&looked.chosen())))
}

/// Looks again and again, until the reader has seen enough.
fn watch(
    byway: &mut Byway,
    what: Shown,
    selection: Selection,
    pause: Duration,
    options: &Options,
) -> Result<Output, Error> {
    let is_alone = !selection.is_all();
    let mut selection = selection;
    if !options.json && selection.sort.is_none() {
        selection.sort = Some(SortBy::Rate);
    }
    let is_drawn = Screen::of_stdout().is_some() && !options.json && !options.quiet;
    let window = is_drawn.then(Window::open).transpose().map_err(Error::Print)?;
    let mut before: Option<(Status, Instant)> = None;
    loop {
        let (status, now) = (look(byway, what)?, Instant::now());
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let since =
            before.as_ref().map(|(status, then)| Since { status, seconds: (now - *then).as_secs_f64() });
        let looked = Looked { what, selection: &selection, is_alone, status: &status, since: since.as_ref() };
        loop {
            // Another look for each, since somebody may have resized it.
            let screen = Screen::of_stdout().filter(|_| window.is_some());
            let text = match screen {
                Some(screen) => {
                    let every = format!("Every {}", humantime::format_duration(pause));
                    let (title, rest) = screen.titled(&every, &time);
                    screen.cut(&format!("{title}\n\n{}", looked.text(Some(rest))?))
                }
                // Plain data always has a JSON form.
                None if options.json => looked.json().unwrap_or_default(),
                None => looked.text(None)?,
            };
            let goes_on = answer::stream(options, |out| {
                match screen {
                    // Overwrite what was shown before, line by line, so that nothing flickers. A line is erased before it is
                    // written: behind a full one, the cursor of xterm and of the Linux console is still on its last letter.
                    Some(_) => write!(out, "\x1b[H\x1b[K{}\n\x1b[J", text.replace('\n', "\n\x1b[K")),
                    None if options.json => writeln!(out, "{text}"),
                    None => write!(out, "{text}\n\n"),
                }
                .map_err(Error::Print)
            })?;
            if !goes_on {
                return Ok(Output::printed());
            }
            match &window {
                Some(window) if window.wait(now + pause).map_err(Error::Print)? => {}
                Some(_) => break,
                None => {
                    thread::sleep(pause);
                    break;
                }
            }
        }
        before = Some((status, now));
    }
}

/// Everything, or one rule.
fn look(byway: &mut Byway, what: Shown) -> Result<Status, Error> {
    Ok(match what {
        Shown::Rule(selector) => {
            let mut status = Status::default();
            status.rules.push(rule(byway, &selector)?);
            status
        }
        Shown::Rules | Shown::NextHops | Shown::Attachments => byway.status()?,
    })
}

/// What there is, what was there before, and what is to be shown of it.
struct Looked<'a> {
    what: Shown,
    selection: &'a Selection,
    /// Whether somebody asks for some of it.
    is_alone: bool,
    status: &'a Status,
    since: Option<&'a Since<'a>>,
}

impl Looked<'_> {
    fn before(&self) -> Option<&Status> {
        self.since.map(|since| since.status)
    }

    /// As a table: all of it, or as much as fits on a screen.
    fn text(&self, screen: Option<Screen>) -> Result<String, Error> {
        let Self { what, selection, is_alone, status, since } = *self;
        let reader = Reader::of_stdout();
        let text = match what {
            Shown::NextHops => {
                let earlier = self.before().map_or(&[][..], |before| &before.next_hops);
                let (rows, all) = (selection.next_hops(&status.next_hops, earlier), status.next_hops.len());
                match screen {
                    _ if rows.is_empty() && all > 0 => answer::none_matches("next hop", selection),
                    Some(screen) => table::next_hops_on(screen, &rows, all, since, selection),
                    None => table::next_hops(&rows, all, since, reader),
                }
            }
            Shown::Attachments => table::attachments(&status.attachments, since, reader),
            Shown::Rules | Shown::Rule(_) => {
                let is_alone = is_alone || what != Shown::Rules;
                let (rows, all) = (selection.rules(status, self.before()), status.rules.len());
                match screen {
                    _ if rows.is_empty() && is_alone && all > 0 => answer::none_matches("rule", selection),
                    Some(screen) if !rows.is_empty() => {
                        table::rules_on(screen, status, &rows, since, selection, is_alone)
                    }
                    _ if is_alone => table::rules(&rows, all, since, reader)?,
                    _ => table::listing(status, &rows, since, reader)?,
                }
            }
        };
        Ok(screen.map_or(text.clone(), |screen| screen.cut(&text)))
    }

    /// One rule, or the state with what is chosen of it.
    fn json(&self) -> serde_json::Result<String> {
        match (self.what, &self.status.rules[..]) {
            (Shown::Rule(_), [rule]) => serde_json::to_string(&Stamped::now(rule)),
            _ => serde_json::to_string(&Stamped::now(&self.chosen())),
        }
    }

    /// The state with what is chosen of it.
    fn chosen(&self) -> Status {
        let Self { what, selection, status, .. } = *self;
        let of_family = of_family(selection);
        let (of_rules, of_next_hops) =
            if what == Shown::NextHops { (&of_family, selection) } else { (selection, &of_family) };
        let earlier = self.before().map_or(&[][..], |before| &before.next_hops);
        let rules = of_rules.rules(status, self.before()).into_iter().cloned().collect();
        let next_hops = of_next_hops.next_hops(&status.next_hops, earlier).into_iter().cloned().collect();
        let mut chosen = Status::default();
        (chosen.rules, chosen.next_hops) = (rules, next_hops);
        (chosen.attachments, chosen.groups) = (status.attachments.clone(), status.groups.clone());
        chosen.unconfirmed = status.unconfirmed;
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_rule_is_shown_by_the_words_that_delete_it() {
        let shown = |words: &[String], family| shown(words, family).map(|(shown, _)| shown);
        let rule = |text| grammar::selector(&words(text)).map(Shown::Rule);
        for text in [
            "192.0.2.7",
            "192.0.2.7 to 10/8",
            "from 192.0.2.7",
            "from 192.0.2.7 to 10.0.0.0/8",
            "to 10.0.0.0/8 from 192.0.2.7",
        ] {
            assert_eq!(shown(&words(text), None), rule(text), "{text}");
        }
        let others = [("", Shown::Rules), ("nexthops", Shown::NextHops), ("attachments", Shown::Attachments)];
        for (text, what) in others {
            assert_eq!(shown(&words(text), None), Ok(what), "{text}");
        }
        for (text, sentence) in [
            (
                "me",
                "`me` does not belong here; expected `rules`, `nexthops`, `groups`, `attachments`, `flows`, a rule's `from` and `to`, or a selection like `within 192.0.2.0/24`",
            ),
            (
                "table 100",
                "byway has no `table`; name the next hop itself, `via ADDR dev IF`, or share it with `group NAME`",
            ),
            (
                "nexthops from 192.0.2.7",
                "`from` does not belong here; expected `group`, `via`, `dev`, `with`, `unused`, `sort` or `head`",
            ),
            ("attachments dev eth0", "`dev` does not belong here; expected nothing after `attachments`"),
            ("nexthops owner cli", "`owner` is for rules or groups, not for next hops; leave it out"),
            ("from", "`from` needs a source address or prefix after it"),
            ("to 10.0.0.0/8", "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`"),
            ("from 192.0.2.7 nexthops", "`nexthops` does not belong here; expected `from` or `to`"),
        ] {
            assert_eq!(shown(&words(text), None).unwrap_err().sentence(), sentence, "{text}");
        }
    }

    #[test]
    fn a_pause_is_a_number_of_seconds_or_a_time() {
        for (text, millis) in [("5", 5_000), ("0.5", 500), (".2", 200), ("100ms", 100), ("2m", 120_000)] {
            assert_eq!(pause(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "x", "5x", "-1", "nan", "inf", "1e400"] {
            assert_eq!(
                pause(text),
                Err("this is not a time; write it like 5, 0.5, 60s or 2m".into()),
                "{text}"
            );
        }
        for text in ["0", "0.05", "86401", "2days", "1e15"] {
            assert_eq!(pause(text), Err("the time must be from 100ms to 1day".into()), "{text}");
        }
    }

    #[test]
    fn some_are_shown_by_a_selection() {
        for (text, what, selection) in [
            ("within 10/8 owner cli", Shown::Rules, "within 10.0.0.0/8 owner cli"),
            ("group up head 3", Shown::Rules, "group up head 3"),
            ("unused", Shown::Rules, "unused"),
            ("nexthops dev eth1 sort by loss", Shown::NextHops, "dev eth1 sort by loss"),
        ] {
            let (shown, chosen) = shown(&words(text), None).unwrap();
            assert_eq!((shown, chosen.to_string().as_str()), (what, selection), "{text}");
        }
        let (_, of_family) = shown(&words("dev eth1"), Some(Family::V6)).unwrap();
        assert_eq!(answer::none_matches("rule", &of_family), "no rule matches `-6 dev eth1`");
    }
}
