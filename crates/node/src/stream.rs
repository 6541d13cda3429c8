//! A working set on its way: its index first, then its data. No start waits for either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex};

use thaw_cache::{Blobs, Fetcher, Frames, Prefetch};
use thaw_image::{BlobSource, Digest, ImageReference, WorkingSet};

use crate::Node;
use crate::node::lock;
use crate::search::KnownSet;
use crate::source::chain;
use crate::warm::{self, Place};

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

    /// The profiles whose sets were looked for.
    pub(crate) fn profiles(&self) -> BTreeSet<String> {
        lock(&self.0).keys().cloned().collect()
    }

    /// The working set that starts of a profile have.
    pub(crate) fn set(&self, profile: &str) -> Option<Digest> {
        let streams = lock(&self.0);
        Some(streams.get(profile)?.as_ref()?.set)
    }

    /// Takes a profile's stream.
    pub(crate) fn add(&self, profile: &str, stream: Option<Stream>) {
        lock(&self.0).insert(profile.to_owned(), stream);
    }

    /// A program will read the files at `place`: what comes is read there ahead of it.
    pub(crate) fn warm(&self, place: &Place) {
        for stream in lock(&self.0).values().flatten() {
            // It has ended where nobody listens.
            let _ = stream.place.try_send(place.clone());
        }
    }

    /// Ends them all.
    pub(crate) fn cancel(&self) {
        lock(&self.0).clear();
    }
}

/// One working set. Dropping it ends the stream, and waits until nothing is read ahead any more.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The manifest of what it brings.
    set: Digest,
    state: Arc<Mutex<State>>,
    /// Where its files will be read, once that is known.
    place: SyncSender<Place>,
    /// Held while files there are open.
    warming: Arc<Mutex<()>>,
}

#[derive(Debug)]
enum State {
    /// Its index is on its way.
    Coming,
    /// Its data is, or has come.
    Running(#[expect(dead_code, reason = "held for its Drop")] Prefetch),
    Ended,
}

impl Node {
    /// Starts to stream a working set of `image`. Its requests are counted apart: no start waits for them.
    pub(crate) fn stream(&self, image: &ImageReference, mut set: KnownSet) -> Stream {
        let name = set.repository.name().parse();
        if let Some(Ok(apart)) = name.ok().map(|name| self.repository(&name)) {
            set.repository = apart;
        }
        Stream::start(image.to_string(), &self.fetcher, self.store.blobs(), set)
    }
}

impl Stream {
    /// Starts a thread that fetches the index and then streams the data into the layers that are
    /// attached by then: attach first.
    fn start(image: String, fetcher: &Arc<Fetcher>, blobs: &Blobs, set: KnownSet) -> Self {
        let state = Arc::new(Mutex::new(State::Coming));
        let (shared, fetcher, blobs) = (Arc::clone(&state), Arc::clone(fetcher), blobs.clone());
        let (place, mounted) = mpsc::sync_channel(1);
        let warming = Arc::new(Mutex::new(()));
        let warms = Arc::clone(&warming);
        let digest = *set.manifest.digest();
        let run = move || {
            let Some((index, frames)) = begin(&image, &shared, &fetcher, &blobs, &set) else {
                return;
            };
            if let Ok(place) = mounted.recv() {
                let _warming = lock(&warms);
                warm::warm(&place, &index, &frames);
            }
        };
        let thread = std::thread::Builder::new().name("working-set".into());
        if let Err(error) = thread.spawn(run) {
            tracing::warn!(error = chain(&error), "no thread for a working set");
        }
        Self {
            set: digest,
            state,
            place,
            warming,
        }
    }
}

/// Fetches the index and starts to stream the data; `None` where nothing is streamed.
fn begin(
    image: &str,
    shared: &Mutex<State>,
    fetcher: &Fetcher,
    blobs: &Blobs,
    set: &KnownSet,
) -> Option<(Arc<WorkingSet>, Frames)> {
    let loaded = load(blobs, set);
    let mut state = lock(shared);
    let (new, streamed) = match (&*state, loaded) {
        (State::Coming, Ok((index, source))) => {
            let index = Arc::new(index);
            let prefetch =
                fetcher.prefetch(image, Arc::clone(&index), set.parts.data.digest, source);
            let frames = prefetch.frames();
            (State::Running(prefetch), Some((index, frames)))
        }
        (_, Err(reason)) => {
            // Without it a start is only slower.
            let set = set.manifest.digest();
            tracing::warn!(image, %set, reason, "no working set");
            (State::Ended, None)
        }
        (State::Running(_) | State::Ended, Ok(_)) => (State::Ended, None),
    };
    *state = new;
    streamed
}

impl Drop for Stream {
    fn drop(&mut self) {
        *lock(&self.state) = State::Ended;
        // The mount is about to go: nobody of us may be in it then. Whoever comes later sees the end first.
        drop(lock(&self.warming));
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
