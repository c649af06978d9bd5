//! What has no equivalent: why, and what to do instead.

use super::policy::{Action, Condition, PolicyRule};
use crate::model::Selector;

/// Why Byway has no rule in place of an entry, and what to do about it. `None` if it has one.
pub(crate) fn why(rule: &PolicyRule) -> Option<String> {
    if let Some(reason) = of_conditions(&rule.conditions) {
        return Some(reason.to_owned());
    }
    if let Err(error) = Selector::new(rule.source, Some(rule.destination)).check()
        && !rule.is_inverted()
    {
        return Some(format!("No equivalent: {}.", error.sentence()));
    }
    match rule.action {
        Action::L3mdev => Some(
            "No equivalent: it sends the packets of VRF devices to their own tables, and Byway does not take the \
             place of VRFs. Keep it."
                .to_owned(),
        ),
        Action::Goto(_) => Some(
            "No equivalent, and none needed: Byway's rules have no order, so there is nothing to jump over. The \
             other rules here say what comes out with the jump."
                .to_owned(),
        ),
        Action::Nop => Some(
            "No equivalent, and none needed: it does nothing but be the target of a jump, and Byway's rules have \
             no order."
                .to_owned(),
        ),
        Action::Other(_) => Some(
            "No equivalent: Byway's rules send packets on, leave them alone or drop them, and do nothing else. Linux \
             has not translated addresses by rules since 2.6; use nftables for that."
                .to_owned(),
        ),
        Action::Lookup { .. } | Action::Refuse(_) => None,
    }
}

/// Whether the written rules do the entry's part as well, so that it may be deleted with the others.
pub(crate) fn is_followed(rule: &PolicyRule) -> bool {
    let is_plain = rule.conditions.iter().all(|condition| *condition == Condition::Not);
    is_plain && has_place(rule) && !matches!(rule.action, Action::L3mdev | Action::Other(_))
}

/// Whether the entry is for any packet that a rule of Byway's may match.
pub(crate) fn has_place(rule: &PolicyRule) -> bool {
    rule.is_inverted() || Selector::new(rule.source, Some(rule.destination)).check().is_ok()
}

fn of_conditions(conditions: &[Condition]) -> Option<&'static str> {
    let has = |wanted: fn(&Condition) -> bool| conditions.iter().any(wanted);
    let (is_not, is_fwmark) =
        (has(|it| *it == Condition::Not), has(|it| matches!(it, Condition::Fwmark { .. })));
    if is_not && is_fwmark {
        return Some(
            "No equivalent: this is how VPNs such as wg-quick send everything into the tunnel except the tunnel's own \
             packets, which bear the mark, and Byway's rules know no marks. Leave it to the VPN; what it sends into \
             the tunnel Byway does not see. To send certain sources into the tunnel, write a rule for those.",
        );
    }
    // Where there are several, one is enough to say no.
    let reason = match conditions.iter().find(|condition| **condition != Condition::Not) {
        Some(Condition::Fwmark { .. }) => {
            "No equivalent: Byway's rules know addresses, and no marks. Where the mark says which way a connection has \
             come in (a connmark, as mwan3 and pbr set it), a rule with `reply-to` sends the replies back without it. \
             Where it is set by source address, a rule for that source does it. Else keep this entry: what it routes to \
             another interface, Byway does not see."
        }
        Some(Condition::Iif(_)) => {
            "No equivalent: Byway decides where packets leave, whichever way they came in. If this is for replies, a \
             rule with `reply-to` does it, or one for the address that is answered from. If it is for packets that the host forwards, a rule \
             for their sources does, else keep this entry."
        }
        Some(Condition::Oif(_)) => {
            "No equivalent: it is for sockets that are bound to a device (SO_BINDTODEVICE), which leave by that device \
             in any case. Keep it if programs do that; or have them bind to an address, and write a rule for it."
        }
        Some(Condition::IpProtocol(_) | Condition::SourcePorts(..) | Condition::DestinationPorts(..)) => {
            "No equivalent: Byway's rules tell addresses apart, and no protocols or ports. Give the service an address \
             of its own and write a rule for it, or keep this entry."
        }
        Some(Condition::Uids(..)) => {
            "No equivalent: at the egress of an interface nobody knows which user has sent a packet. Have the user's \
             programs bind to an address of their own and write a rule for it, or keep this entry."
        }
        Some(Condition::Tos(_) | Condition::Unknown(25)) => {
            "No equivalent: Byway's rules tell addresses apart, and no classes of service. Keep this entry."
        }
        Some(Condition::Tunnel(_)) => {
            "No equivalent: Byway's rules know addresses, and no tunnels' identities. Keep this entry."
        }
        Some(Condition::Unknown(_)) => {
            "No equivalent: it asks for something that this version of Byway does not know. Keep this entry."
        }
        Some(Condition::Not) | None => return None,
    };
    Some(reason)
}
