//! The local time, for people.

use std::{env, time::SystemTime};

use tz::{DateTime, TimeZone};

/// Returns the local time, like `2026-11-29 18:00:19`. Where nobody says what the time zone is, it is UTC.
pub(crate) fn local_time() -> String {
    // What `TZ` does not say, this file does (tzset(3)).
    let zone = env::var("TZ").unwrap_or_else(|_| "localtime".to_owned());
    in_zone(SystemTime::now(), &TimeZone::from_posix_tz(&zone).unwrap_or_else(|_| TimeZone::utc()))
}

fn in_zone(time: SystemTime, zone: &TimeZone) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let local = i64::try_from(seconds).ok().and_then(|it| DateTime::from_timespec(it, 0, zone.as_ref()).ok());
    local.map_or_else(String::new, |it| {
        let (month, day) = (it.month(), it.month_day());
        format!("{}-{month:02}-{day:02} {:02}:{:02}:{:02}", it.year(), it.hour(), it.minute(), it.second())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_that_of_its_zone() {
        let summer = SystemTime::UNIX_EPOCH + Duration::from_secs(1_782_907_205);
        for (zone, time) in [
            ("UTC0", "2026-07-01 12:00:05"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-07-01 14:00:05"),
            ("NST3:30", "2026-07-01 08:30:05"),
        ] {
            assert_eq!(in_zone(summer, &TimeZone::from_posix_tz(zone).unwrap()), time, "{zone}");
        }
    }
}
