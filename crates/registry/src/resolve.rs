//! From a reference to the manifest of one platform.

use thaw_image::{Digest, ImageReference};

use crate::document::{Descriptor, Manifest, Which};
use crate::{Platform, RegistryError, Repository};

/// How deep indexes may lie in indexes.
const MAX_DEPTH: u32 = 4;
/// How many indexes are read for one reference.
const MAX_INDEXES: u32 = 16;

/// What a reference means on one platform.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The manifest of the platform's image.
    pub manifest: Manifest,
    /// The index that the reference names, where it names one.
    pub index: Option<Manifest>,
}

/// A manifest that was found: it is here, or an index says which one it is.
#[derive(Clone, Debug)]
pub enum Located {
    /// The reference names it.
    Here(Manifest),
    /// An index lists it.
    Listed {
        /// Its digest.
        manifest: Digest,
        /// The index that the reference names.
        index: Manifest,
    },
}

impl Located {
    /// Digest of the manifest of the platform's image.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        match self {
            Self::Here(manifest) => manifest.digest(),
            Self::Listed { manifest, .. } => manifest,
        }
    }

    /// Fetches the manifest, unless it is here.
    ///
    /// # Errors
    /// What [`Repository::manifest`] says.
    pub fn fetch(self, repository: &dyn Repository) -> Result<ResolvedImage, RegistryError> {
        match self {
            Self::Here(manifest) => Ok(ResolvedImage {
                manifest,
                index: None,
            }),
            Self::Listed { manifest, index } => Ok(ResolvedImage {
                manifest: repository.manifest(&Which::Digest(manifest))?,
                index: Some(index),
            }),
        }
    }
}

/// Finds which manifest `reference` means on `platform`: one request, and one more for each index
/// that lies in an index. Of an index's images the one is taken that [`Platform::suits`] best, the
/// first of equals; where the entry says no platform (a manifest or an index below) it comes after
/// those that do.
///
/// That a single manifest is for `platform` only its configuration says: its reader has to check.
///
/// # Errors
/// [`RegistryError::NoPlatform`] with what there is; else what [`Repository::manifest`] says.
pub fn locate(
    repository: &dyn Repository,
    reference: &ImageReference,
    platform: &Platform,
) -> Result<Located, RegistryError> {
    let first = repository.manifest(&Which::of(reference))?;
    if !first.is_index() {
        return Ok(Located::Here(first));
    }
    let mut search = Search {
        repository,
        platform,
        budget: MAX_INDEXES,
        available: Vec::new(),
    };
    match search.look_into(&first, 1)? {
        Some(manifest) => Ok(Located::Listed {
            manifest,
            index: first,
        }),
        None => Err(RegistryError::NoPlatform {
            reference: reference.to_string(),
            wanted: platform.to_string(),
            available: search.available,
        }),
    }
}

/// [Locates](locate) the manifest and fetches it: one request more where an index lists it.
///
/// # Errors
/// See [`locate`].
pub fn resolve(
    repository: &dyn Repository,
    reference: &ImageReference,
    platform: &Platform,
) -> Result<ResolvedImage, RegistryError> {
    locate(repository, reference, platform)?.fetch(repository)
}

impl Which {
    /// What of its repository a reference names: the digest wins over the tag.
    #[must_use]
    pub fn of(reference: &ImageReference) -> Self {
        let (digest, tag) = match reference {
            ImageReference::Registry(reference) => (reference.digest, &reference.tag),
            ImageReference::Layout { tag, .. } => (None, tag),
        };
        match (digest, tag) {
            (Some(digest), _) => Self::Digest(digest),
            (None, Some(tag)) => Self::Tag(tag.clone()),
            (None, None) => Self::Only,
        }
    }
}

struct Search<'a> {
    repository: &'a dyn Repository,
    platform: &'a Platform,
    budget: u32,
    available: Vec<String>,
}

impl Search<'_> {
    /// Tries an index's entries from the best on.
    fn look_into(&mut self, index: &Manifest, depth: u32) -> Result<Option<Digest>, RegistryError> {
        let mut candidates: Vec<(u32, Descriptor)> = Vec::new();
        for entry in index.index()?.manifests {
            candidates.extend(self.rank(&entry).map(|rank| (rank, entry)));
        }
        candidates.sort_by_key(|(rank, _)| *rank);
        for (_, entry) in candidates {
            if !entry.is_index() {
                return Ok(Some(entry.digest));
            }
            if depth >= MAX_DEPTH || self.budget == 0 {
                continue;
            }
            self.budget -= 1;
            let below = self.repository.manifest(&Which::Digest(entry.digest))?;
            if let Some(found) = self.look_into(&below, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The lower the better; `None` for what cannot run here: attestations, signatures and other
    /// artifacts among them.
    fn rank(&mut self, entry: &Descriptor) -> Option<u32> {
        match &entry.platform {
            Some(platform) => {
                let rank = self.platform.suits(platform);
                let name = platform.to_string();
                if rank.is_none() && platform.os != "unknown" && !self.available.contains(&name) {
                    self.available.push(name);
                }
                rank
            }
            None if entry.artifact_type.is_some() => None,
            None => Some(u32::MAX),
        }
    }
}
