//! When a timer fires.
//!
//! ```text
//! @every 1h30m                     so long after its origin, and again
//! 0 30 2 * * MON-FRI               second minute hour day month weekday (1 or MON is Monday, 7 or 0 Sunday), in UTC
//! 0 30 2 * * MON-FRI 2030          and year
//! CRON_TZ=Asia/Shanghai 0 30 2 * * MON-FRI      in a time zone (also TZ=)
//! ```
//!
//! There is no clock in here: the caller asks for the tick after a time, so a test can step through years. Time zones are those of
//! the database in the binary: a schedule means the same on every machine.
//!
//! Where clocks change: a time of day that is skipped fires when the clocks have changed, one that comes twice fires at the first;
//! a pattern with several seconds, minutes or hours is an interval, and fires whenever the wall clock matches it.

mod local;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use local::Local;

/// The text, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Why a text is no schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// More than a schedule has.
    #[error("a schedule of {0} bytes, over the limit of {MAX_TEXT_BYTES}")]
    TooLong(usize),
    /// It begins with `@` and is not `@every`.
    #[error("{0}: of the words with @ only `@every DURATION` is known; write the six fields")]
    Word(String),
    /// What follows `@every`.
    #[error("the duration {0:?} is not like 1h30m, 4m or 30s, of whole numbers and at least 1s")]
    Duration(String),
    /// No such time zone.
    #[error("there is no time zone {0:?}: name it as in Asia/Shanghai")]
    TimeZone(String),
    /// As many fields as cron has elsewhere, or any other number.
    #[error(
        "{0} fields: write six, second minute hour day month weekday, such as `0 */5 * * * *` (a seventh is the year)"
    )]
    Fields(usize),
    /// A field is not understood.
    #[error("the pattern {pattern:?} is not understood: {reason}")]
    Pattern {
        /// The fields.
        pattern: String,
        /// What the parser says of it.
        reason: String,
    },
}

/// When a timer fires.
#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    /// So long after the origin, and again.
    Every(SignedDuration),
    /// When the wall clock of a time zone matches.
    Cron(Box<Cron>, TimeZone),
}

impl Schedule {
    /// Of a trigger's `cronExpression`.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub(crate) fn parse(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(ScheduleError::TooLong(text.len()));
        }
        let text = text.trim();
        if let Some(word) = text.strip_prefix('@') {
            return match word.split_once(char::is_whitespace) {
                Some(("every", duration)) => every(duration.trim()),
                _ => Err(ScheduleError::Word(text.to_owned())),
            };
        }
        let (zone, fields) = zone(text)?;
        Ok(Self::Cron(Box::new(cron(fields)?), zone))
    }

    /// The first tick after `after`; none when there is no more. `origin` is when the timer was set, which only `@every` looks at.
    ///
    /// A pattern that never matches costs a search through the days of some three thousand years, which is milliseconds.
    pub(crate) fn next(&self, after: Timestamp, origin: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(period) => next_period(*period, after, origin),
            Self::Cron(cron, zone) => {
                // Ticks are at whole seconds, so none is lost by beginning at one.
                let start = after.max(Timestamp::UNIX_EPOCH).as_second();
                let start = Timestamp::from_second(start).ok()?;
                let start = Local::new(start.to_zoned_datetime(zone.clone()));
                let tick = cron.find_next_occurrence(&start, false).ok()?;
                Some(tick.timestamp())
            }
        }
    }
}

fn next_period(period: SignedDuration, after: Timestamp, origin: Timestamp) -> Option<Timestamp> {
    let passed = after.duration_since(origin).as_nanos();
    let ticks = passed.div_euclid(period.as_nanos()).max(0) + 1;
    let nanos = ticks.checked_mul(period.as_nanos())?;
    let offset = SignedDuration::from_nanos_i128(nanos);
    origin.checked_add(offset).ok()
}

/// `1h30m`.
fn every(text: &str) -> Result<Schedule, ScheduleError> {
    let seconds = seconds(text).filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| ScheduleError::Duration(text.to_owned()))?;
    Ok(Schedule::Every(SignedDuration::from_secs(seconds)))
}

fn seconds(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = match tail.bytes().next()? {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        let number: i64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &tail[1..];
    }
    Some(total)
}

/// The time zone that a text begins with, and its rest.
fn zone(text: &str) -> Result<(TimeZone, &str), ScheduleError> {
    let named = text
        .strip_prefix("CRON_TZ=")
        .or_else(|| text.strip_prefix("TZ="));
    let Some(named) = named else {
        return Ok((TimeZone::UTC, text));
    };
    let (name, fields) = named.split_once(char::is_whitespace).unwrap_or((named, ""));
    let zone = TimeZoneDatabase::bundled()
        .get(name)
        .map_err(|_| ScheduleError::TimeZone(name.to_owned()))?;
    Ok((zone, fields))
}

fn cron(fields: &str) -> Result<Cron, ScheduleError> {
    let count = fields.split_whitespace().count();
    if !(6..=7).contains(&count) {
        return Err(ScheduleError::Fields(count));
    }
    let refused = |reason: String| ScheduleError::Pattern {
        pattern: fields.to_owned(),
        reason,
    };
    let parser = CronParser::builder()
        .seconds(Seconds::Required)
        // `0/5`, as the service's own examples have it.
        .sloppy_ranges(true)
        .build();
    let cron = parser
        .parse(fields)
        .map_err(|error| refused(error.to_string()))?;
    // Fields like `,` name nothing, and the search would go through every minute there is.
    let of = &cron.pattern;
    let parts = [
        ("second", &of.seconds),
        ("minute", &of.minutes),
        ("hour", &of.hours),
        ("month", &of.months),
        ("year", &of.years),
    ];
    match parts.iter().find(|(_, part)| part.values().is_empty()) {
        Some((name, _)) => Err(refused(format!("no {name} in it"))),
        None => Ok(cron),
    }
}

#[cfg(test)]
mod tests;
