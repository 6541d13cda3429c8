use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap()
}

/// The first ticks after a time.
fn ticks(text: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text);
    let mut time = at(after);
    let mut ticks = Vec::new();
    for _ in 0..count {
        let Some(next) = schedule.next(time, Timestamp::UNIX_EPOCH) else {
            break;
        };
        ticks.push(next.to_string());
        time = next;
    }
    ticks
}

#[test]
fn every_counts_from_its_origin() {
    let schedule = schedule("@every 4m");
    let origin = at("2026-11-23T08:00:01.5Z");
    let next = |after: &str| schedule.next(at(after), origin).unwrap().to_string();
    assert_eq!(next("2026-11-23T08:00:01.5Z"), "2026-11-23T08:04:01.5Z");
    assert_eq!(next("2026-11-23T08:04:01.499Z"), "2026-11-23T08:04:01.5Z");
    assert_eq!(next("2026-11-23T08:04:01.5Z"), "2026-11-23T08:08:01.5Z");
    // Before the origin there is no tick, and far behind it they are where they always were.
    assert_eq!(next("2020-01-01T00:00:00Z"), "2026-11-23T08:04:01.5Z");
    assert_eq!(next("2026-11-24T00:00:00Z"), "2026-11-24T00:00:01.5Z");
    assert_eq!(schedule.next(Timestamp::MAX, Timestamp::MIN), None);
}

#[test]
fn durations_are_like_go_writes_them() {
    for (text, seconds) in [
        ("1s", 1),
        ("4m", 240),
        ("1h30m", 5400),
        ("2h0m5s", 7205),
        ("90s", 90),
        ("1m1h", 3660),
    ] {
        let every = schedule(&format!("@every {text}"));
        assert!(
            matches!(every, Schedule::Every(d) if d.as_secs() == seconds),
            "{text}"
        );
    }
    assert!(Schedule::parse("  @every   5m ").is_ok());
    for text in [
        "",
        "5",
        "m",
        "0s",
        "0h0m",
        "-5m",
        "1.5h",
        "500ms",
        "1d",
        "5 m",
        "5m5",
        "9223372036854775807h",
        "99999999999999999999s",
        "5µs",
    ] {
        let error = Schedule::parse(&format!("@every {text}")).unwrap_err();
        assert!(
            matches!(error, ScheduleError::Duration(_) | ScheduleError::Word(_)),
            "{text}: {error}"
        );
    }
    // No overflow, and no tick within the calendar.
    let every = schedule("@every 2562047788015215h");
    assert_eq!(
        every.next(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH),
        None
    );
}

#[test]
fn six_fields_are_in_utc() {
    assert_eq!(
        ticks("0 30 2 * * *", "2026-11-23T02:30:00Z", 2),
        ["2026-11-24T02:30:00Z", "2026-11-25T02:30:00Z"]
    );
    assert_eq!(
        ticks("*/20 * * * * ?", "2026-11-23T02:30:59.9Z", 2),
        ["2026-11-23T02:31:00Z", "2026-11-23T02:31:20Z"]
    );
    // From the first on, as the service has it.
    assert_eq!(
        ticks("0 5/25 * * * *", "2026-11-23T02:30:00Z", 3),
        [
            "2026-11-23T02:55:00Z",
            "2026-11-23T03:05:00Z",
            "2026-11-23T03:30:00Z"
        ]
    );
    // 1 and MON are Monday, 7, 0 and SUN Sunday.
    for monday in ["1", "MON", "mon"] {
        assert_eq!(
            ticks(&format!("0 0 0 * * {monday}"), "2026-11-21T00:00:00Z", 1),
            ["2026-11-23T00:00:00Z"]
        );
    }
    for sunday in ["7", "0", "SUN"] {
        assert_eq!(
            ticks(&format!("0 0 0 * * {sunday}"), "2026-11-21T00:00:00Z", 1),
            ["2026-11-22T00:00:00Z"]
        );
    }
    // A tick is strictly after the time, which may be within its second.
    let daily = schedule("0 0 0 * * *");
    let (time, tick) = (at("2026-11-22T23:59:59.999Z"), at("2026-11-23T00:00:00Z"));
    assert_eq!(daily.next(time, time), Some(tick));
    assert!(daily.next(at("2026-11-23T00:00:00.001Z"), time).unwrap() > tick);
}

#[test]
fn a_seventh_field_is_the_year() {
    assert_eq!(
        ticks("0 0 0 1 1 * 2030", "2026-11-23T00:00:00Z", 5),
        ["2030-01-01T00:00:00Z"]
    );
    assert!(ticks("0 0 0 1 1 * 2020", "2026-11-23T00:00:00Z", 5).is_empty());
}

#[test]
fn a_time_zone_may_be_named() {
    for prefix in ["CRON_TZ=Asia/Shanghai", "TZ=Asia/Shanghai"] {
        let text = format!("{prefix} 0 0 8 * * *");
        assert_eq!(
            ticks(&text, "2026-11-23T00:00:00Z", 1),
            ["2026-11-24T00:00:00Z"]
        );
    }
    for text in [
        "CRON_TZ=Asia/Nowhere 0 0 8 * * *",
        "TZ= 0 0 8 * * *",
        "TZ=../../etc/passwd 0 0 8 * * *",
    ] {
        assert!(
            matches!(Schedule::parse(text), Err(ScheduleError::TimeZone(_))),
            "{text}"
        );
    }
    assert_eq!(
        Schedule::parse("TZ=Asia/Shanghai").unwrap_err(),
        ScheduleError::Fields(0)
    );
}

#[test]
fn a_skipped_time_fires_when_the_clocks_have_changed() {
    // Paris, 2026-03-29: 02:00 becomes 03:00, at 01:00 UTC.
    assert_eq!(
        ticks("TZ=Europe/Paris 0 30 2 * * *", "2026-03-28T00:00:00Z", 3),
        [
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z"
        ]
    );
    // An interval goes on by the wall clock.
    assert_eq!(
        ticks("TZ=Europe/Paris 0 */30 * * * *", "2026-03-29T00:15:00Z", 3),
        [
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:30:00Z"
        ]
    );
}

#[test]
fn a_repeated_time_fires_once_and_an_interval_twice() {
    // Paris, 2026-10-25: 03:00 becomes 02:00, at 01:00 UTC.
    assert_eq!(
        ticks("TZ=Europe/Paris 0 30 2 * * *", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // Also when asked within the second half of it.
    assert_eq!(
        ticks("TZ=Europe/Paris 0 30 2 * * *", "2026-10-25T01:10:00Z", 1),
        ["2026-10-26T01:30:00Z"]
    );
    assert_eq!(
        ticks("TZ=Europe/Paris 0 */30 2 * * *", "2026-10-24T12:00:00Z", 5),
        [
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-26T01:00:00Z"
        ]
    );
}

#[test]
fn leap_days_are_found() {
    assert_eq!(
        ticks("0 0 0 29 2 *", "2026-11-23T00:00:00Z", 2),
        ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]
    );
    // 2100 is none.
    assert_eq!(
        ticks("0 0 0 29 2 *", "2096-03-01T00:00:00Z", 1),
        ["2104-02-29T00:00:00Z"]
    );
    assert_eq!(
        ticks("0 0 0 L 2 *", "2027-02-01T00:00:00Z", 2),
        ["2027-02-28T00:00:00Z", "2028-02-29T00:00:00Z"]
    );
}

#[test]
fn what_never_comes_has_no_next() {
    for text in [
        "0 0 0 30 2 *",
        "0 0 0 31 4,6,9,11 *",
        "TZ=Europe/Paris 0 0 0 30 2 *",
        "*/7 * * 30 2 *",
        "0 0 0 30 2 * 2000-4000",
    ] {
        assert!(ticks(text, "2026-11-23T00:00:00Z", 1).is_empty(), "{text}");
    }
    let daily = schedule("TZ=Asia/Shanghai 0 0 0 * * *");
    assert_eq!(daily.next(Timestamp::MAX, Timestamp::MIN), None);
    assert_eq!(
        daily.next(Timestamp::MIN, Timestamp::MIN),
        Some(at("1970-01-01T16:00:00Z"))
    );
}

#[test]
fn other_numbers_of_fields_are_refused() {
    for (text, count) in [
        ("", 0),
        ("*", 1),
        ("*/5 * * * *", 5),
        ("0 0 0 1 1 * 2030 *", 8),
    ] {
        let error = Schedule::parse(text).unwrap_err();
        assert_eq!(error, ScheduleError::Fields(count));
        assert!(error.to_string().contains("six"), "{error}");
    }
    for text in ["@hourly", "@every", "@every5m", "@"] {
        assert!(
            matches!(Schedule::parse(text), Err(ScheduleError::Word(_))),
            "{text}"
        );
    }
}

#[test]
fn fields_are_checked() {
    for text in [
        "60 * * * * *",
        "* 60 * * * *",
        "* * 24 * * *",
        "* * * 32 * *",
        "* * * * 13 *",
        "* * * * * 8",
        "a * * * * *",
        "-1 * * * * *",
        "*/0 * * * * *",
        "5-1 * * * * *",
        "@every 5m * * * *x",
        "* * * * * *@",
        ", * * * * *",
        "* , * * * *",
        "* * , * * *",
        "* * * * , *",
        "L * * * * *",
        "* * * * * * ,",
    ] {
        let error = Schedule::parse(text).unwrap_err();
        assert!(
            matches!(
                error,
                ScheduleError::Pattern { .. }
                    | ScheduleError::Duration(_)
                    | ScheduleError::Fields(_)
            ),
            "{text}: {error}"
        );
    }
    assert_eq!(
        Schedule::parse(&"*".repeat(257)).unwrap_err(),
        ScheduleError::TooLong(257)
    );
}

/// A field, and the numbers that it means.
fn field(low: i8, high: i8) -> impl Strategy<Value = (String, Vec<i8>)> {
    let from = move |start: i8, step: i8| (start..=high).step_by(usize::from(step.unsigned_abs()));
    prop_oneof![
        Just(("*".to_owned(), (low..=high).collect())),
        (low..=high).prop_map(|n| (n.to_string(), vec![n])),
        (low..=high, low..=high).prop_map(|(a, b)| {
            let (a, b) = (a.min(b), a.max(b));
            (format!("{a}-{b}"), (a..=b).collect())
        }),
        (low..=high, low..=high).prop_map(|(a, b)| (format!("{a},{b}"), vec![a, b])),
        (1..=20i8).prop_map(move |n| (format!("*/{n}"), from(low, n).collect())),
        (low..=high, 1..=20i8).prop_map(move |(a, n)| (format!("{a}/{n}"), from(a, n).collect())),
    ]
}

/// Whether a pattern matches, in the plainest way: days of month and week are both meant, unless one is a star.
fn matches(fields: &[(String, Vec<i8>); 6], time: Timestamp) -> bool {
    let time = time.to_zoned_datetime(TimeZone::UTC);
    let is = |index: usize, number: i8| fields[index].1.contains(&number);
    let day = is(3, time.day());
    let weekday = time.weekday();
    let weekday = is(5, weekday.to_sunday_zero_offset()) || is(5, weekday.to_monday_one_offset());
    let day = match (fields[3].0.as_str(), fields[5].0.as_str()) {
        ("*", _) => weekday,
        (_, "*") => day,
        _ => day || weekday,
    };
    is(0, time.second()) && is(1, time.minute()) && is(2, time.hour()) && day && is(4, time.month())
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Paris",
    "Asia/Shanghai",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
];

proptest! {
    #[test]
    fn ticks_increase_in_any_time_zone(
        zone in proptest::sample::select(&ZONES[..]),
        (second, minute, hour) in (field(0, 59), field(0, 59), field(0, 23)),
        (day, month, weekday) in (field(1, 28), field(1, 12), field(0, 7)),
        start in 1_700_000_000i64..2_000_000_000,
        nanos in 0i32..1_000_000_000,
    ) {
        let fields = [second, minute, hour, day, month, weekday].map(|(text, _)| text);
        let schedule = schedule(&format!("TZ={zone} {}", fields.join(" ")));
        let mut time = Timestamp::new(start, nanos).unwrap();
        for _ in 0..20 {
            let next = schedule.next(time, time).unwrap();
            prop_assert!(next > time, "{next} is not after {time}");
            prop_assert_eq!(next.subsec_nanosecond(), 0);
            // Asked at any time between the two, the answer is the same.
            let between = Timestamp::from_second(time.as_second().midpoint(next.as_second())).unwrap();
            if between >= time {
                let again = schedule.next(between.min(next - SignedDuration::from_nanos(1)), time);
                prop_assert_eq!(again, Some(next));
            }
            time = next;
        }
    }

    #[test]
    fn a_tick_is_the_first_second_that_matches(
        fields in [field(0, 59), field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)],
        start in 1_700_000_000i64..2_000_000_000,
    ) {
        let texts = fields.each_ref().map(|(text, _)| text.as_str());
        let schedule = schedule(&texts.join(" "));
        let mut time = Timestamp::from_second(start).unwrap();
        for _ in 0..5 {
            // Some months have no such day, and the pattern no other month.
            let Some(next) = schedule.next(time, time) else {
                break;
            };
            prop_assert!(matches(&fields, next), "{next} does not match");
            let (from, to) = (time.as_second() + 1, next.as_second());
            // Some at both ends of what may be years.
            let passed = (from..to.min(from + 200)).chain(from.max(to - 200)..to);
            for second in passed {
                let passed = Timestamp::from_second(second).unwrap();
                prop_assert!(!matches(&fields, passed), "{passed} was passed by");
            }
            time = next;
        }
    }

    #[test]
    fn every_is_the_first_multiple_after(
        period in 1i64..100_000,
        origin in 0i64..2_000_000_000,
        after in 0i64..2_000_000_000,
    ) {
        let schedule = schedule(&format!("@every {period}s"));
        let (origin, after) = (Timestamp::from_second(origin).unwrap(), Timestamp::from_second(after).unwrap());
        let next = schedule.next(after, origin).unwrap();
        let since = next.duration_since(origin).as_secs();
        prop_assert!(next > after && since > 0 && since % period == 0);
        prop_assert!(since == period || next.duration_since(after).as_secs() <= period);
    }

    #[test]
    fn no_text_panics(text in prop_oneof!["\\PC{0,60}", "((CRON_)?TZ=\\PC{0,10} )?[0-9*/,LW#?A-Z +-]{0,40}", "@every [0-9hmsµ.]{0,30}"]) {
        if let Ok(schedule) = Schedule::parse(&text) {
            let time = Timestamp::from_second(1_800_000_000).unwrap();
            if let Some(next) = schedule.next(time, time) {
                prop_assert!(next > time);
            }
        }
    }
}
