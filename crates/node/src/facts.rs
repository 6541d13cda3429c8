//! What is here: `ps`, `images`, and the counters.

use std::collections::BTreeMap;
use std::path::Path;

use thaw_cache::Stats;
use thaw_image::{DiffId, Digest};

use crate::Node;
use crate::container::{State, Status};
use crate::containers::Spent;
use crate::error::NodeError;
use crate::image::Image;
use crate::node::lock;
use crate::open::ImageMount;
use crate::records::ImageRecord;
use crate::reports::{ContainerFacts, How, ImageFacts, MountFacts, Traffic, Way};

impl Node {
    /// The containers, and how their images were started.
    ///
    /// # Errors
    /// [`NodeError::Container`].
    pub fn list_containers(&self, all: bool) -> Result<Vec<ContainerFacts>, NodeError> {
        let states = self.containers.list()?;
        let wanted = states.into_iter().filter(|state| all || state.is_live());
        Ok(wanted.map(|state| self.container_facts(&state)).collect())
    }

    pub(crate) fn container_facts(&self, state: &State) -> ContainerFacts {
        let dir = self
            .settings
            .root
            .join("containers")
            .join(state.id.as_str());
        let start = crate::explain::read_start(&dir);
        let unknown = || Way {
            how: How::Full,
            why: "unknown".to_owned(),
        };
        let status = state.status();
        ContainerFacts {
            id: state.id.to_string(),
            name: state.name.clone(),
            image: state.image.clone(),
            running: matches!(status, Status::Running | Status::Created),
            status: status.to_string(),
            created: u64::try_from(state.created.as_second()).unwrap_or(0),
            ports: match status {
                Status::Running => state.published.clone(),
                _ => Vec::new(),
            },
            way: start.map_or_else(unknown, |start| start.way),
        }
    }

    /// What `mount` mounted, by directory.
    #[must_use]
    pub fn list_mounts(&self) -> Vec<MountFacts> {
        let mounts = lock(&self.mounts);
        let mut facts: Vec<MountFacts> = mounts
            .iter()
            .map(|(dir, held)| mount_facts(dir, &held.image))
            .collect();
        facts.sort_by(|a, b| a.dir.cmp(&b.dir));
        facts
    }

    /// The images in the store.
    ///
    /// # Errors
    /// [`NodeError`] when the store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageFacts>, NodeError> {
        let sizes: BTreeMap<Digest, u64> = self.store.blobs().list()?.into_iter().collect();
        let disk = self.disk_usage()?;
        let mut facts = Vec::new();
        for record in self.records.images().map_err(NodeError::records)? {
            if let Some(image) = self.recorded_image(&record)? {
                facts.push(self.image_facts(&record, &image, &sizes, &disk)?);
            }
        }
        Ok(facts)
    }

    /// The image of a record, if manifest and configuration are both here.
    pub(crate) fn recorded_image(&self, record: &ImageRecord) -> Result<Option<Image>, NodeError> {
        let blobs = self.store.blobs();
        let (Some(manifest), Some(config)) =
            (blobs.get(&record.manifest)?, blobs.get(&record.config)?)
        else {
            return Ok(None);
        };
        let reference = record.reference.parse()?;
        let (digest, media_type) = (record.manifest, &record.media_type);
        Ok(Image::parse(&reference, digest, media_type, &manifest, &config).ok())
    }

    fn image_facts(
        &self,
        record: &ImageRecord,
        image: &Image,
        sizes: &BTreeMap<Digest, u64>,
        disk: &BTreeMap<DiffId, u64>,
    ) -> Result<ImageFacts, NodeError> {
        let usage = image
            .layers
            .iter()
            .filter_map(|layer| disk.get(&layer.diff_id));
        let correction = self.store.corrections().get(&record.manifest);
        Ok(ImageFacts {
            reference: record.reference.clone(),
            manifest: record.manifest,
            compressed: image.compressed_size(),
            cached: usage.sum::<u64>() + correction.map_or(0, |tree| tree.bytes()),
            index: self
                .blobs_of(record)?
                .iter()
                .filter_map(|blob| sizes.get(blob))
                .sum(),
            whole: self.is_here(image)?,
            in_use: self.is_used(&record.manifest),
            used: record.used,
        })
    }

    /// Bytes that each layer takes on the disk, as a tar and as a directory.
    pub(crate) fn disk_usage(&self) -> Result<BTreeMap<DiffId, u64>, NodeError> {
        let tars = self.store.layers().usage()?.into_iter();
        let mut usage: BTreeMap<DiffId, u64> =
            tars.map(|usage| (usage.layer, usage.allocated)).collect();
        for (layer, bytes) in self.store.trees().list()? {
            *usage.entry(DiffId(layer)).or_default() += bytes;
        }
        Ok(usage)
    }

    /// What was moved and waited for since this node was opened.
    pub(crate) fn spent(&self) -> Spent {
        let stats = self.fetcher.stats();
        let network = self.received();
        Spent {
            traffic: traffic(network, &stats),
            waits: stats.faults,
        }
    }

    /// Checks credentials against a registry and keeps them.
    ///
    /// # Errors
    /// What the registry says.
    pub fn login(&self, registry: &str, user: &str, password: &str) -> Result<(), NodeError> {
        Ok(self.registry.login(registry, user, password)?)
    }
}

/// What came for layers by its cause, and all else that came over the network.
fn traffic(network: u64, stats: &Stats) -> Traffic {
    let causes = Traffic {
        demand: stats.demand.fetched,
        ahead: stats.ahead.fetched,
        working_set: stats.working_set.fetched,
        fill: stats.fill.fetched,
        other: 0,
    };
    Traffic {
        other: network.saturating_sub(causes.total()),
        ..causes
    }
}

fn mount_facts(dir: &Path, mount: &ImageMount) -> MountFacts {
    let (present, size) = mount.present_of_size();
    MountFacts {
        dir: dir.to_owned(),
        image: mount.image.reference.to_string(),
        manifest: mount.image.digest,
        way: mount.way_now(),
        present,
        size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_is_nothing_else() {
        let fetched = |fetched| thaw_cache::Moved {
            fetched,
            ..thaw_cache::Moved::default()
        };
        let stats = Stats {
            demand: fetched(1),
            ahead: fetched(20),
            working_set: fetched(300),
            fill: fetched(4000),
            ..Stats::default()
        };
        let moved = traffic(54_321, &stats);
        let wanted = Traffic {
            demand: 1,
            ahead: 20,
            working_set: 300,
            fill: 4000,
            other: 50_000,
        };
        assert_eq!((moved, moved.total()), (wanted, 54_321));
        assert_eq!(moved.since(&Traffic::default()), wanted);
        assert_eq!(moved.since(&moved), Traffic::default());
    }
}
