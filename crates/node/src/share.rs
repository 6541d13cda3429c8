//! One mount of an image, and several who want it in different ways.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thaw_image::Progress;

use crate::Node;
use crate::error::NodeError;
use crate::memo::Memo;
use crate::open::ImageMount;
use crate::records::ArtifactRecord;
use crate::reports::How;
use crate::resolve::Resolved;
use crate::root::{Body, Parts};
use crate::search::{KnownSet, Search};
use crate::settings::{ImageWish, Pull, Transport};
use crate::source::Choice;
use crate::timing::Timing;
use crate::words::Joined;

/// How long one layer's completion is waited for before it is looked at again.
const PATIENCE: Duration = Duration::from_secs(60);

impl Node {
    /// Whether a mount that is there may be shared with whoever wants `resolved`: the acceleration
    /// that it is made of has to be one that is trusted for the image as it is named now. `false`:
    /// it may not, and nobody uses it. So have the words by which its layers were filled: what came by
    /// them may be in the page cache, whatever the layers have now.
    ///
    /// # Errors
    /// [`NodeError::Untrusted`] where it may not and somebody does. The slot is locked and holds one
    /// reference, the caller the other.
    pub(crate) fn may_share(
        &self,
        mount: &Arc<ImageMount>,
        resolved: &Resolved,
    ) -> Result<bool, NodeError> {
        // Directories are unpacked from layers that are what the image says, with nobody's word.
        let Body::Layout(parts) = &mount.body else {
            return Ok(true);
        };
        let policy = self.settings.policy(&resolved.image.reference);
        let by = match policy.allows(&parts.by) {
            true => match self.joins(mount, parts, resolved) {
                None => return Ok(true),
                Some(word) => *word,
            },
            false => parts.by.clone(),
        };
        if Arc::strong_count(mount) <= 2 {
            return Ok(false);
        }
        let (from, reason) = match by.repository.filter(|name| !name.is_empty()) {
            Some(name) => {
                let reason = policy.refusal(&name);
                (name, reason)
            }
            None => (
                "somewhere".to_owned(),
                "it was mounted by a daemon that did not note where".to_owned(),
            ),
        };
        let image = resolved.image.reference.to_string();
        Err(NodeError::Untrusted {
            image,
            from,
            reason,
        })
    }

    /// Adds the name by which an image is wanted now to those of its mount, for the next node, too; or
    /// answers with the word that does not count for it.
    fn joins(
        &self,
        mount: &ImageMount,
        parts: &Parts,
        resolved: &Resolved,
    ) -> Option<Box<ArtifactRecord>> {
        match self.join(&parts.names, &resolved.image.reference) {
            Err(word) => return Some(word),
            Ok(Joined::Known) => {}
            Ok(Joined::New) => {
                let fill = Memo::of(mount.dir()).is_some_and(|memo| memo.fill);
                let memo = Memo {
                    fill,
                    ..mount.memo()
                };
                memo.leave(mount.dir());
            }
        }
        None
    }

    /// Makes a mount that others use do what `wish` asks: a full pull completes its layers, and
    /// another profile's working set is streamed too. Its transport cannot be changed.
    pub(crate) fn share(
        &self,
        mount: &ImageMount,
        resolved: &Resolved,
        wish: &ImageWish,
        search: Option<Search>,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<(), NodeError> {
        let wants_directories = wish.transport == Transport::Directories;
        if wants_directories && mount.body.directories().is_none() {
            return Err(NodeError::OtherTransport { kind: "EROFS" });
        }
        if mount.way_now().how == How::Full {
            return Ok(());
        }
        if let Some(error) = self.other_transport(wish.transport) {
            return Err(error);
        }
        if wish.pull == Pull::Full {
            progress.say("completing the layers");
            return timing.span("full pull", || self.complete(mount));
        }
        let Some(profile) = wish.profile.as_ref().filter(|it| !mount.streams.know(it)) else {
            return Ok(());
        };
        let lazily = ImageWish {
            pull: Pull::Lazy,
            ..wish.clone()
        };
        let set = match self.choose(resolved, &lazily, search, timing)? {
            Choice::Lazy(found) => {
                self.remember_set(resolved, wish, &found)?;
                found.working_set
            }
            Choice::Full(_) => None,
        };
        let may_bring = |set: &KnownSet| self.may_bring(mount.body.layers(), &set.record);
        let set = match set.as_ref().map(may_bring).transpose()? {
            Some(true) => set,
            // Without it a start is only slower.
            _ => None,
        };
        let stream = set.map(|set| self.stream(&resolved.image.reference, set));
        mount.streams.add(profile, stream);
        Ok(())
    }

    /// Completes the layers of an image that is mounted, and waits until they are.
    fn complete(&self, image: &ImageMount) -> Result<(), NodeError> {
        let layers = image.body.layers().iter().filter(|it| !it.is_whole());
        let fills: Vec<_> = layers.map(|it| self.fetcher.fill(&it.diff_id())).collect();
        for fill in fills {
            // It ends by itself: by being done, or by giving up.
            let ended = loop {
                if let Some(ended) = fill.wait(Instant::now() + PATIENCE) {
                    break ended;
                }
            };
            ended?;
        }
        Ok(())
    }
}
