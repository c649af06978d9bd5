//! Health checks of next hops.

use std::{net::IpAddr, ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{HEALTH_CHECK_KEYS, Parser, get};
use crate::{
    config::values::Value,
    model::{HealthCheck, HealthCheckSpec, Owner},
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
        let ping = match get(table, "ping") {
            Some(value) => self.hosts(value),
            None if has_unknown => None,
            None => {
                let help = "write `ping = \"198.51.100.1\"` with a host behind the next hop";
                self.notes().wrong(span.clone(), "a health check needs hosts to ask", Some(help));
                None
            }
        };
        let of_next_hop = get(table, "via").or(get(table, "dev")).map_or(span.clone(), Spanned::span);
        let next_hop = self.next_hop(table, of_next_hop);
        let mut check = HealthCheck { owner: Owner::CONFIG, ..HealthCheck::ping(ping?) };
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
        Some(HealthCheckSpec::new(next_hop?, check))
    }

    /// One host, or a list of them.
    fn hosts(&mut self, value: Value<'_, '_>) -> Option<Vec<IpAddr>> {
        match value.get_ref() {
            DeValue::Array(hosts) => hosts.iter().map(|host| self.host("ping", host)).collect(),
            _ => self.host("ping", value).map(|host| vec![host]),
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
