use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::{Duration, Instant},
};

use byway::{
    Byway, Family, Listing, NextHopSpec, Rule, RuleSpec, RuleStatus, Selector, Status,
    grammar::{self, GrammarError},
};
use clap::Args;

use super::{Error, Options, print};
use crate::{
    output::Output,
    render::{
        self,
        table::{self, Since},
    },
};

/// Show rules with their counters, and attachments
#[derive(Debug, Args)]
#[command(after_help = "\
PACKETS and BYTES count what the rule has matched. ARRIVED counts the packets that
reached the egress of the next hop's device. The rest is waiting for the next hop's
neighbour entry, or is lost because the next hop does not answer. NO NEXT HOP counts
packets that found no next hop in service.

Examples:
  byway show
  byway show 192.168.1.5        this rule alone; fast even among a million
  byway show nexthops           next hops, their state and their counters
  byway show groups             as `byway group show`
  byway show attachments        what left by them, and why byway left it alone
  byway -6 show                 IPv6 alone: rules by their source
  byway -o show                 each rule on one line, in the words that add it
  byway show --watch            look again every second, with rates
  byway --json show --watch=5   one line of JSON every five seconds")]
pub(crate) struct Show {
    /// rules | nexthops | groups | attachments | [from] PREFIX [to PREFIX]; all rules by default
    #[arg(value_name = "WHAT", num_args = 0..)]
    what: Vec<String>,
    /// Show it again and again, with the rates in between
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

impl Show {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let what = shown(&self.what, options.family())?;
        let mut byway = super::open(options)?;
        if let Some(seconds) = self.watch {
            return watch(&mut byway, what, Duration::from_secs(seconds), options);
        }
        if let Shown::Rule(selector) = what {
            let rule = byway.rule(&selector)?;
            let text = if options.oneline { in_words(&rule.rule) } else { table::rule(&rule, None)? };
            return Ok(Output::line(text, &rule));
        }
        if !options.json && options.oneline {
            return one_line_each(&mut byway, what, options);
        }
        if options.family().is_some() {
            let status = look(&mut byway, what, options.family())?;
            let text = if options.json { String::new() } else { text(what, &status, None, false)? };
            return Ok(Output::line(text, &status));
        }
        let listing = byway.listing()?;
        print(options, |out| {
            match what {
                _ if options.json => return write_json(&listing, out),
                Shown::NextHops => write!(out, "{}", table::next_hops(&listing.next_hops, None)),
                Shown::Attachments => write!(out, "{}", table::attachments(&listing.attachments, None)),
                Shown::All | Shown::Rule(_) => return write_text(&listing, out),
            }
            .and_then(|()| out.write_all(b"\n"))
            .map_err(Error::Print)
        })?;
        if !options.json {
            // Those that have counted something do their work.
            let rules = listing
                .rules()
                .take(MANY)
                .flatten()
                .filter(|rule| *rule == RuleStatus::new(rule.rule.clone()));
            super::warn(&mut byway, &rules.map(|rule| rule.rule).collect::<Vec<_>>(), Duration::ZERO);
        }
        Ok(Output::printed())
    }
}

/// Of how many rules somebody is told why they count nothing.
const MANY: usize = 1_000;

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    All,
    NextHops,
    Attachments,
    Rule(Selector),
}

/// Nothing, `nexthops`, `attachments` or `[from] PREFIX [to PREFIX]`
fn shown(words: &[String], family: Option<Family>) -> Result<Shown, GrammarError> {
    let (first, rest) = match words {
        [] => return Ok(Shown::All),
        [first, rest @ ..] => (first.as_str(), rest.first()),
    };
    match (first, rest) {
        ("nexthops", None) => Ok(Shown::NextHops),
        ("attachments", None) => Ok(Shown::Attachments),
        ("nexthops" | "attachments", Some(word)) => {
            Err(GrammarError::Unknown(word.clone(), format!("nothing after `{first}`")))
        }
        _ => grammar::selector_of(family, words).map(Shown::Rule).map_err(|error| match error {
            GrammarError::Unknown(word, _) if word == first => {
                let expected = "`rules`, `nexthops`, `groups`, `attachments`, or a rule's `from` and `to`";
                GrammarError::Unknown(word, expected.to_owned())
            }
            error => error,
        }),
    }
}

/// The words that add a rule.
fn in_words(rule: &Rule) -> String {
    RuleSpec::try_from(rule).map_or_else(|_| rule.to_string(), |spec| spec.to_string())
}

/// A line for each, in the words that name it.
fn one_line_each(byway: &mut Byway, what: Shown, options: &Options) -> Result<Output, Error> {
    let listing = byway.listing()?;
    let is_of = |family| options.family().is_none_or(|it| it == family);
    print(options, |out| {
        match what {
            Shown::NextHops => listing
                .next_hops
                .iter()
                .filter(|it| it.next_hop.gateway.is_none_or(|gateway| is_of(Family::of(gateway))))
                .try_for_each(|it| writeln!(out, "{}", NextHopSpec::from(&it.next_hop))),
            Shown::Attachments => {
                listing.attachments.iter().try_for_each(|it| writeln!(out, "{}", it.device.name))
            }
            Shown::All | Shown::Rule(_) => {
                for rule in listing.rules() {
                    let rule = rule?.rule;
                    if is_of(rule.source.family()) {
                        writeln!(out, "{}", in_words(&rule)).map_err(Error::Print)?;
                    }
                }
                Ok(())
            }
        }
        .map_err(Error::Print)
    })?;
    Ok(Output::printed())
}

fn write_text(listing: &Listing, out: &mut impl Write) -> Result<(), Error> {
    table::write_listing(listing, out)?;
    if let Some(left) = listing.unconfirmed {
        write!(out, "\n\n{}", render::unconfirmed(left)).map_err(Error::Print)?;
    }
    out.write_all(b"\n").map_err(Error::Print)
}

fn write_json(listing: &Listing, out: &mut impl Write) -> Result<(), Error> {
    serde_json::to_writer_pretty(&mut *out, listing).map_err(|error| Error::Print(error.into()))?;
    out.write_all(b"\n").map_err(Error::Print)
}

/// Looks again and again, until the reader has seen enough.
fn watch(byway: &mut Byway, what: Shown, pause: Duration, options: &Options) -> Result<Output, Error> {
    let json = options.json;
    let mut before: Option<(Status, Instant)> = None;
    loop {
        let (status, now) = (look(byway, what, options.family())?, Instant::now());
        let since =
            before.as_ref().map(|(status, then)| Since { status, seconds: (now - *then).as_secs_f64() });
        let text = text(what, &status, since.as_ref(), json)?;
        let goes_on = print(options, |out| {
            if json {
                writeln!(out, "{text}")
            } else if io::stdout().is_terminal() {
                // Overwrite what was shown before.
                writeln!(out, "\x1b[H\x1b[2J{text}")
            } else {
                write!(out, "{text}\n\n")
            }
            .map_err(Error::Print)
        })?;
        if !goes_on {
            return Ok(Output::printed());
        }
        before = Some((status, now));
        thread::sleep(pause);
    }
}

/// What is to be shown and no more, of one family if one is named.
fn look(byway: &mut Byway, what: Shown, family: Option<Family>) -> Result<Status, Error> {
    Ok(match what {
        Shown::Rule(selector) => {
            let mut status = Status::default();
            status.rules.push(byway.rule(&selector)?);
            status
        }
        Shown::All | Shown::NextHops | Shown::Attachments => {
            let mut status = byway.status()?;
            if let Some(family) = family {
                status.rules.retain(|it| it.rule.source.family() == family);
                // A next hop without a gateway takes packets of both.
                let is_of = |gateway| Family::of(gateway) == family;
                status.next_hops.retain(|it| it.next_hop.gateway.is_none_or(is_of));
            }
            status
        }
    })
}

/// What is to be shown, as text or JSON.
fn text(what: Shown, status: &Status, since: Option<&Since<'_>>, json: bool) -> Result<String, Error> {
    Ok(match (what, &status.rules[..]) {
        // Plain data always has a JSON form.
        (Shown::Rule(_), [rule]) if json => serde_json::to_string(rule).unwrap_or_default(),
        (Shown::Rule(_), [rule]) => table::rule(rule, since)?,
        _ if json => serde_json::to_string(status).unwrap_or_default(),
        (Shown::NextHops, _) => table::next_hops(&status.next_hops, since),
        (Shown::Attachments, _) => table::attachments(&status.attachments, since),
        (Shown::All | Shown::Rule(_), _) => table::listing(status, since)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_rule_is_shown_by_the_words_that_delete_it() {
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
        let others = [("", Shown::All), ("nexthops", Shown::NextHops), ("attachments", Shown::Attachments)];
        for (text, what) in others {
            assert_eq!(shown(&words(text), None), Ok(what), "{text}");
        }
        for (text, sentence) in [
            (
                "me",
                "`me` does not belong here; expected `rules`, `nexthops`, `groups`, `attachments`, or a rule's `from` and `to`",
            ),
            (
                "table 100",
                "byway has no `table`; name the next hop itself, `via ADDR dev IF`, or share it with `group NAME`",
            ),
            ("nexthops from 192.0.2.7", "`from` does not belong here; expected nothing after `nexthops`"),
            ("from", "`from` needs a source address or prefix after it"),
            ("to 10.0.0.0/8", "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`"),
            ("from 192.0.2.7 nexthops", "`nexthops` does not belong here; expected `from` or `to`"),
        ] {
            assert_eq!(shown(&words(text), None).unwrap_err().sentence(), sentence, "{text}");
        }
    }
}
