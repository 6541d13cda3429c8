//! What the project wants of a comparison, as ratios within one run of it.

use crate::report::{ContenderReport, ImageReport, median_of};

/// A recorded start over the least that any system needs.
const RECORDED: f64 = 1.3;
/// A lazy start without a recording over the baseline.
const LAZY: f64 = 0.5;
/// The baseline's pull over ours, where it unpacks for more than twice as long as it fetches.
const PULL: f64 = 3.0;
/// Our pull over the wire's time, where it does not.
const WIRE: f64 = 1.25;

/// A ratio, and what it may be at most.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bound {
    what: &'static str,
    ratio: f64,
    most: f64,
}

impl Bound {
    pub(crate) fn is_kept(&self) -> bool {
        self.ratio <= self.most
    }
}

/// The bounds of an image, as far as its contenders ran.
pub(crate) fn of(image: &ImageReport) -> Vec<Bound> {
    let find = |name: &str| image.contenders.iter().find(|it| it.name == name);
    let cold = |it: &ContenderReport| median_of(&it.cold, |start| start.answered);
    let pull = |it: &ContenderReport| median_of(&it.cold, |start| start.pulled);
    let mut bounds = Vec::new();
    if let Some(recorded) = find("thaw recorded") {
        bounds.push(Bound {
            what: "recorded start ÷ limit",
            ratio: cold(recorded) / image.limit,
            most: RECORDED,
        });
    }
    let Some(baseline) = find("containerd") else {
        return bounds;
    };
    if let Some(lazy) = find("thaw lazy") {
        bounds.push(Bound {
            what: "lazy start, nothing recorded ÷ baseline",
            ratio: cold(lazy) / cold(baseline),
            most: LAZY,
        });
    }
    if let Some(full) = find("thaw full") {
        let wire = image.compressed_bytes as f64 * 8.0 / (image.link.megabit_per_second * 1e6);
        // The baseline fetches and unpacks one after the other.
        bounds.push(match pull(baseline) > 3.0 * wire {
            true => Bound {
                what: "pull ÷ baseline's",
                ratio: pull(full) / pull(baseline),
                most: 1.0 / PULL,
            },
            false => Bound {
                what: "pull ÷ time on the wire",
                ratio: pull(full) / wire,
                most: WIRE,
            },
        });
    }
    bounds
}

pub(crate) fn print(bounds: &[Bound]) {
    for bound in bounds {
        let kept = match bound.is_kept() {
            true => "kept",
            false => "MISSED",
        };
        println!(
            "  {:<40} {:>5.2} of {:.2}: {kept}",
            bound.what, bound.ratio, bound.most
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Start;
    use crate::pages::Touched;
    use crate::world::LinkFacts;

    fn contender(name: &'static str, pulled: f64, answered: f64) -> ContenderReport {
        let start = Start {
            pulled,
            started: pulled,
            answered,
            received: 0,
        };
        ContenderReport {
            name,
            cold: vec![start.clone()],
            warm: vec![start],
        }
    }

    /// An image of 100 MB over 800 Mbit/s: a second on the wire.
    fn image(contenders: Vec<ContenderReport>) -> ImageReport {
        ImageReport {
            name: "web",
            compressed_bytes: 100_000_000,
            link: LinkFacts {
                round_trip_ms: 2.0,
                megabit_per_second: 800.0,
            },
            touched: Touched {
                files: 0,
                file_bytes: 0,
                page_bytes: 0,
                zstd_bytes: 0,
            },
            limit: 1.0,
            contenders,
        }
    }

    #[test]
    fn a_bound_is_kept_or_missed() {
        let all = |pull, lazy, recorded| {
            of(&image(vec![
                contender("containerd", 6.0, 8.0),
                contender("thaw full", pull, pull + 1.0),
                contender("thaw lazy", 0.0, lazy),
                contender("thaw recorded", 0.0, recorded),
            ]))
        };
        assert_eq!(all(2.0, 4.0, 1.3).len(), 3);
        assert!(all(2.0, 4.0, 1.3).iter().all(Bound::is_kept));
        for missed in [all(2.1, 4.0, 1.3), all(2.0, 4.1, 1.3), all(2.0, 4.0, 1.4)] {
            let count = missed.iter().filter(|bound| !bound.is_kept()).count();
            assert_eq!(count, 1, "{missed:?}");
        }
    }

    #[test]
    fn a_baseline_that_hardly_unpacks_is_not_the_measure_of_a_pull() {
        let pulled = |seconds| {
            of(&image(vec![
                contender("containerd", 2.5, 3.0),
                contender("thaw full", seconds, 3.0),
            ]))
        };
        assert!(pulled(1.25).iter().all(Bound::is_kept));
        assert!(!pulled(1.3).iter().all(Bound::is_kept));
    }

    #[test]
    fn what_did_not_run_has_no_bound() {
        assert_eq!(of(&image(Vec::new())), []);
        let alone = of(&image(vec![contender("thaw recorded", 0.0, 1.0)]));
        assert_eq!(alone.len(), 1);
    }
}
