//! From data to what people read.

pub(crate) mod cells;
pub(crate) mod changes;
mod columns;
pub(crate) mod flows;
pub(crate) mod get;
pub(crate) mod metrics;
pub(crate) mod problems;
pub(crate) mod progress;
mod rules;
mod screen;
pub(crate) mod table;
mod window;

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal},
    time::Duration,
};

use byway::{Device, Mss, MtuMismatch};
pub(crate) use screen::Screen;
pub(crate) use window::Window;

/// Who reads a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A person, at a terminal: columns that say nothing are left out, and numbers are grouped.
    Person,
    /// A program, or a file: the same columns in any case, and each cell is one word.
    Program,
}

impl Reader {
    pub(crate) fn of_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Person } else { Self::Program }
    }

    fn number(self, number: u64) -> String {
        match self {
            Self::Person => thousands(number).to_string(),
            Self::Program => number.to_string(),
        }
    }

    /// `1,204 rules`
    fn count(self, number: u64, noun: &str) -> String {
        format!("{} {noun}{}", self.number(number), if number == 1 { "" } else { "s" })
    }

    /// `1,204 rules`, or `3 of 1,204 rules`
    fn count_of(self, number: usize, all: usize, noun: &str) -> String {
        let of = if number == all { String::new() } else { format!("{} of ", self.number(number as u64)) };
        of + &self.count(all as u64, noun)
    }
}

/// `eth0`, `eth0 and eth1`, `eth0, eth1 and eth2`
pub(crate) fn names(devices: &[Device]) -> String {
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [name] => (*name).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Says what happens to packets that are too big for a next hop.
pub(crate) fn mtu_mismatch(mismatch: &MtuMismatch, mss: Mss) -> String {
    let tcp = match mss {
        Mss::Auto => "TCP's MSS is clamped to fit".to_owned(),
        Mss::Off => "TCP's MSS is left alone".to_owned(),
        Mss::Bytes(bytes) => format!("TCP's MSS is clamped to {bytes}"),
        other => format!("TCP's MSS follows `mss {other}`"),
    };
    format!(
        "{} takes packets of {} bytes, {} of {}: {tcp}, and packets that are too big get an ICMP error",
        mismatch.next_hop.device.name, mismatch.mtu, mismatch.attachment.name, mismatch.attachment_mtu
    )
}

/// `1 rule`, `1,204 rules`
pub(crate) fn count(number: u64, noun: &str) -> String {
    Reader::Person.count(number, noun)
}

/// `1,204`
pub(crate) fn thousands(number: u64) -> impl Display {
    Thousands(number)
}

struct Thousands(u64);

impl Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = *self;
        if number < 1_000 {
            return number.fmt(f);
        }
        write!(f, "{},{:03}", Self(number / 1_000), number % 1_000)
    }
}

/// Says that the last apply is waiting to be confirmed, and for how long.
pub(crate) fn unconfirmed(left: Duration) -> String {
    match whole_seconds(left) {
        0 => "nobody confirmed the last apply in time; `byway rollback` rolls it back".to_owned(),
        seconds => format!(
            "the last apply is still waiting to be confirmed, {seconds} s left; `byway confirm` keeps it"
        ),
    }
}

/// Rounds up.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (12_345, "12,345")];
        for (number, text) in cases {
            assert_eq!(thousands(number).to_string(), text);
        }
        assert_eq!(count(1, "rule"), "1 rule");
        assert_eq!(count(1_204, "packet"), "1,204 packets");
    }
}
