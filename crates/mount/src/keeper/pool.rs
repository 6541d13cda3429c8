//! The threads that call the fault handler: a bounded queue, served in the order of arrival, but for
//! hosts that have their [share](Shares) of the threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{io, thread};

use thaw_cache::Shares;
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
    shares: Shares,
    open: bool,
    closed: bool,
}

impl Queue {
    /// The first job whose host has room for it, and that host.
    fn take(&mut self, handler: &dyn FaultHandler) -> Option<(Job, Arc<str>)> {
        let (at, host) = self.jobs.iter().enumerate().find_map(|(at, job)| {
            // Asked now: who has the layer may be known only since it was queued.
            let host = handler.host(&job.layer);
            self.shares.has_room(&host).then_some((at, host))
        })?;
        self.shares.take(&host);
        Some((self.jobs.remove(at)?, host))
    }
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
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                shares: Shares::of(threads),
                open: false,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let pool = Self { shared };
        for number in 0..threads {
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

fn next(shared: &Shared, handler: &dyn FaultHandler) -> Option<(Job, Arc<str>)> {
    let mut queue = shared.queue();
    while !queue.closed {
        if queue.open
            && let Some(taken) = queue.take(handler)
        {
            return Some(taken);
        }
        queue = shared
            .changed
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
    }
    None
}

fn work(shared: &Shared, handler: &dyn FaultHandler) {
    while let Some((job, host)) = next(shared, handler) {
        job.answer(outcome(&job, handler));
        shared.queue().shares.give_back(&host);
        shared.changed.notify_one();
    }
}

fn outcome(job: &Job, handler: &dyn FaultHandler) -> Result<(), Denial> {
    if job.deadline <= Instant::now() {
        return Err(Denial::Io);
    }
    let fault = || handler.fault(&job.layer, job.extent, job.deadline);
    catch_unwind(AssertUnwindSafe(fault)).unwrap_or_else(|_| {
        tracing::error!(layer = %job.layer, "the fault handler panicked");
        Err(Denial::Io)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::time::Duration;

    use thaw_image::Digest;

    use super::*;

    /// Every layer but one is of a host that answers nobody as long as the lock is held.
    #[derive(Debug)]
    struct Hanging {
        well: DiffId,
        lock: Mutex<()>,
        served: SyncSender<DiffId>,
    }

    impl FaultHandler for Hanging {
        fn fault(&self, layer: &DiffId, _: Extent, _: Instant) -> Result<(), Denial> {
            if *layer != self.well {
                drop(self.lock.lock());
            }
            let _ = self.served.send(*layer);
            Ok(())
        }

        fn host(&self, layer: &DiffId) -> Arc<str> {
            Arc::from(if *layer == self.well {
                "well"
            } else {
                "hanging"
            })
        }
    }

    #[test]
    fn layers_whose_host_hangs_hold_up_those_of_no_other() {
        let layer = |number: u8| DiffId(Digest::of(&[number]));
        let (served, answers) = sync_channel(64);
        let hanging = Arc::new(Hanging {
            well: layer(0),
            lock: Mutex::new(()),
            served,
        });
        let handler: Arc<dyn FaultHandler> = Arc::clone(&hanging) as _;
        let pool = Pool::new(8, &handler).unwrap();
        let (ours, _theirs) = thaw_sys::socket::pair().unwrap();
        let link = Arc::new(Link::to_stranger(ours).unwrap());
        let push = |number: u8| {
            pool.push(Job {
                link: Arc::clone(&link),
                miss: number.into(),
                layer: layer(number),
                extent: Extent { offset: 0, len: 1 },
                deadline: Instant::now() + Duration::from_secs(60),
            });
        };
        let answer = || answers.recv_timeout(Duration::from_secs(20)).unwrap();
        let held = hanging.lock.lock().unwrap();
        (1..=20).for_each(push);
        (0..3).for_each(|_| push(0));
        pool.open();
        let first = [(); 3].map(|()| answer());
        assert_eq!(first, [layer(0); 3]);
        drop(held);
        (1..=20).for_each(|_| assert_ne!(answer(), layer(0)));
    }
}
