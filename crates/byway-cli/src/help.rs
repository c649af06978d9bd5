//! What to do about an error of the library, as a command where there is one.

use byway::{Error, FlowError, FlowSpec, Obstacle, Selector, grammar::GrammarError};

/// What is wrong and what to do.
pub(crate) fn sentence(error: &Error) -> String {
    let wrong = match error {
        Error::NotUndone { failure, undo } => {
            format!("{}; and it could not be undone: {}", sentence(failure), sentence(undo))
        }
        error => error.to_string(),
    };
    match command(error).or_else(|| error.help()) {
        Some(help) => format!("{wrong}; {help}"),
        None => wrong,
    }
}

/// What to do, where that is a command.
fn command(error: &Error) -> Option<String> {
    let help = match error {
        Error::Flow(FlowError::Echo(_)) => "`byway flow flush` forgets all flows",
        Error::RuleOfAnother(rule) => {
            return Some(format!("delete it first: `byway del {}`", rule.selector()));
        }
        Error::GroupOfAnother(group) => {
            return Some(format!("delete it first, `byway group del {}`, or take another name", group.name));
        }
        Error::GroupExists(_) => "use `byway group replace` to change it",
        Error::NoSuchRule(_) => "`byway show` lists the rules",
        Error::NoSuchFlow(_) => "`byway show flows` shows the ways that requests have come in by",
        Error::TooManyAttachments { .. } => "detach from others first: `byway detach NAME`",
        Error::TooManyGroups { .. } => "make rules share a group: `byway group add`",
        Error::Unconfirmed => "confirm it with `byway confirm`, or roll it back with `byway rollback`",
        Error::TooLateToConfirm => "roll it back with `byway rollback`, and apply again",
        Error::DamagedNote { .. } => {
            "`byway confirm` keeps what is in force, `byway rollback` undoes the last apply, and either removes the note"
        }
        Error::DamagedCopy { .. } => {
            "nothing has changed; if the apply waits to be confirmed, `byway confirm` keeps it; the next `byway apply` replaces the copy"
        }
        Error::NoSuchGroup(_) => "`byway group show` lists them, and `byway group add` adds one",
        Error::NoSuchNextHop(_) => "`byway show nexthops` lists the next hops in use",
        Error::NoDefaultRoute => "name the interface: `byway attach dev IF`",
        Error::NotAttached(_) => "`byway show` lists attachments as `departure`",
        Error::BpffsHidden(namespace) => {
            return Some(format!("run it outside instead: `byway --netns {namespace} ...`"));
        }
        Error::OlderSchema { .. } => {
            "the next change, such as `byway apply` or `byway attach`, takes them over with all rules and counters"
        }
        Error::Damaged { path, .. } | Error::MissingPin { folder: path, .. } => {
            return Some(format!(
                "remove the pins with `rm -r {}`, and add the rules again, for example with `byway apply`",
                path.display()
            ));
        }
        _ => return None,
    };
    Some(help.to_owned())
}

/// What is in the way of rules, and what to do.
pub(crate) fn of_obstacle(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::NotAttached { device, .. } => {
            format!("{obstacle}; attach there as well: `byway attach dev {}`", device.name)
        }
        obstacle => obstacle.sentence(),
    }
}

/// How to find the rules for packets that have none of their own.
pub(crate) fn of_others(selector: &Selector) -> String {
    let (source, destination) = (selector.source(), selector.destination());
    if !source.is_host() || destination.is_some_and(|it| !it.is_host()) {
        return format!("`byway show covering {source}` lists them");
    }
    let mut flow = FlowSpec::new(source.address());
    flow.destination = destination.map(|it| it.address());
    format!("`byway get {flow}` says which one decides")
}

/// What is wrong with words.
pub(crate) fn of_words(error: &GrammarError) -> String {
    match error {
        GrammarError::NoFamily(_) => {
            format!("{error}; write one of them, or say which with `-4` or `-6`; two rules cover both")
        }
        GrammarError::NoGroup => {
            "a group needs a name, like `byway group add uplinks nexthop ...`".to_owned()
        }
        GrammarError::NotHere("oif", _) => {
            format!(
                "{error}; `byway attach dev IF` says which egress follows the rules, and `dev IF` where packets go"
            )
        }
        GrammarError::NotHere("proto" | "protocol", _) => {
            format!("{error}; leave it out; `byway show` says who owns a rule, and `name NAME` names it")
        }
        GrammarError::Flow(FlowError::NoSource) => {
            "name the source address of the packet, like `byway get 192.0.2.7 to 198.51.100.9`".to_owned()
        }
        error => error.sentence(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_iproute2_leads_to_a_command() {
        let of = |word| of_words(&byway::grammar::rule(&["from", "192.0.2.7", word, "1"]).unwrap_err());
        let egress =
            "`byway attach dev IF` says which egress follows the rules, and `dev IF` where packets go";
        assert_eq!(of("oif"), format!("byway has no `oif`; {egress}"));
        let owner = "leave it out; `byway show` says who owns a rule, and `name NAME` names it";
        assert_eq!(of("proto"), format!("byway has no `proto`; {owner}"));
    }

    #[test]
    fn a_command_stands_where_there_is_one() {
        let error = Error::NoSuchGroup("up".into());
        let with_command =
            "there is no group `up`; `byway group show` lists them, and `byway group add` adds one";
        assert_eq!(sentence(&error), with_command);
        let other = Error::Loopback("lo".into());
        let without = "lo is the loopback device, which no packet leaves by; name another device";
        assert_eq!(sentence(&other), without);
        let both = Error::NotUndone { failure: Box::new(error), undo: Box::new(other) };
        assert_eq!(
            sentence(&both),
            format!(
                "{with_command}; and it could not be undone: {without}; byway's next change tidies up what is left"
            )
        );
    }
}
