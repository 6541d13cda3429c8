//! A working set without a start: what the image's program reads for certain.
//!
//! Guessed right behind the index of the image, whose layers are not kept: what is looked at (a
//! few headers) and what is packed is fetched by range, through the seek tables that were just
//! made. A recorded working set is worth more: one that is there already stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use thaw_accelerate::{Origin, closure};
use thaw_cache::LayerTar;
use thaw_image::{DiffId, Extent, Silent, media};

use crate::Node;
use crate::accelerate::Target;
use crate::error::NodeError;
use crate::image::Image;
use crate::record::profile;
use crate::reports::Recorded;
use crate::resolve::Resolved;
use crate::settings::ImageWish;
use crate::source::layer_refs;
use crate::timing::Timing;

impl Node {
    /// Publishes what a start of the image reads for certain as the working set of the wanted
    /// profile, to `target` or to this store alone; `None` where a recorded one is there, where
    /// nothing could be guessed, or where a layer has no seek table.
    pub(crate) fn guess(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        target: &Target<'_>,
    ) -> Result<Option<Recorded>, NodeError> {
        let image = &resolved.image;
        let Some(found) = self.local(image)? else {
            return Ok(None);
        };
        let tables = &found.acceleration.tables;
        let whole = self.whole_layers(image)?;
        let readable = |layer: &crate::image::Layer| {
            tables.contains_key(&layer.blob) || whole.contains_key(&layer.diff_id)
        };
        if !image.layers.iter().all(readable) || self.is_recorded(resolved, wish, target)? {
            return Ok(None);
        }
        // Whoever brings layers from here on counts below, also when he is done by then.
        let alone = resolved.work.alone();
        let before: BTreeSet<DiffId> = self.store.layers().list()?.into_iter().collect();
        let names = self.claim(resolved, &found, &Silent, &Timing::default())?;
        let parts = self.parts(resolved, &found, names)?;
        let outcome = self.guess_from(resolved, &parts.layers, &found, wish, target);
        drop(parts);
        for layer in layer_refs(image) {
            // One that somebody else uses by now, or has pulled, stays.
            if before.contains(&layer.diff_id) {
                continue;
            }
            let remove = || self.store.layers().remove(&layer.diff_id);
            let removed = alone.unless_others_came(&layer.diff_id.0, remove);
            if removed.is_some_and(|removed| removed.is_ok()) {
                self.records.remove_words(&layer.diff_id);
            }
        }
        outcome
    }

    fn guess_from(
        &self,
        resolved: &Resolved,
        layers: &[Arc<LayerTar>],
        found: &crate::source::Accelerated,
        wish: &ImageWish,
        target: &Target<'_>,
    ) -> Result<Option<Recorded>, NodeError> {
        let Some(layout) = self.store.blobs().get(&found.acceleration.layout.digest)? else {
            return Ok(None);
        };
        let ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id()).collect();
        let read = |diff_id: &DiffId, extent: Extent| self.read_layer(layers, diff_id, extent);
        let start = start_of(&resolved.image);
        let trace = closure::of_layout(&layout, &ids, &read, &start).map_err(NodeError::Guess)?;
        if trace.is_empty() {
            return Ok(None);
        }
        let of = (profile(wish), Origin::Static);
        self.publish_set(resolved, layers, &trace, of, target)
            .map(Some)
    }

    /// Whether there is a recorded working set where the guessed one would go.
    fn is_recorded(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        target: &Target<'_>,
    ) -> Result<bool, NodeError> {
        let (digest, profile) = (resolved.image.digest, profile(wish));
        let Some(target) = target.repository() else {
            let record = self.records.image(&digest);
            let known = record.and_then(|record| record.working_sets.get(profile).cloned());
            let known = known.map(|known| self.known_set(known, &digest, &resolved.repository));
            let known = known.transpose()?.flatten();
            return Ok(known.is_some_and(|set| set.parts.origin == Origin::Recorded));
        };
        let sets = target.referrers(&digest, &[media::WORKING_SET])?;
        Ok(sets.iter().any(|set| {
            let says = |key| set.annotations.get(key).map(String::as_str);
            says(media::ANNOTATION_PROFILE) == Some(profile)
                && says(media::ANNOTATION_ORIGIN) != Some(media::ORIGIN_STATIC)
        }))
    }
}

/// How a container of the image starts when nothing else is asked for.
fn start_of(image: &Image) -> closure::Start {
    let Some(config) = image.config.config().as_ref() else {
        return closure::Start::default();
    };
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let command = [words(config.entrypoint()), words(config.cmd())].concat();
    let env = words(config.env());
    let variable = |name: &str| {
        let value = |entry: &String| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then(|| value.as_bytes().to_vec())
        };
        env.iter().rev().find_map(value)
    };
    let directory = config.working_dir().clone().filter(|dir| !dir.is_empty());
    closure::Start {
        command: command.into_iter().map(String::into_bytes).collect(),
        path: variable("PATH"),
        library_path: variable("LD_LIBRARY_PATH"),
        directory: directory.unwrap_or_else(|| "/".to_owned()).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use thaw_testkit::image::{Entry, Layer};

    use super::*;
    use crate::reports::GcOptions;
    use crate::settings::Settings;

    /// What a layout directory below `dir` has.
    fn wish(dir: &std::path::Path, name: &str, layers: &[&Layer]) -> ImageWish {
        let path = dir.join(name);
        let image = thaw_testkit::image::Image::new(layers.iter().copied().cloned());
        let image = image.config("Cmd", vec!["/bin/program"]);
        image.write(&path, "latest").unwrap();
        ImageWish {
            profile: Some("default".to_owned()),
            ..ImageWish::of(&path)
        }
    }

    /// Guesses a working set, and does something when that has begun: to read the lowest layer it needs the seek table,
    /// which is a pipe.
    fn while_it_guesses(
        node: &Node,
        resolved: &Resolved,
        wish: &ImageWish,
        meanwhile: impl FnOnce(),
    ) {
        let layer = resolved.image.layers[0].diff_id;
        let (table, _) = node.layer_record(&layer).unwrap().index.unwrap();
        let path = node.store.blobs().path(&table);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::thread::scope(|scope| {
            let guess = scope.spawn(|| node.guess(resolved, wish, &Target::default()));
            let mut asked = File::options().write(true).open(&path).unwrap();
            meanwhile();
            asked.write_all(&bytes).unwrap();
            drop(asked);
            assert!(guess.join().unwrap().unwrap().is_some());
        });
    }

    #[test]
    fn an_image_that_is_used_while_a_working_set_is_guessed_may_go() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = Node::open(Settings::of(&dir.path().join("store"))).unwrap();
        let program = Entry::file("bin/program", "#!/bin/sh\n").mode(0o755);
        let layer = Layer::new([Entry::directory("./"), Entry::directory("bin"), program]);
        let guessed = wish(dir.path(), "guessed", &[&layer]);
        let another = Layer::new([Entry::directory("./"), Entry::file("another", "another\n")]);
        let another = wish(dir.path(), "another", &[&another]);
        let resolved = node.resolve(&guessed, &Timing::default()).unwrap();
        node.prepare_image(&resolved, false, &Silent).unwrap();
        while_it_guesses(&node, &resolved, &guessed, || {
            node.pull(&another, &Silent).unwrap();
            let options = GcOptions {
                images: vec![another.reference.clone()],
                ..GcOptions::default()
            };
            let collected = node.gc(&options).unwrap();
            let gone = collected
                .removals
                .iter()
                .filter(|it| !it.what.starts_with("blob "));
            assert_eq!(gone.count(), 2, "the image, and its layer: {collected:?}");
        });
        assert!(node.store.layers().list().unwrap().is_empty());
    }

    #[test]
    fn a_layer_that_is_pulled_while_a_working_set_is_guessed_stays() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = Node::open(Settings::of(&dir.path().join("store"))).unwrap();
        let root = || Entry::directory("./");
        let program = Entry::file("bin/program", "#!/bin/sh\n").mode(0o755);
        let shared = Layer::new([root(), Entry::directory("bin"), program]);
        let own = Layer::new([root(), Entry::file("own", "own\n")]);
        let guessed = wish(dir.path(), "guessed", &[&shared, &own]);
        let pulled = wish(dir.path(), "pulled", &[&shared]);
        let resolved = node.resolve(&guessed, &Timing::default()).unwrap();
        node.prepare_image(&resolved, false, &Silent).unwrap();

        while_it_guesses(&node, &resolved, &guessed, || {
            node.pull(&pulled, &Silent).unwrap();
        });
        let layer = resolved.image.layers[0].diff_id;
        assert_eq!(node.store.layers().list().unwrap(), [layer]);
        assert!(node.pull(&pulled, &Silent).unwrap().already_here);
    }
}
