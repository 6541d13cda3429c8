//! A working set on its way: its index first, then its data. No start waits for either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use thaw_cache::{Blobs, Fetcher, Prefetch};
use thaw_image::{BlobSource, WorkingSet};

use crate::Node;
use crate::node::lock;
use crate::search::KnownSet;
use crate::source::chain;

/// Most bytes of a working set's index.
const MAX_INDEX: u64 = 64 << 20;

/// The working sets of one mount, by profile; `None` for a profile that has none.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<BTreeMap<String, Option<Stream>>>);

impl Streams {
    /// Whether a profile's set was looked for.
    pub(crate) fn know(&self, profile: &str) -> bool {
        lock(&self.0).contains_key(profile)
    }

    /// Takes a profile's stream.
    pub(crate) fn add(&self, profile: &str, stream: Option<Stream>) {
        lock(&self.0).insert(profile.to_owned(), stream);
    }

    /// Ends them all.
    pub(crate) fn cancel(&self) {
        lock(&self.0).clear();
    }
}

/// One working set. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// Its index is on its way.
    Coming,
    /// Its data is, or has come.
    Running(#[expect(dead_code, reason = "held for its Drop")] Prefetch),
    Ended,
}

impl Node {
    /// Starts to stream a working set. Its requests are counted apart: no start waits for them.
    pub(crate) fn stream(&self, mut set: KnownSet) -> Stream {
        let name = set.repository.name().parse();
        if let Some(Ok(apart)) = name.ok().map(|name| self.repository(&name)) {
            set.repository = apart;
        }
        Stream::start(&self.fetcher, self.store.blobs(), set)
    }
}

impl Stream {
    /// Starts a thread that fetches the index and then streams the data into the layers that are
    /// attached by then: attach first.
    fn start(fetcher: &Arc<Fetcher>, blobs: &Blobs, set: KnownSet) -> Self {
        let state = Arc::new(Mutex::new(State::Coming));
        let (shared, fetcher, blobs) = (Arc::clone(&state), Arc::clone(fetcher), blobs.clone());
        let run = move || {
            let loaded = load(&blobs, &set);
            let mut state = lock(&shared);
            *state = match (&*state, loaded) {
                (State::Coming, Ok((index, source))) => {
                    let data = set.parts.data.digest;
                    State::Running(fetcher.prefetch(Arc::new(index), data, source))
                }
                (_, Err(reason)) => {
                    // Without it a start is only slower.
                    let set = set.manifest.digest();
                    tracing::warn!(%set, reason, "no working set");
                    State::Ended
                }
                (State::Running(_) | State::Ended, Ok(_)) => State::Ended,
            };
        };
        let thread = std::thread::Builder::new().name("working-set".into());
        if let Err(error) = thread.spawn(run) {
            tracing::warn!(error = chain(&error), "no thread for a working set");
        }
        Self(state)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *lock(&self.0) = State::Ended;
    }
}

/// The index, and where the data is.
pub(crate) fn load(
    blobs: &Blobs,
    set: &KnownSet,
) -> Result<(WorkingSet, Arc<dyn BlobSource>), String> {
    let (repository, parts) = (&set.repository, &set.parts);
    let here = blobs.get(&parts.index.digest);
    let bytes = match here.map_err(|error| chain(&error))? {
        Some(bytes) => bytes,
        None => {
            let bytes = repository.blob(&parts.index, MAX_INDEX);
            let bytes = bytes.map_err(|error| chain(&error))?;
            blobs.stash(&parts.index.digest, bytes.clone()).ok();
            bytes
        }
    };
    let index = WorkingSet::decode(&bytes).map_err(|error| error.to_string())?;
    let source: Arc<dyn BlobSource> = match blobs.contains(&parts.data.digest) {
        true => Arc::new(blobs.clone()),
        false => Arc::clone(repository) as Arc<dyn BlobSource>,
    };
    Ok((index, source))
}
