//! How long each step of a start took: the lines of its waterfall.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub duration: Duration,
}

/// Steps, in the order in which they ended. Some run side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spans(pub Vec<Span>);

impl Spans {
    /// Runs `step`, and keeps how long it took.
    pub(super) fn measure<T>(&mut self, name: &str, step: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = step();
        self.push(name, begin.elapsed());
        result
    }

    /// Keeps a step that was measured elsewhere.
    pub(super) fn push(&mut self, name: &str, duration: Duration) {
        self.0.push(Span {
            name: name.to_owned(),
            duration,
        });
    }
}
