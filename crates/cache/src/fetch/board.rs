//! What is on its way, and what waits to be fetched by demand threads.
//!
//! A *flight* is one chunk (or table) on its way, however many wait for it. Whoever makes it holds
//! its [`Ticket`]; a ticket that is dropped without an answer answers that it was given up, so no
//! waiter depends on another thread's good manners.
//!
//! What is queued is done in the order of arrival, except that a host that has its share of the
//! threads ([`Shares`]) is passed over.
//!
//! Locks: `state`, then a flight's `answer` or a layer's edges; leaves otherwise, and none held
//! over I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thaw_image::{Extent, SeekTable};

use super::ahead::AT_ONCE;
use super::chunks::{self, Loaded};
use super::error::FetchError;
use super::origin::Attached;
use super::set::Claim;
use crate::shares::Shares;

/// Most jobs that wait for an idle moment.
const MAX_IDLE: usize = 8;

/// What can be on its way once: an origin's table, or a chunk of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Table(u64),
    Chunk(u64, usize),
}

/// Something on its way.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    answer: Mutex<Option<Result<(), FetchError>>>,
    landed: Condvar,
}

impl Flight {
    pub(crate) fn land(&self, result: Result<(), FetchError>) {
        *lock(&self.answer) = Some(result);
        self.landed.notify_all();
    }

    /// Waits for the answer; `None` when the deadline passed before.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<Result<(), FetchError>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = lock(&self.answer);
        let waited = self
            .landed
            .wait_timeout_while(answer, left, |answer| answer.is_none());
        match waited {
            Ok((answer, _)) => answer.clone(),
            Err(poisoned) => poisoned.into_inner().0.clone(),
        }
    }
}

/// The duty to answer a flight.
#[derive(Debug)]
pub(crate) struct Ticket {
    board: Arc<Board>,
    key: Key,
    flight: Arc<Flight>,
    answered: bool,
}

impl Ticket {
    pub(crate) fn answer(mut self, result: Result<(), FetchError>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Result<(), FetchError>) {
        self.answered = true;
        // Out of the map first: who comes later looks at the blocks again.
        lock(&self.board.state).flights.remove(&self.key);
        self.flight.land(result);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.settle(Err(FetchError::Stopped));
        }
    }
}

/// A chunk to be fetched, and who must be told.
#[derive(Debug)]
pub(crate) struct Want {
    pub(crate) number: usize,
    pub(crate) ticket: Ticket,
}

impl Want {
    /// What is answered when it is there.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        self.ticket.flight.clone()
    }
}

/// What a demand thread does next.
#[derive(Debug)]
pub(crate) enum Job {
    /// Load an origin's table, before the instant.
    Table(Arc<Attached>, Ticket, Instant),
    /// Read these chunks of an origin in one request, before the instant.
    Chunks(Arc<Attached>, Vec<Want>, Instant),
    /// Decode one chunk whose bytes were read together with another's.
    Decode(Arc<Loaded>, Want),
    /// Fetch one frame of a working set, before the instant.
    Frame(Claim, Instant),
    /// Fetch these chunks of an origin ahead of demands.
    Ahead(Arc<Attached>, Vec<usize>),
}

impl Job {
    /// Whom it waits for.
    pub(crate) fn host(&self) -> &Arc<str> {
        match self {
            Self::Table(attached, ..) => &attached.table_host,
            Self::Chunks(attached, ..) | Self::Ahead(attached, _) => &attached.host,
            Self::Decode(loaded, _) => loaded.host(),
            Self::Frame(claim, _) => &claim.set.host,
        }
    }
}

/// How requests are merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    /// Most bytes of blob between two chunks of one request.
    pub(crate) gap: u64,
    /// Most bytes of blob in one request of several chunks.
    pub(crate) most: u64,
}

impl Merge {
    /// The bytes of blob that hold both, if they may be read together.
    fn join(&self, a: Extent, b: Extent) -> Option<Extent> {
        let between = b.offset.max(a.offset).saturating_sub(a.end().min(b.end()));
        let both = Extent::between(a.offset.min(b.offset), a.end().max(b.end()));
        (between <= self.gap && both.len <= self.most).then_some(both)
    }
}

#[derive(Debug)]
struct State {
    flights: HashMap<Key, Arc<Flight>>,
    queue: VecDeque<Job>,
    /// What is done when nothing of `queue` can be, the newest last; bounded.
    idle: VecDeque<Job>,
    /// How many of those are being done.
    idling: usize,
    shares: Shares,
    closed: bool,
}

impl State {
    /// The first job whose host has room for it.
    fn take(&mut self) -> Option<Job> {
        let has_room = |job: &Job| self.shares.has_room(job.host());
        let job = if let Some(at) = self.queue.iter().position(has_room) {
            self.queue.remove(at)
        } else if self.idling < AT_ONCE {
            let at = self.idle.iter().rposition(has_room)?;
            self.idling += 1;
            self.idle.remove(at)
        } else {
            None
        }?;
        self.shares.take(job.host());
        Some(job)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    work: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// For so many demand threads.
    pub(crate) fn new(threads: usize) -> Self {
        let state = State {
            flights: HashMap::new(),
            queue: VecDeque::new(),
            idle: VecDeque::new(),
            idling: 0,
            shares: Shares::of(threads),
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
        }
    }

    /// The flight of an origin's table; started if need be.
    pub(crate) fn table(
        self: &Arc<Self>,
        attached: &Arc<Attached>,
        deadline: Instant,
    ) -> Arc<Flight> {
        let mut state = lock(&self.state);
        let key = Key::Table(attached.id);
        if let Some(flight) = state.flights.get(&key) {
            return flight.clone();
        }
        let ticket = self.start(&mut state, key);
        let flight = ticket.flight.clone();
        let job = Job::Table(attached.clone(), ticket, deadline);
        state.queue.push_back(job);
        self.work.notify_one();
        flight
    }

    /// The flights of chunks, those that are not on their way being put into the queue together,
    /// so that neighbours become one request. Also says how many were on their way. A chunk that
    /// has landed since somebody missed it has no flight: that is looked at under the lock that
    /// ends flights, so that none starts twice.
    pub(crate) fn chunks(
        self: &Arc<Self>,
        attached: &Arc<Attached>,
        numbers: impl IntoIterator<Item = usize>,
        deadline: Instant,
    ) -> (Vec<Arc<Flight>>, u64) {
        let mut state = lock(&self.state);
        let mut flights = Vec::new();
        let mut joined = 0;
        for number in numbers {
            let key = Key::Chunk(attached.id, number);
            if let Some(flight) = state.flights.get(&key) {
                flights.push(flight.clone());
                joined += 1;
                continue;
            }
            if !is_missing(attached, number) {
                continue;
            }
            let ticket = self.start(&mut state, key);
            flights.push(ticket.flight.clone());
            let want = vec![Want { number, ticket }];
            let job = Job::Chunks(attached.clone(), want, deadline);
            state.queue.push_back(job);
            self.work.notify_one();
        }
        (flights, joined)
    }

    /// Tickets for those of the chunks that are neither there nor on their way: for fill, which
    /// fetches them itself.
    pub(crate) fn claim(
        self: &Arc<Self>,
        attached: &Attached,
        numbers: impl IntoIterator<Item = usize>,
    ) -> Vec<Want> {
        let mut state = lock(&self.state);
        let mut wants = Vec::new();
        for number in numbers {
            let key = Key::Chunk(attached.id, number);
            if !state.flights.contains_key(&key) && is_missing(attached, number) {
                let ticket = self.start(&mut state, key);
                wants.push(Want { number, ticket });
            }
        }
        wants
    }

    fn start(self: &Arc<Self>, state: &mut State, key: Key) -> Ticket {
        let flight = Arc::<Flight>::default();
        state.flights.insert(key, flight.clone());
        Ticket {
            board: self.clone(),
            key,
            flight,
            answered: false,
        }
    }

    /// Puts a job behind the others.
    pub(crate) fn push(&self, job: Job) {
        lock(&self.state).queue.push_back(job);
        self.work.notify_one();
    }

    /// Puts a job where it is done when no other waits. Of too many the oldest is forgotten.
    pub(crate) fn push_idle(&self, job: Job) {
        let mut state = lock(&self.state);
        state.idle.push_back(job);
        if state.idle.len() > MAX_IDLE {
            state.idle.pop_front();
        }
        self.work.notify_one();
    }

    /// What is left to be decoded of what came from `host`, for whoever has ended a job of it and has its
    /// thread still: its bytes are in memory, and wait for no room.
    pub(crate) fn next_decode(&self, host: &str) -> Option<Job> {
        let mut state = lock(&self.state);
        let is_one = |job: &Job| matches!(job, Job::Decode(..)) && **job.host() == *host;
        let at = state.queue.iter().position(is_one)?;
        state.queue.remove(at)
    }

    /// A job of `host` is done; of those of [`Board::push_idle`] if it `was_idle`.
    pub(crate) fn done(&self, host: &str, was_idle: bool) {
        let mut state = lock(&self.state);
        state.shares.give_back(host);
        state.idling -= usize::from(was_idle);
        drop(state);
        self.work.notify_one();
    }

    /// Puts jobs before the others: what they need is in memory already.
    pub(crate) fn push_first(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut state = lock(&self.state);
        for job in jobs {
            state.queue.push_front(job);
            self.work.notify_one();
        }
    }

    /// The next job, with every queued chunk that can be read in the same request; `None` when the
    /// board was closed. Whoever gets one says when it is [done](Board::done).
    pub(crate) fn next(&self, merge: Merge) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.take() {
                return Some(match job {
                    Job::Chunks(attached, wants, deadline) => {
                        gather(&mut state.queue, attached, wants, deadline, merge)
                    }
                    job => job,
                });
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends every demand thread after its current job, and gives up what is queued.
    pub(crate) fn close(&self) {
        let queue = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.idle.clear();
            std::mem::take(&mut state.queue)
        };
        // Dropping a ticket takes the lock.
        drop(queue);
        self.work.notify_all();
    }
}

/// Whether a chunk has bytes that are not written yet.
fn is_missing(attached: &Attached, number: usize) -> bool {
    let table = attached.table();
    table.is_none_or(|table| chunks::is_missing(attached, table, number))
}

/// Takes out of the queue what one request can read together with `wants`.
fn gather(
    queue: &mut VecDeque<Job>,
    attached: Arc<Attached>,
    mut wants: Vec<Want>,
    mut deadline: Instant,
    merge: Merge,
) -> Job {
    let blob = |table: &SeekTable, want: &Want| table.chunks.get(want.number).map(|c| c.blob);
    if let Some(table) = attached.table()
        && let Some(mut span) = wants.first().and_then(|want| blob(table, want))
    {
        // Once more after each success: a new neighbour may have its own.
        while let Some((at, joined)) = queue.iter().enumerate().find_map(|(at, job)| match job {
            Job::Chunks(other, theirs, _) if other.id == attached.id => {
                let theirs = theirs.first().and_then(|want| blob(table, want))?;
                merge.join(span, theirs).map(|span| (at, span))
            }
            _ => None,
        }) {
            span = joined;
            if let Some(Job::Chunks(_, theirs, until)) = queue.remove(at) {
                wants.extend(theirs);
                deadline = deadline.max(until);
            }
        }
    }
    wants.sort_by_key(|want| want.number);
    Job::Chunks(attached, wants, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_are_read_together() {
        let merge = Merge {
            gap: 10,
            most: 1_000,
        };
        let e = Extent::between;
        assert_eq!(merge.join(e(0, 100), e(99, 200)), Some(e(0, 200)));
        assert_eq!(merge.join(e(150, 200), e(0, 140)), Some(e(0, 200)));
        assert_eq!(merge.join(e(0, 100), e(111, 200)), None);
        assert_eq!(merge.join(e(0, 600), e(600, 1_001)), None);
        assert_eq!(merge.join(e(0, u64::MAX), e(5, 6)), None);
    }
}
