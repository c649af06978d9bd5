//! What a rule does with its packets, and the next hops of rules and groups.

use std::{collections::BTreeSet, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{NEXT_HOP_KEYS, Parser, get};
use crate::{
    config::{ActionSpec, draft::HostRef, problem::Place, values::Value},
    grammar::GrammarError,
    model::{
        Learned, MSS_MAX, MSS_MIN, MemberSpec, Mss, NextHopSpec, OnDown, RuleError, TargetSpec, WEIGHT_MAX,
        check_action, check_gateway, check_mss, check_name, check_on_down, check_weight,
    },
};

impl Parser<'_> {
    /// What a rule does with its packets.
    pub(super) fn action(
        &mut self,
        table: &DeTable<'_>,
        span: Range<usize>,
        has_unknown: bool,
    ) -> Option<ActionSpec> {
        let reply_to = self.reply_to(table);
        let may_have_none = reply_to.as_ref().is_none_or(|(reply_to, _)| *reply_to);
        let target = self.target(table, span.clone(), has_unknown, may_have_none);
        let on_down = self.on_down(table);
        let mss = self.mss(table);
        let name = get(table, "name").map(|value| self.notes().string("name", value).map(str::to_owned));
        let (target, (reply_to, reply_to_dev)) = (target?, reply_to?);
        let may_be_down = matches!(target, TargetSpec::NextHop(_) | TargetSpec::NextHops(_));
        let leads_on = reply_to || !matches!(target, TargetSpec::Pass | TargetSpec::Drop);
        let on_down = on_down.unwrap_or(if may_be_down { self.defaults.on_down } else { OnDown::Pass });
        let mss = mss.unwrap_or(if leads_on { self.defaults.mss } else { Mss::Auto });
        let name = match name {
            Some(name) => Some(name?),
            None => None,
        };
        let of_keys = [
            ("on-down", check_on_down(reply_to, &target, on_down)),
            ("mss", check_mss(reply_to, &target, mss)),
            ("name", name.as_deref().map_or(Ok(()), check_name)),
        ];
        let mut wrong: Vec<_> = of_keys.into_iter().filter_map(|(key, is)| Some((key, is.err()?))).collect();
        if wrong.is_empty()
            && let Err(error) = check_action(reply_to, &target, on_down, mss, name.as_deref())
        {
            wrong.push(("nexthops", error));
        }
        let is_right = wrong.is_empty();
        for (key, error) in wrong {
            let at = get(table, key).map_or(span.clone(), Spanned::span);
            self.refuse(at, &error);
        }
        is_right.then_some(ActionSpec { reply_to, reply_to_dev, target, on_down, mss, name })
    }

    /// Whether replies go back, and those of which devices' requests. `None` if the value is wrong.
    fn reply_to(&mut self, table: &DeTable<'_>) -> Option<(bool, BTreeSet<String>)> {
        let Some(value) = get(table, "reply-to") else { return Some((false, BTreeSet::new())) };
        let devices = match value.get_ref() {
            DeValue::Boolean(reply_to) => return Some((*reply_to, BTreeSet::new())),
            DeValue::Array(all) if !all.is_empty() => all,
            _ => {
                self.notes().wrong_type("reply-to", value, "`true`, `false` or a list of devices");
                return None;
            }
        };
        let mut device = |value: Value<'_, '_>| {
            let name = self.notes().string("reply-to", value)?.to_owned();
            let place = self.notes().place(value.span());
            self.draft.host_refs.push((HostRef::Receiver(name.clone()), place));
            Some(name)
        };
        let devices: Vec<Option<String>> = devices.iter().map(&mut device).collect();
        devices.into_iter().collect::<Option<_>>().map(|devices| (true, devices))
    }

    fn target(
        &mut self,
        table: &DeTable<'_>,
        span: Range<usize>,
        has_unknown: bool,
        reply_to: bool,
    ) -> Option<TargetSpec> {
        let said: Vec<(&str, Value<'_, '_>)> = ["target", "group", "nexthops", "via", "dev"]
            .into_iter()
            .filter_map(|key| Some((key, get(table, key)?)))
            .collect();
        match said[..] {
            [] if reply_to => Some(TargetSpec::Pass),
            [] if has_unknown => None,
            [] => {
                let help = "write `via`, `dev`, `nexthops`, `group`, `reply-to = true`, or `target = \"pass\"` or `\"drop\"`";
                self.notes().wrong(span, "a rule needs a target", Some(help));
                None
            }
            [("target", value)] => match self.notes().string("target", value)? {
                "pass" => Some(TargetSpec::Pass),
                "drop" => Some(TargetSpec::Drop),
                other => {
                    let message = format!("`target = \"{other}\"` is not valid");
                    let help = "write `\"pass\"` or `\"drop\"`, name next hops with `via`, `dev`, `nexthops` or `group`, or \
                                write `reply-to = true`";
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
    pub(super) fn next_hop(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<NextHopSpec> {
        let via = match get(table, "via") {
            Some(value) => Some((self.notes().string("via", value)?, value.span())),
            None => None,
        };
        let device = match get(table, "dev") {
            Some(value) => Some(self.notes().string("dev", value)?.to_owned()),
            None => None,
        };
        let next_hop = match (via, device) {
            (None, Some(device)) => NextHopSpec::Dev(device),
            (None, None) => {
                self.notes().wrong(span, "a next hop needs `via`, `dev` or both", Some("name the gateway"));
                return None;
            }
            (Some((text, of_via)), device) => match (Learned::named(text), text.parse(), device) {
                (Some(learned), _, Some(device)) => NextHopSpec::Learned(learned, device),
                (Some(learned), _, None) => {
                    let error = GrammarError::NoDevice(learned);
                    self.notes().wrong(of_via, &error.to_string(), error.help().as_deref());
                    return None;
                }
                (None, Ok(gateway), Some(device)) => NextHopSpec::ViaDev(gateway, device),
                (None, Ok(gateway), None) => NextHopSpec::Via(gateway),
                (None, Err(_), _) => {
                    let message = format!("`{text}` is not an IPv4 or IPv6 address");
                    let help = match text.contains(['.', ':']) {
                        true => "write it like `via = \"192.0.2.1\"`",
                        false => {
                            "write it like `via = \"192.0.2.1\"`, or `dhcp` or `ra` for the gateway that the host learns"
                        }
                    };
                    self.notes().wrong(of_via, &message, Some(help));
                    return None;
                }
            },
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

    pub(super) fn members(&mut self, table: &DeTable<'_>) -> Option<Vec<MemberSpec>> {
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
        if !members.is_empty() && members.iter().all(|member| member.is_backup) {
            self.refuse(value.span(), &RuleError::OnlyBackups);
            is_right = false;
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
        let is_backup = match get(table, "backup") {
            Some(value) => self.notes().boolean("backup", value)?,
            None => false,
        };
        let member = MemberSpec { next_hop, weight, is_backup };
        if let Err(error) = check_weight(&member) {
            let at = get(table, "weight").map_or(value.span(), Spanned::span);
            self.refuse(at, &error);
            return None;
        }
        Some(member)
    }

    pub(super) fn on_down(&mut self, table: &DeTable<'_>) -> Option<OnDown> {
        let value = get(table, "on-down")?;
        let text = self.notes().string("on-down", value)?;
        let refused = |error: GrammarError| {
            self.notes().wrong(value.span(), &error.to_string(), error.help().as_deref());
        };
        text.parse().map_err(refused).ok()
    }

    pub(super) fn mss(&mut self, table: &DeTable<'_>) -> Option<Mss> {
        let value = get(table, "mss")?;
        let mss = match value.get_ref().as_str().and_then(|text| text.parse().ok()) {
            Some(word @ (Mss::Auto | Mss::Off)) => word,
            // TOML has numbers of its own, so one in quotes is a mistake.
            Some(Mss::Bytes(_)) | None => {
                let is = format!("\"auto\", \"off\" or a number of bytes from {MSS_MIN} to {MSS_MAX}");
                self.notes().number("mss", value, &is)?
            }
        };
        mss.check().map_err(|error| self.refuse(value.span(), &error)).ok()?;
        Some(mss)
    }
}
