//! What the search for a tick has to know of a time: the wall clock of its time zone.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::{CivilDateTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::AmbiguousOffset;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// A time as the search sees it. (The crate's own support is for another major version of jiff.)
#[derive(Clone, Debug)]
pub(super) struct Local(ZonedDateTime);

impl Local {
    pub(super) const fn new(zoned: ZonedDateTime) -> Self {
        Self(zoned)
    }

    pub(super) fn timestamp(&self) -> Timestamp {
        self.0.timestamp()
    }
}

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        let (date, time) = (self.0.date(), self.0.time());
        let part = i8::unsigned_abs;
        let (month, day) = (part(date.month()).into(), part(date.day()).into());
        let (hour, minute) = (part(time.hour()).into(), part(time.minute()).into());
        let second = part(time.second()).into();
        CivilDateTime::from_ymd_hms_opt(date.year().into(), month, day, hour, minute, second)
            .expect("both calendars are the proleptic Gregorian one")
    }

    fn civil_weekday(&self) -> Weekday {
        let day = self.0.weekday().to_sunday_zero_offset();
        Weekday::from_days_from_sunday(day.unsigned_abs().into())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let zone = self.0.time_zone();
        let ambiguous =
            zone.to_ambiguous_zoned_datetime(datetime(civil).ok_or(CronError::InvalidDate)?);
        let (earlier, later) = (ambiguous.clone().earlier(), ambiguous.clone().later());
        let local = |zoned: Result<ZonedDateTime, jiff::Error>| match zoned {
            Ok(zoned) => Ok(Self(zoned)),
            Err(_) => Err(CronError::InvalidTime),
        };
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(local(earlier)?),
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(local(earlier)?, local(later)?),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        let added = self.0.checked_add(SignedDuration::from_secs(seconds));
        added.ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.timestamp().cmp(&other.timestamp())
    }
}

/// None for years that jiff does not have.
fn datetime(civil: CivilDateTime) -> Option<DateTime> {
    let part = |number: u32| i8::try_from(number).ok();
    DateTime::new(
        i16::try_from(civil.year()).ok()?,
        part(civil.month())?,
        part(civil.day())?,
        part(civil.hour())?,
        part(civil.minute())?,
        part(civil.second())?,
        0,
    )
    .ok()
}
