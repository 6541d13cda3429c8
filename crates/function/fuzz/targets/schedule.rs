//! Whatever is a schedule has ticks one after the other: each is later than what it is asked after, and the same from wherever before
//! it one asks. Those of a period are as far from each other as it says.

use thaw_function::fuzz::Ticks;

/// 2026-11-23T08:00:00Z, and what the input adds to it.
const BEGIN: i64 = 1_795_420_800;
const TICKS: usize = 4;

/// An input begins with hours after [`BEGIN`], little-endian, up to 65,535: seven years, with all their changes of clocks.
fn split(data: &[u8]) -> Option<(i64, &str)> {
    let (hours, text) = data.split_first_chunk::<2>()?;
    let text = str::from_utf8(text).ok()?;
    Some((BEGIN + 3600 * i64::from(u16::from_le_bytes(*hours)), text))
}

pub(crate) fn run(data: &[u8]) {
    let Some((begin, text)) = split(data) else {
        return;
    };
    let Some(ticks) = Ticks::of(text) else {
        return;
    };
    let mut after = begin;
    let mut gaps = Vec::new();
    for _ in 0..TICKS {
        let Some(tick) = ticks.next(after, begin) else {
            break;
        };
        assert!(tick > after, "{tick} after {after}");
        for between in [after + (tick - after) / 2, tick - 1] {
            assert_eq!(
                ticks.next(between, begin),
                Some(tick),
                "after {between} of {after}"
            );
        }
        gaps.push(tick - after);
        after = tick;
    }
    if text.trim().starts_with('@') {
        assert!(gaps.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
