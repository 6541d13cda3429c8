//! Printing for people: tables, sizes, waterfalls.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::time::Duration;

use thaw_node::{Span, Traffic};

/// Widest bar of a waterfall.
const BAR: usize = 40;

/// Says something on standard error. What cannot be written there is lost: its file may be on a disk that is full, and a
/// container has its monitor all the same.
pub(crate) fn complain(text: impl Display) {
    writeln!(std::io::stderr(), "thaw: {text}").ok();
}

/// A size with three digits and a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{count} B"),
        (_, small) if small < 9.995 => format!("{small:.2} {}", UNITS[unit]),
        (_, small) if small < 99.95 => format!("{small:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Bytes that were moved, by cause.
pub(crate) fn causes(moved: &Traffic) -> String {
    format!(
        "working set {}, demand {}, ahead of it {}, fill {}, index and all else {}",
        bytes(moved.working_set),
        bytes(moved.demand),
        bytes(moved.ahead),
        bytes(moved.fill),
        bytes(moved.other)
    )
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// A share, in per cent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let share = if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    };
    format!("{share:.1} %")
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// The spans of a start, each as a bar on a common clock of `total`.
pub(crate) fn waterfall(spans: &[Span], total: Duration) -> String {
    let widest = spans
        .iter()
        .map(|span| span.name.chars().count())
        .max()
        .unwrap_or(0);
    let column = |time: Duration| {
        let share = time.as_secs_f64() / total.as_secs_f64().max(1e-9);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let column = (share * BAR as f64) as usize;
        column.min(BAR)
    };
    let mut text = String::new();
    for span in spans {
        let begin = column(span.begin).min(BAR - 1);
        let end = column(span.begin + span.took).clamp(begin + 1, BAR);
        let bar = format!("{}{}", " ".repeat(begin), "█".repeat(end - begin));
        let at = span.begin.as_secs_f64() * 1e3;
        let took = milliseconds(span.took);
        let _ = writeln!(
            text,
            "{:widest$}  {at:>8.1}  {bar:BAR$}  {took:>10}",
            span.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1.00 KiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(58 << 20), "58.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }

    #[test]
    fn each_cause_has_its_own_bytes() {
        let moved = Traffic {
            demand: 1,
            ahead: 2,
            working_set: 3,
            fill: 4,
            other: 5,
        };
        let told = "working set 3 B, demand 1 B, ahead of it 2 B, fill 4 B, index and all else 5 B";
        assert_eq!(causes(&moved), told);
    }

    #[test]
    fn a_waterfall_stays_in_its_frame() {
        let span = |name: &str, begin, took| Span {
            name: name.into(),
            begin: Duration::from_millis(begin),
            took: Duration::from_millis(took),
        };
        let text = waterfall(
            &[span("a", 0, 10), span("b", 10, 500)],
            Duration::from_millis(20),
        );
        let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [20, 20]);
    }
}
