use byway::{
    Family, ReplyFlow,
    grammar::{self, GrammarError},
};
use clap::{Args, Subcommand};

use super::open::open;
use crate::{
    error::Error,
    options::Options,
    output::{Output, Stamped},
    render::{Reader, count, flows},
};

/// Show or forget the flows that `reply-to` sends back
///
/// A program on the ingress of each interface notes a flow with the way that its request came in by. The table has no
/// addresses, so it cannot be listed flow by flow: `byway get` looks one up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway flow show                      as `byway show flows`
  byway flow show dev eth1             what has come in by eth1
  byway get 192.168.1.5 to 198.51.100.9 proto tcp sport 443 dport 50000
                                       which flow this is, and where it goes
  byway flow del 192.168.1.5 to 198.51.100.9 proto tcp sport 443 dport 50000
  byway flow flush dev eth1            as `byway flush flows dev eth1`")]
pub(crate) struct Flow {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the ways that requests have come in by, and how many flows each has
    ///
    /// NEW flows have not been answered. ANSWERED ones have. Of ESTABLISHED flows more is known: the client has acknowledged the
    /// SYN-ACK, or has sent another request after an answer. AGE is the time since the youngest entry was written. A flow in use
    /// writes its entry once in a quarter of the time that it may be idle.
    #[command(visible_aliases = ["list", "ls", "lst"])]
    Show {
        /// [dev IF]
        #[arg(value_name = "DEVICE", num_args = 0..)]
        device: Vec<String>,
    },
    /// Forget one flow
    ///
    /// Its replies go the ordinary way from then on, or where `else` says, until a request begins it anew. If it is not TCP's and
    /// its next packet is this host's, byway takes it for one that this host began.
    #[command(visible_alias = "delete")]
    Del {
        /// SRC to DST proto P [sport N dport N], as its replies leave
        #[arg(value_name = "FLOW", num_args = 0..)]
        flow: Vec<String>,
    },
    /// Forget all flows, or those that have come in by an interface
    Flush {
        /// [dev IF]
        #[arg(value_name = "DEVICE", num_args = 0..)]
        device: Vec<String>,
    },
}

impl Flow {
    pub(crate) fn changes(&self) -> bool {
        !matches!(self.verb, Verb::Show { .. })
    }

    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        match &self.verb {
            Verb::Show { device } => {
                let device = device_of(device, options)?;
                let flows = open(options)?.flows(device)?;
                let text = flows::table(&flows, device.is_none(), Reader::of_stdout());
                Ok(Output::line(text, Stamped::now(&flows)))
            }
            Verb::Del { flow } => {
                let spec = grammar::flow(flow)?;
                let flow = open(options)?.del_flow(&spec)?;
                let ReplyFlow { state, way, .. } = &flow;
                let way = way.as_ref().map(|way| format!(", {way}")).unwrap_or_default();
                Ok(Output::line(format!("forgotten: {spec} ({state}{way})"), &flow))
            }
            Verb::Flush { device } => {
                let device = device_of(device, options)?;
                let forgotten = open(options)?.flush_flows(device)?;
                Ok(Output::line(
                    format!("forgotten: {}", count(forgotten, "flow")),
                    serde_json::json!({ "forgotten": forgotten }),
                ))
            }
        }
    }
}

/// `[dev IF]`
fn device_of<'a>(words: &'a [String], options: &Options) -> Result<Option<&'a str>, GrammarError> {
    let unknown =
        |word: &str, expected: &str| Err(GrammarError::Unknown(word.to_owned(), expected.to_owned()));
    if let Some(family) = options.family() {
        let word = if family == Family::V4 { "-4" } else { "-6" };
        return unknown(
            word,
            "neither `-4` nor `-6`: the table does not tell whose flows are of which family",
        );
    }
    match words {
        [] => Ok(None),
        [dev, name] if dev == "dev" => Ok(Some(name)),
        [dev] if dev == "dev" => Err(GrammarError::NoValue("dev", "an interface")),
        [dev, _, word, ..] if dev == "dev" => unknown(word, "nothing after `dev IF`"),
        [word, ..] => unknown(word, "`dev`"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::Cli;

    #[test]
    fn each_mistake_has_its_sentence() {
        for (words, sentence) in [
            ("show eth1", "`eth1` does not belong here; expected `dev`"),
            ("show dev", "`dev` needs an interface after it"),
            ("flush dev eth1 dev", "`dev` does not belong here; expected nothing after `dev IF`"),
            (
                "flush -6",
                "`-6` does not belong here; expected neither `-4` nor `-6`: the table does not tell whose flows are of which family",
            ),
        ] {
            let all = ["byway", "flow"].into_iter().chain(words.split(' '));
            let cli = Cli::try_parse_from(all).unwrap();
            let error = cli.command.unwrap().exec(&cli.options).unwrap_err();
            assert_eq!(error.to_string(), sentence, "{words}");
        }
    }
}
