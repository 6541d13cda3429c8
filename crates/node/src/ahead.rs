//! A layout that is on its way before it is known whether it will be used: the configuration, against
//! which an acceleration is checked, and the signatures take requests of their own meanwhile.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use thaw_image::{Digest, media};
use thaw_registry::{Manifest, Repository};

use crate::node::lock;

/// Most bytes that are fetched so.
const MAX_BYTES: u64 = 32 << 20;

/// A layout as it is packed, checked against its digest. Not waited for where it is not taken.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    digest: Digest,
    bytes: Arc<Mutex<Receiver<Vec<u8>>>>,
}

impl Ahead {
    /// Asks for the layout of an acceleration, in the background.
    pub(crate) fn start(repository: &Arc<dyn Repository>, acceleration: &Manifest) -> Option<Self> {
        let mut parts = acceleration.content().ok()?.layers.into_iter();
        let layout = parts.find(|part| part.media_type == media::LAYOUT)?;
        let (digest, repository) = (layout.digest, Arc::clone(repository));
        let (sender, bytes) = channel();
        let fetch = move || {
            // Whoever needs it asks again, and hears what is wrong.
            if let Ok(bytes) = repository.blob(&layout, MAX_BYTES) {
                let _ = sender.send(bytes);
            }
        };
        let name = "layout".to_owned();
        thread::Builder::new().name(name).spawn(fetch).ok()?;
        let bytes = Arc::new(Mutex::new(bytes));
        Some(Self { digest, bytes })
    }

    /// Waits for the blob `digest`, if that is it and could be had; the bytes are there once.
    pub(crate) fn take(&self, digest: &Digest) -> Option<Vec<u8>> {
        match self.digest == *digest {
            true => lock(&self.bytes).recv().ok(),
            false => None,
        }
    }
}
