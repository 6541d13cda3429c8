//! Medians, the table and the JSON.

use serde::Serialize;

use crate::contender::Start;
use crate::pages::Touched;
use crate::world::LinkFacts;

/// All that a comparison found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) processors: usize,
    pub(crate) images: Vec<ImageReport>,
}

/// One image.
#[derive(Debug, Serialize)]
pub(crate) struct ImageReport {
    pub(crate) name: &'static str,
    pub(crate) compressed_bytes: u64,
    pub(crate) link: LinkFacts,
    pub(crate) touched: Touched,
    /// Seconds: the fastest warm start, the touched pages over the link, six round trips.
    pub(crate) limit: f64,
    pub(crate) contenders: Vec<ContenderReport>,
}

/// One contender on one image.
#[derive(Debug, Serialize)]
pub(crate) struct ContenderReport {
    pub(crate) name: &'static str,
    pub(crate) cold: Vec<Start>,
    pub(crate) warm: Vec<Start>,
}

/// The middle one; of an even number the mean of the middle two. 0 of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        values if values.len() % 2 == 1 => values[middle],
        values => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Median of one figure of some starts.
pub(crate) fn median_of(starts: &[Start], figure: impl Fn(&Start) -> f64) -> f64 {
    median(&mut starts.iter().map(figure).collect::<Vec<_>>())
}

impl ImageReport {
    /// A table for people; the first contender is the baseline.
    pub(crate) fn print(&self) {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "\nimage {}: {:.0} MB compressed",
            self.name,
            mb(self.compressed_bytes)
        );
        println!(
            "  link: round trip {:.2} ms, {:.0} Mbit/s",
            self.link.round_trip_ms, self.link.megabit_per_second
        );
        println!(
            "  a start touches {:.1} MB of pages in {} files of {:.0} MB; packed {:.1} MB",
            mb(self.touched.page_bytes),
            self.touched.files,
            mb(self.touched.file_bytes),
            mb(self.touched.zstd_bytes)
        );
        println!("  limit: {:.2} s", self.limit);
        println!(
            "  {:<14} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}",
            "medians", "pull s", "run s", "cold s", "warm s", "moved MB", "×baseline", "×limit"
        );
        let baseline = self
            .contenders
            .first()
            .map_or(0.0, |first| median_of(&first.cold, |start| start.answered));
        for contender in &self.contenders {
            let cold = median_of(&contender.cold, |start| start.answered);
            println!(
                "  {:<14} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>9.1} {:>9.2} {:>8.2}",
                contender.name,
                median_of(&contender.cold, |start| start.pulled),
                median_of(&contender.cold, |start| start.started - start.pulled),
                cold,
                median_of(&contender.warm, |start| start.answered),
                median_of(&contender.cold, |start| start.received as f64) / 1e6,
                cold / baseline,
                cold / self.limit
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
    }
}
