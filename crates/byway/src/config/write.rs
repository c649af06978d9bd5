//! Configurations as text.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter, Write as _},
};

use super::{ActionSpec, Attach, Config};
use crate::model::{
    Asked, GroupSpec, HealthCheck, HealthCheckSpec, MemberSpec, Mss, NextHopSpec, Prefix, TargetSpec, short,
};

/// Sources on a line, so that it stays within the width of a page.
const ON_A_LINE: usize = 100;

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for rule in &self.left_out {
            writeln!(f, "# Left out, since this byway does not know its kind: {rule}")?;
        }
        match &self.attach {
            Some(Attach::Auto) => writeln!(f, "attach = \"auto\"")?,
            Some(Attach::Devices(names)) => {
                let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                writeln!(f, "attach = [{}]", names.join(", "))?;
            }
            None => {}
        }
        for group in &self.groups {
            writeln!(f)?;
            write_group(group, f)?;
        }
        // Those that say the same of other sources are written together, each where its first source has its place.
        let mut places: BTreeMap<(u32, Option<Prefix>), usize> = BTreeMap::new();
        let mut written: Vec<(u32, Option<Prefix>, Vec<Prefix>)> = Vec::new();
        for (selector, action) in &self.rules {
            let of = (*action, selector.destination());
            let place = *places.entry(of).or_insert_with(|| {
                written.push((of.0, of.1, Vec::new()));
                written.len() - 1
            });
            written[place].2.push(selector.source());
        }
        for (action, to, from) in written {
            writeln!(f)?;
            write_rule(&from, to, &self.actions[action as usize], f)?;
        }
        for spec in &self.health_checks {
            writeln!(f)?;
            write_health_check(spec, f)?;
        }
        Ok(())
    }
}

/// One group as a table.
pub(crate) fn write_group(group: &GroupSpec, f: &mut impl fmt::Write) -> fmt::Result {
    writeln!(f, "[group.{}]", key(&group.name))?;
    if !group.on_down.is_default() {
        writeln!(f, "on-down = \"{}\"", group.on_down)?;
    }
    write_members(&group.members, f)
}

/// Rules for some sources that say the same, as a table.
pub(crate) fn write_rule(
    from: &[Prefix],
    to: Option<Prefix>,
    action: &ActionSpec,
    f: &mut impl fmt::Write,
) -> fmt::Result {
    writeln!(f, "[[rule]]")?;
    if let Some(name) = &action.name {
        writeln!(f, "name = {}", quoted(name))?;
    }
    match from {
        [one] => writeln!(f, "from = \"{one}\"")?,
        several => write_sources(several, f)?,
    }
    if let Some(to) = to {
        writeln!(f, "to = \"{to}\"")?;
    }
    if !action.reply_to_dev.is_empty() {
        let names: Vec<String> = action.reply_to_dev.iter().map(|name| quoted(name)).collect();
        writeln!(f, "reply-to = [{}]", names.join(", "))?;
    } else if action.reply_to {
        writeln!(f, "reply-to = true")?;
    }
    match &action.target {
        TargetSpec::NextHop(next_hop) => write_next_hop(next_hop, f)?,
        TargetSpec::NextHops(members) => write_members(members, f)?,
        TargetSpec::Group(name) => writeln!(f, "group = {}", quoted(name))?,
        TargetSpec::Pass if action.reply_to => {}
        TargetSpec::Pass => writeln!(f, "target = \"pass\"")?,
        TargetSpec::Drop => writeln!(f, "target = \"drop\"")?,
    }
    if !action.on_down.is_default() {
        writeln!(f, "on-down = \"{}\"", action.on_down)?;
    }
    match action.mss {
        Mss::Auto => Ok(()),
        Mss::Off => writeln!(f, "mss = \"off\""),
        Mss::Bytes(bytes) => writeln!(f, "mss = {bytes}"),
    }
}

fn write_health_check(spec: &HealthCheckSpec, f: &mut impl fmt::Write) -> fmt::Result {
    let HealthCheck { asked, quorum, src, interval, timeout, fall, rise, .. } = &spec.check;
    writeln!(f, "[[health-check]]")?;
    write_next_hop(&spec.next_hop, f)?;
    let hosts: Vec<String> = asked.hosts().iter().map(|host| format!("\"{host}\"")).collect();
    let hosts = match &hosts[..] {
        [host] => host.clone(),
        hosts => format!("[{}]", hosts.join(", ")),
    };
    match asked {
        Asked::Ping(_) => writeln!(f, "ping = {hosts}")?,
        Asked::Tcp(_, port) => writeln!(f, "tcp = {hosts}\nport = {port}")?,
        Asked::Neighbour => writeln!(f, "neighbour = true")?,
    }
    if *quorum != 1 {
        writeln!(f, "quorum = {quorum}")?;
    }
    if let Some(src) = src {
        writeln!(f, "src = \"{src}\"")?;
    }
    writeln!(f, "interval = \"{}\"", short(*interval))?;
    if timeout != interval {
        writeln!(f, "timeout = \"{}\"", short(*timeout))?;
    }
    writeln!(f, "fall = {fall}\nrise = {rise}")
}

/// A next hop, a key on each line.
fn write_next_hop(next_hop: &NextHopSpec, f: &mut impl fmt::Write) -> fmt::Result {
    pairs(next_hop).iter().try_for_each(|pair| writeln!(f, "{pair}"))
}

/// `via` and `dev` of a next hop.
fn pairs(next_hop: &NextHopSpec) -> Vec<String> {
    let gateway = next_hop.gateway().map(|it| it.to_string());
    let via = gateway.or(next_hop.learned().map(|it| it.to_string()));
    let via = via.map(|via| format!("via = \"{via}\""));
    let dev = next_hop.device().map(|device| format!("dev = {}", quoted(device)));
    via.into_iter().chain(dev).collect()
}

fn write_sources(sources: &[Prefix], f: &mut impl fmt::Write) -> fmt::Result {
    writeln!(f, "from = [")?;
    let mut line = String::new();
    for source in sources {
        // The longest prefix, in quotes, with what is around it.
        if line.len() + 50 > ON_A_LINE {
            writeln!(f, "   {line}")?;
            line.clear();
        }
        write!(line, " \"{source}\",")?;
    }
    writeln!(f, "   {line}\n]")
}

fn write_members(members: &[MemberSpec], f: &mut impl fmt::Write) -> fmt::Result {
    writeln!(f, "nexthops = [")?;
    for MemberSpec { next_hop, weight, is_backup } in members {
        let weight = (*weight != 1).then(|| format!("weight = {weight}"));
        let backup = is_backup.then(|| "backup = true".to_owned());
        let pairs: Vec<String> = pairs(next_hop).into_iter().chain(weight).chain(backup).collect();
        writeln!(f, "    {{ {} }},", pairs.join(", "))?;
    }
    writeln!(f, "]")
}

/// A string in quotes.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A key, in quotes where it needs them.
fn key(name: &str) -> String {
    let is_l3 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.bytes().all(is_l3) && !name.is_empty() { name.to_owned() } else { quoted(name) }
}
