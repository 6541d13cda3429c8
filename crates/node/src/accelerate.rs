//! `accelerate`: index an image once, and put the acceleration where others find it.

use std::sync::Arc;
use std::time::Instant;

use thaw_image::{Progress, RegistryReference};
use thaw_registry::{RegistryError, Repository};

use crate::Node;
use crate::error::NodeError;
use crate::records::AccelerationRecord;
use crate::reports::Accelerated;
use crate::resolve::Resolved;
use crate::settings::ImageWish;
use crate::source::chain;
use crate::timing::Timing;

impl Node {
    /// Indexes an image and publishes the acceleration: to the image's own repository, to `to`,
    /// or nowhere if `local` is set. `keep`: the layers stay in the store.
    ///
    /// When the image's own repository does not let us push, the acceleration stays in the store
    /// and the answer says why; a repository that was named has to take it.
    ///
    /// # Errors
    /// [`NodeError`]; an image that lies about a layer is refused with the layer's name.
    pub fn accelerate(
        &self,
        wish: &ImageWish,
        to: Option<&str>,
        local: bool,
        keep: bool,
        progress: &dyn Progress,
    ) -> Result<Accelerated, NodeError> {
        let begin = Instant::now();
        let resolved = self.resolve(wish, &Timing::default())?;
        let (prepared, artifact) = self.prepare_image(&resolved, keep, progress)?;
        let image = &resolved.image;
        progress.say("publishing");
        let target = self.target(&resolved, to, local)?;
        let place = publish(target.as_deref(), to.is_some(), |target| {
            artifact.publish(target)
        })?;
        let mut warnings = prepared.layout.warnings.clone();
        // A recorded set comes right behind, where one was asked for.
        let guessed = match keep || wish.profile.is_none() {
            true => Ok(None),
            false => {
                progress.say("guessing a working set");
                let target = target.as_deref().filter(|_| place.repository.is_some());
                self.guess(&resolved, wish, target)
            }
        };
        // Without it a start is only slower.
        let guessed = guessed.unwrap_or_else(|error| {
            warnings.push(format!("no working set was guessed: {}", chain(&error)));
            None
        });
        let full_layers = prepared.layers.iter().filter_map(|layer| {
            let reason = layer.index.as_ref().err()?;
            Some(format!("layer {}: {reason}", layer.layer.blob))
        });
        Ok(Accelerated {
            manifest: image.digest,
            acceleration: *artifact.acceleration.manifest.digest(),
            repository: place.repository,
            not_pushed: place.not_pushed,
            compressed: image.compressed_size(),
            index: artifact.acceleration.size(),
            full_layers: full_layers.collect(),
            guessed,
            warnings,
            took: begin.elapsed(),
        })
    }

    /// The repository that artifacts of an image are pushed to.
    pub(crate) fn target(
        &self,
        resolved: &Resolved,
        to: Option<&str>,
        local: bool,
    ) -> Result<Option<Arc<dyn Repository>>, NodeError> {
        match to {
            _ if local => Ok(None),
            None => Ok(Some(Arc::clone(&resolved.repository))),
            Some(name) => {
                let name: RegistryReference = name.parse()?;
                Ok(Some(
                    self.repository(&thaw_image::ImageReference::Registry(name))?,
                ))
            }
        }
    }

    /// Remembers which acceleration an image is started by: a second start asks less.
    pub(crate) fn remember_choice(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        found: &crate::source::Accelerated,
    ) -> Result<(), NodeError> {
        let manifest = &found.acceleration.manifest;
        let blobs = self.store.blobs();
        blobs.stash(manifest.digest(), manifest.bytes().to_vec())?;
        if let Some(set) = &found.working_set {
            blobs.stash(set.manifest.digest(), set.manifest.bytes().to_vec())?;
        }
        let repository = found
            .repository
            .as_ref()
            .map(|repository| repository.name());
        let used = AccelerationRecord {
            manifest: *manifest.digest(),
            repository,
        };
        let set = found.working_set.as_ref().map(|set| *set.manifest.digest());
        self.update_image(resolved, |record| {
            record.acceleration = Some(used);
            match (&wish.profile, set) {
                (Some(profile), Some(set)) => record.add_working_set(profile, set),
                (Some(profile), None) if found.set_asked => {
                    record.no_working_set.insert(profile.clone());
                }
                _ => {}
            }
        })
    }
}

/// Where an artifact went.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// The repository; `None`: it is in this store only.
    pub(crate) repository: Option<String>,
    /// Why it was not pushed, where that was wanted.
    pub(crate) not_pushed: Option<String>,
}

/// Pushes to `target`, where there is one. Where it does not let us push, the artifact stays in
/// the store; a repository that the user `named` has to take it.
pub(crate) fn publish(
    target: Option<&dyn Repository>,
    named: bool,
    push: impl FnOnce(&dyn Repository) -> Result<(), RegistryError>,
) -> Result<Place, NodeError> {
    let mut place = Place::default();
    if let Some(target) = target {
        match push(target) {
            Ok(()) => place.repository = Some(target.name()),
            Err(error) if !named && is_forbidden(&error) => place.not_pushed = Some(chain(&error)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(place)
}

/// Whether the repository can be read but not written by us.
fn is_forbidden(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Denied { .. })
        || matches!(
            error,
            RegistryError::Status {
                status: 403 | 405,
                ..
            }
        )
}
