//! The threads that call the fault handler: a bounded queue, served in the order of arrival.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{io, thread};

use thaw_image::{DiffId, Extent};

use super::EVENT_FD_LIMIT;
use super::link::Link;
use super::message::Command;
use crate::{Denial, FaultHandler};

/// A reader that waits.
#[derive(Debug)]
pub(crate) struct Job {
    /// Whom to tell: the keeper that asked. If it is dead, so is the event.
    pub(crate) link: Arc<Link>,
    pub(crate) miss: u64,
    pub(crate) layer: DiffId,
    pub(crate) extent: Extent,
    pub(crate) deadline: Instant,
}

impl Job {
    fn answer(&self, outcome: Result<(), Denial>) {
        let miss = self.miss;
        // A keeper that is gone needs no answer: its events are denied.
        let _ = self.link.tell(&Command::Answer { miss, outcome }, None);
    }
}

#[derive(Debug)]
struct Queue {
    jobs: VecDeque<Job>,
    open: bool,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. Takes jobs at once, works on them when it is [opened](Pool::open), and ends its
/// threads when it is dropped, each after the job that it is at.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    pub(crate) fn new(threads: usize, handler: &Arc<dyn FaultHandler>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                open: false,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let pool = Self { shared };
        for number in 0..threads.max(1) {
            let (shared, handler) = (Arc::clone(&pool.shared), Arc::clone(handler));
            thread::Builder::new()
                .name(format!("fault-{number}"))
                .spawn(move || work(&shared, handler.as_ref()))?;
        }
        Ok(pool)
    }

    /// Lets the threads begin.
    pub(crate) fn open(&self) {
        self.shared.queue().open = true;
        self.shared.changed.notify_all();
    }

    /// Queues a job; one too many fails.
    pub(crate) fn push(&self, job: Job) {
        let mut queue = self.shared.queue();
        // A keeper has no more than this, so only several dead keepers' jobs can pile up.
        if queue.jobs.len() >= usize::from(EVENT_FD_LIMIT) {
            drop(queue);
            job.answer(Err(Denial::Io));
            return;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        // Not answered: the keeper holds them for the next daemon.
        queue.jobs.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let waits = |queue: &mut Queue| !queue.closed && (!queue.open || queue.jobs.is_empty());
    let queue = shared.queue();
    let mut queue = shared
        .changed
        .wait_while(queue, waits)
        .unwrap_or_else(PoisonError::into_inner);
    queue.jobs.pop_front()
}

fn work(shared: &Shared, handler: &dyn FaultHandler) {
    while let Some(job) = next(shared) {
        if job.deadline <= Instant::now() {
            job.answer(Err(Denial::Io));
            continue;
        }
        let fault = || handler.fault(&job.layer, job.extent, job.deadline);
        let outcome = catch_unwind(AssertUnwindSafe(fault)).unwrap_or_else(|_| {
            tracing::error!(layer = %job.layer, "the fault handler panicked");
            Err(Denial::Io)
        });
        job.answer(outcome);
    }
}
