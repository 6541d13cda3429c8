//! Facts → words: what was slow, and what would help.

use std::time::Duration;

use crate::reports::{Explanation, How};

/// What helps where registries are far.
const NEARER: &str = "a mirror near this node (`mirrors` in the configuration), or images that are \
                      pulled before they are needed (`thaw pull`)";
/// A step of a start that is worth a word.
const LONG: Duration = Duration::from_millis(100);
/// A mean wait from which on the way to the registry is worth a word.
const FAR: Duration = Duration::from_millis(50);
/// Waits that are too few to be worth a change.
const FEW: u64 = 8;
/// Steps of a start that wait for a registry.
const ASKING: [&str; 5] = [
    "resolve manifest",
    "fetch manifest",
    "fetch configuration",
    "find acceleration",
    "layout",
];
/// The step that fetches an image as a whole.
const FULL_PULL: &str = "full pull";

/// Where today's working set is not the start's.
const NEWER: &str = "to start it again: another working set has come since";

/// What is known beside the explanation itself.
pub(super) struct Known {
    /// Whether the image's acceleration is in a registry.
    pub(super) published: bool,
    /// Whether the start had a working set.
    pub(super) had_set: bool,
    /// Whether a start would have another one today.
    pub(super) newer_set: bool,
    /// The fault transport that runs now.
    pub(super) transport: Option<&'static str>,
}

/// Adds findings and advice.
pub(super) fn add(explanation: &mut Explanation, known: &Known) {
    let mut words = Words {
        findings: Vec::new(),
        advice: Vec::new(),
    };
    words.steps(explanation, known);
    words.waits(explanation, known);
    if words.findings.is_empty() {
        words.find("nothing of it was slow: no step took 100 ms, and no read had to wait");
    }
    explanation.findings = words.findings;
    explanation.advice = words.advice;
}

struct Words {
    findings: Vec<String>,
    advice: Vec<String>,
}

impl Words {
    fn find(&mut self, finding: impl Into<String>) {
        self.findings.push(finding.into());
    }

    fn advise(&mut self, advice: impl Into<String>) {
        let advice = advice.into();
        if !self.advice.contains(&advice) {
            self.advice.push(advice);
        }
    }

    fn steps(&mut self, explanation: &Explanation, known: &Known) {
        let (image, way) = (&explanation.container.image, &explanation.container.way);
        for span in &explanation.spans {
            if span.took < LONG {
                continue;
            }
            let took = milliseconds(span.took);
            match span.name.as_str() {
                FULL_PULL => {
                    self.find(format!(
                        "all of the image was fetched before the start, which took {took}: {}",
                        way.why
                    ));
                    if !known.published {
                        self.advise(format!(
                            "`thaw accelerate --record {image}`, once and anywhere: from then on \
                             nodes that do not have it start it lazily"
                        ));
                    }
                }
                "runtime" => self.find(format!(
                    "the OCI runtime took {took}: its own work, or a machine that is busy"
                )),
                name if ASKING.contains(&name) => {
                    self.find(format!("\"{name}\" took {took}, waiting for the registry"));
                    self.advise(nearer(explanation));
                }
                name => self.find(format!("\"{name}\" took {took}")),
            }
        }
    }

    fn waits(&mut self, explanation: &Explanation, known: &Known) {
        let (image, waits) = (&explanation.container.image, &explanation.waits);
        if !waits.known {
            self.find(
                "reads that waited before this daemon was started, or long ago, are not known any \
                 more",
            );
        }
        if waits.count == 0 {
            return;
        }
        self.find(format!(
            "{} waited for bytes of the image, {} together",
            match waits.count {
                1 => "1 read".to_owned(),
                count => format!("{count} reads"),
            },
            milliseconds(waits.took)
        ));
        if waits.shared_with > 0 {
            self.find(format!(
                "{} had layers of this one mounted meanwhile: their waits are among them",
                match waits.shared_with {
                    1 => "1 other".to_owned(),
                    count => format!("{count} others"),
                }
            ));
        }
        if waits.failed > 0 {
            let error = waits.error.as_deref().unwrap_or("no reason is known");
            self.find(format!(
                "{} of them failed, the last: {error}",
                waits.failed
            ));
            self.advise("look at the registry and at the daemon's log: programs got I/O errors");
        }
        let mean = waits.took / u32::try_from(waits.count).unwrap_or(u32::MAX);
        if mean >= FAR {
            self.find(format!("a wait took {} on average", milliseconds(mean)));
            self.advise(nearer(explanation));
        }
        if waits.count < FEW || explanation.container.way.how == How::Full {
            return;
        }
        match waits.outside_set {
            _ if !known.had_set => {
                self.find("the start had no working set: every first read waited for itself");
                match known.newer_set {
                    true => self.advise(NEWER),
                    false => self.advise(format!(
                        "`thaw accelerate --record {image}`, or `--from-traces` on a node where it \
                         has run: what a start reads then comes ahead of it, in one stream"
                    )),
                }
            }
            Some(outside) if outside * 2 >= waits.count => {
                self.find(format!(
                    "{outside} of them read what the start's working set has not"
                ));
                match known.newer_set {
                    true => self.advise(NEWER),
                    false => self.advise(format!(
                        "`thaw accelerate --from-traces {image}` on this node, which saw those \
                         reads; for another command than the image's own, with a `--profile` of \
                         its own"
                    )),
                }
            }
            Some(outside) => self.find(format!(
                "{} of them read what the start's working set has: before its stream had come so \
                 far, or when the cache had given it back",
                waits.count - outside
            )),
            None => {}
        }
        if known.transport == Some("fuse") {
            self.find("reads are served by FUSE, where each costs more than with fanotify");
            self.advise("`thaw doctor` says what pre-content events would need");
        }
    }
}

/// Mirrors that are asked already are not advised.
fn nearer(explanation: &Explanation) -> String {
    let mirrors = explanation.links.iter();
    let mirrors = mirrors.filter(|link| link.mirror_of.is_some());
    let mirrors: Vec<&str> = mirrors.map(|link| link.registry.as_str()).collect();
    match mirrors[..] {
        [] => NEARER.to_owned(),
        _ => format!(
            "a mirror that is nearer than {}, or images that are pulled before they are needed \
             (`thaw pull`)",
            mirrors.join(" and ")
        ),
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::{ContainerFacts, WaitFacts, Way};
    use crate::timing::Span;

    fn explanation(how: How, spans: &[(&str, u64)], waits: WaitFacts) -> Explanation {
        let spans = spans.iter().map(|(name, millis)| Span {
            name: (*name).to_owned(),
            begin: Duration::ZERO,
            took: Duration::from_millis(*millis),
        });
        Explanation {
            container: ContainerFacts {
                id: "id".to_owned(),
                name: "name".to_owned(),
                image: "registry/web:1".to_owned(),
                running: true,
                status: "running".to_owned(),
                created: 0,
                ports: Vec::new(),
                way: Way {
                    how,
                    why: "there is no acceleration".to_owned(),
                },
            },
            spans: spans.collect(),
            report: None,
            waits,
            files: Vec::new(),
            links: Vec::new(),
            findings: Vec::new(),
            advice: Vec::new(),
        }
    }

    fn waits(count: u64, millis: u64, outside_set: Option<u64>) -> WaitFacts {
        WaitFacts {
            count,
            took: Duration::from_millis(millis),
            known: true,
            outside_set,
            ..WaitFacts::default()
        }
    }

    fn told(explanation: Explanation, had_set: bool) -> (String, String) {
        told_with(explanation, had_set, false)
    }

    fn told_with(mut explanation: Explanation, had_set: bool, newer_set: bool) -> (String, String) {
        let known = Known {
            published: false,
            had_set,
            newer_set,
            transport: Some("fanotify"),
        };
        add(&mut explanation, &known);
        (
            explanation.findings.join("\n"),
            explanation.advice.join("\n"),
        )
    }

    #[test]
    fn each_cause_has_its_advice() {
        let spans = [
            ("resolve manifest", 20),
            ("full pull", 1500),
            ("runtime", 90),
        ];
        let (found, advice) = told(explanation(How::Full, &spans, waits(0, 0, None)), false);
        assert!(
            found.contains("took 1500.0 ms: there is no acceleration"),
            "{found}"
        );
        assert!(!found.contains("runtime"), "{found}");
        assert!(
            advice.contains("accelerate --record registry/web:1"),
            "{advice}"
        );

        let (found, advice) = told(explanation(How::Lazy, &[], waits(40, 400, None)), false);
        assert!(found.contains("40 reads waited"), "{found}");
        assert!(advice.contains("--record"), "{advice}");
        assert!(!advice.contains("mirror"), "{advice}");

        let (found, advice) = told(explanation(How::Lazy, &[], waits(40, 4000, Some(30))), true);
        assert!(
            found.contains("30 of them read what the start's working set has not"),
            "{found}"
        );
        assert!(advice.contains("--from-traces"), "{advice}");
        assert!(advice.contains("mirror"), "{advice}");

        let late = told(explanation(How::Lazy, &[], waits(40, 400, Some(3))), true);
        assert!(late.0.contains("37 of them"), "{}", late.0);
        assert_eq!(late.1, "");

        let quick = told(
            explanation(How::Lazy, &[("mount", 5)], waits(0, 0, None)),
            true,
        );
        assert!(quick.0.contains("nothing of it was slow"), "{}", quick.0);
    }

    #[test]
    fn a_working_set_that_came_later_is_not_blamed() {
        let lazy = |outside| explanation(How::Lazy, &[], waits(40, 400, outside));
        let (found, advice) = told_with(lazy(None), false, true);
        assert!(found.contains("the start had no working set"), "{found}");
        assert!(!found.contains("stream"), "{found}");
        assert!(advice.contains("start it again"), "{advice}");
        assert!(!advice.contains("--record"), "{advice}");
        let (_, advice) = told_with(lazy(Some(30)), true, true);
        assert!(advice.contains("start it again"), "{advice}");
        assert!(!advice.contains("--from-traces"), "{advice}");
        // It had one, whose blobs are gone.
        let (found, advice) = told(lazy(None), true);
        assert!(!found.contains("working set"), "{found}");
        assert_eq!(advice, "");
    }

    #[test]
    fn a_mirror_in_use_is_named_and_not_advised() {
        let mut slow = explanation(How::Lazy, &[("layout", 500)], waits(40, 40_000, Some(40)));
        let link = |registry: &str, mirror_of: Option<&str>| crate::reports::LinkFacts {
            registry: registry.to_owned(),
            mirror_of: mirror_of.map(ToOwned::to_owned),
            round_trip: None,
            rate: None,
        };
        slow.links.push(link("registry", None));
        let (_, advice) = told(slow.clone(), true);
        assert!(advice.contains("a mirror near this node"), "{advice}");
        slow.links.push(link("near:5000", Some("registry")));
        let (_, advice) = told(slow, true);
        assert!(advice.contains("nearer than near:5000"), "{advice}");
        assert!(!advice.contains("configuration"), "{advice}");
    }

    #[test]
    fn failures_are_told_with_their_reason() {
        let failed = WaitFacts {
            failed: 2,
            error: Some("the registry is gone".to_owned()),
            known: false,
            ..waits(3, 60_000, None)
        };
        let (found, advice) = told(explanation(How::Lazy, &[], failed), false);
        assert!(
            found.contains("2 of them failed, the last: the registry is gone"),
            "{found}"
        );
        assert!(found.contains("not known any more"), "{found}");
        assert!(advice.contains("the daemon's log"), "{advice}");
    }
}
