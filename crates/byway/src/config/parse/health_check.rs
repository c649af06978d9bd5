//! Health checks of next hops.

use std::{net::IpAddr, ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{CHECK_KEYS, HEALTH_CHECK_KEYS, Parser, get};
use crate::{
    config::values::Value,
    model::{Asked, HealthCheck, HealthCheckSpec, Owner},
};

impl Parser<'_> {
    pub(super) fn health_checks(&mut self, value: Value<'_, '_>) {
        let DeValue::Array(checks) = value.get_ref() else {
            let is = "an array of tables, each written `[[health-check]]`";
            return self.notes().wrong_type("health-check", value, is);
        };
        for check in checks.iter() {
            let Some(table) = self.table("health-check", check) else { continue };
            let known = self.draft.host_refs.len();
            let spec = self.health_check(table, check.span());
            // The rule or the group says the same of the host.
            self.draft.host_refs.truncate(known);
            if let Some(spec) = spec {
                let place = self.notes().place(check.span());
                self.draft.health_checks.push((spec, place));
            }
        }
    }

    fn health_check(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<HealthCheckSpec> {
        let has_unknown = self.notes().unknown_keys(table, HEALTH_CHECK_KEYS, "a health check");
        let check = self.check(table, span.clone(), has_unknown);
        let of_next_hop = get(table, "via").or(get(table, "dev")).map_or(span.clone(), Spanned::span);
        let spec = HealthCheckSpec::new(self.next_hop(table, of_next_hop)?, check?);
        if let Err(error) = spec.check() {
            self.refuse(span, &error);
            return None;
        }
        Some(spec)
    }

    /// The health check of `[defaults]`.
    pub(super) fn default_health_check(&mut self, value: Value<'_, '_>) {
        let Some(table) = self.table("health-check", value) else { return };
        let has_unknown = self.notes().unknown_keys(table, CHECK_KEYS, "a health check of `[defaults]`");
        let place = self.notes().place(value.span());
        if let Some(check) = self.check(table, value.span(), has_unknown) {
            self.draft.default_health_checks.push((check, place));
        }
    }

    /// A check, whose next hop is said elsewhere.
    fn check(&mut self, table: &DeTable<'_>, span: Range<usize>, has_unknown: bool) -> Option<HealthCheck> {
        let asked = self.asked(table, span.clone(), has_unknown)?;
        let mut check = HealthCheck { owner: Owner::CONFIG, ..HealthCheck::new(asked) };
        let mut is_right = true;
        if let Some(interval) = self.time(table, "interval", &mut is_right) {
            check = check.interval(interval);
        }
        if let Some(timeout) = self.time(table, "timeout", &mut is_right) {
            check.timeout = timeout;
        }
        for (key, number) in
            [("quorum", &mut check.quorum), ("fall", &mut check.fall), ("rise", &mut check.rise)]
        {
            let Some(value) = get(table, key) else { continue };
            match self.notes().number(key, value, "a number from 1 to 255") {
                Some(said) => *number = said,
                None => is_right = false,
            }
        }
        if let Some(value) = get(table, "src") {
            check.src = self.host("src", value);
            is_right &= check.src.is_some();
        }
        if !is_right {
            return None;
        }
        if let Err(error) = check.check() {
            self.refuse(span, &error);
            return None;
        }
        Some(check)
    }

    /// What it asks, and whom. `has_unknown` says that a key that is missing may be a misspelt one.
    fn asked(&mut self, table: &DeTable<'_>, span: Range<usize>, has_unknown: bool) -> Option<Asked> {
        let port = match get(table, "port") {
            Some(value) => Some(self.notes().number("port", value, "a number from 1 to 65535")?),
            None => None,
        };
        let neighbour = match get(table, "neighbour") {
            Some(value) => self.notes().boolean("neighbour", value)?,
            None => false,
        };
        let (message, help) = match (get(table, "ping"), get(table, "tcp"), neighbour, port) {
            (Some(value), None, false, None) => return self.hosts("ping", value).map(Asked::Ping),
            (None, Some(value), false, Some(port)) => {
                return self.hosts("tcp", value).map(|hosts| Asked::Tcp(hosts, port));
            }
            (None, None, true, None) => return Some(Asked::Neighbour),
            _ if has_unknown => return None,
            (None, None, false, None) => (
                "a health check needs somebody to ask",
                "write `ping = \"198.51.100.1\"` with a host behind the next hop, or `neighbour = true` for the gateway itself",
            ),
            (None, Some(_), false, None) => ("`tcp` needs a port", "write `port = 443` beside it"),
            (_, None, _, Some(_)) => ("`port` is of no use without `tcp`", "leave it out, or ask with `tcp`"),
            _ => ("a health check asks in one way", "write one of `ping`, `tcp` and `neighbour`"),
        };
        self.notes().wrong(span, message, Some(help));
        None
    }

    /// One host, or a list of them.
    fn hosts(&mut self, key: &str, value: Value<'_, '_>) -> Option<Vec<IpAddr>> {
        match value.get_ref() {
            DeValue::Array(hosts) => hosts.iter().map(|host| self.host(key, host)).collect(),
            _ => self.host(key, value).map(|host| vec![host]),
        }
    }

    fn host(&mut self, key: &str, value: Value<'_, '_>) -> Option<IpAddr> {
        let text = self.notes().string(key, value)?;
        let parsed = text.parse();
        if parsed.is_err() {
            let message = format!("`{text}` is not an IPv4 or IPv6 address");
            let help = "a name needs a resolver, which the next hop may be the way to: write the address";
            self.notes().wrong(value.span(), &message, Some(help));
        }
        parsed.ok()
    }

    /// A time in words. Without one, or if it is wrong, returns `None`.
    fn time(&mut self, table: &DeTable<'_>, key: &str, is_right: &mut bool) -> Option<Duration> {
        let value = get(table, key)?;
        let text = self.notes().string(key, value);
        let parsed = text.and_then(|text| humantime::parse_duration(text).ok());
        if let (Some(text), None) = (text, parsed) {
            let message = format!("`{text}` is not a time");
            let help = format!("write it like `{key} = \"100ms\"`");
            self.notes().wrong(value.span(), &message, Some(&help));
        }
        *is_right &= parsed.is_some();
        parsed
    }
}
