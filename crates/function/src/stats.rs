//! What is counted of each function, for the console and the commands. It begins anew with the host.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::instance::Instance;
use crate::logs::Logs;
use crate::model::FunctionName;

/// Cold starts and invocations that are remembered of each function.
const MAX_REMEMBERED: usize = 200;

/// A start from nothing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ColdStart {
    pub(crate) at: Timestamp,
    /// Whether the image's acceleration was ready.
    pub(crate) accelerated: bool,
    /// `lazy` or `full`, and why.
    pub(crate) how: String,
    pub(crate) why: String,
    /// Whether all that it took of the image was on this machine already: a cold container, and no cold
    /// image.
    pub(crate) local: bool,
    /// Bytes that came over the network.
    pub(crate) moved: u64,
    /// Until the container ran, and until it answered, in milliseconds.
    pub(crate) made: f64,
    pub(crate) ready: f64,
    /// What was done: name, begin and duration in milliseconds.
    pub(crate) spans: Vec<(String, f64, f64)>,
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Bytes that a start may ask for without any of the image: a manifest is looked at again.
const DOCUMENTS: u64 = 16 << 10;

impl ColdStart {
    pub(crate) fn new(
        instance: &Instance,
        accelerated: bool,
        moved: u64,
        made: Duration,
        ready: Duration,
    ) -> Self {
        let parts = &instance.started;
        let span = |span: &thaw_node::Span| {
            let (begin, took) = (milliseconds(span.begin), milliseconds(span.took));
            (span.name.clone(), begin, took)
        };
        let mut spans: Vec<_> = parts.spans.iter().map(span).collect();
        let program = milliseconds(ready.saturating_sub(made));
        spans.push(("program".to_owned(), milliseconds(made), program));
        Self {
            at: Timestamp::now(),
            accelerated,
            how: parts.way.how.to_string(),
            why: parts.way.why.clone(),
            local: moved <= DOCUMENTS,
            moved,
            made: milliseconds(made),
            ready: milliseconds(ready),
            spans,
        }
    }
}

/// One invocation.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Invocation {
    pub(crate) at: Timestamp,
    pub(crate) request_id: String,
    pub(crate) cold: bool,
    pub(crate) accelerated: bool,
    /// In milliseconds, with the wait for an instance.
    pub(crate) took: f64,
    /// What went wrong.
    pub(crate) error: Option<String>,
}

/// What is counted of one function.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counted {
    pub(crate) invocations: u64,
    pub(crate) errors: u64,
    /// GB-seconds that invocations have taken.
    pub(crate) gb_seconds: f64,
    /// Those of them that came after the image's acceleration was ready.
    pub(crate) accelerated_gb_seconds: f64,
    /// Invocations that did.
    pub(crate) accelerated_invocations: u64,
    pub(crate) cold_starts: VecDeque<ColdStart>,
    pub(crate) last: VecDeque<Invocation>,
}

/// What is counted of all functions.
#[derive(Debug)]
pub(crate) struct Stats {
    counted: Mutex<HashMap<FunctionName, Counted>>,
    pub(crate) logs: Logs,
}

impl Stats {
    pub(crate) fn new(logs: Logs) -> Arc<Self> {
        Arc::new(Self {
            counted: Mutex::default(),
            logs,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FunctionName, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is counted of a function; nothing else is counted meanwhile.
    pub(crate) fn read<T>(&self, function: &FunctionName, look: impl FnOnce(&Counted) -> T) -> T {
        match self.lock().get(function) {
            Some(counted) => look(counted),
            None => look(&Counted::default()),
        }
    }

    pub(crate) fn forget(&self, function: &FunctionName) {
        self.lock().remove(function);
        self.logs.forget(function);
    }

    pub(crate) fn cold_start(&self, function: &FunctionName, start: ColdStart) {
        let mut counted = self.lock();
        let counted = counted.entry(function.clone()).or_default();
        push(&mut counted.cold_starts, start);
    }

    pub(crate) fn invocation(&self, function: &FunctionName, memory: u32, invocation: Invocation) {
        let mut all = self.lock();
        if !all.contains_key(function) {
            all.insert(function.clone(), Counted::default());
        }
        let Some(counted) = all.get_mut(function) else {
            return;
        };
        counted.invocations += 1;
        counted.errors += u64::from(invocation.error.is_some());
        let gb_seconds = f64::from(memory) / 1024.0 * invocation.took / 1000.0;
        counted.gb_seconds += gb_seconds;
        if invocation.accelerated {
            counted.accelerated_gb_seconds += gb_seconds;
            counted.accelerated_invocations += 1;
        }
        push(&mut counted.last, invocation);
    }
}

fn push<T>(list: &mut VecDeque<T>, value: T) {
    if list.len() >= MAX_REMEMBERED {
        list.pop_front();
    }
    list.push_back(value);
}
