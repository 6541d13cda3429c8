//! Bytes of layers → files: which names they have in an image.

use std::collections::{BTreeMap, HashMap};

use thaw_erofs::{BLOCK, Content, Device, FileData, Image, InodeId, Tree};
use thaw_image::{DiffId, Digest, Extent};

use crate::merge::path::MAX_PATH;

/// Deepest directory that is looked into; PATH_MAX allows no more.
const MAX_DEPTH: usize = 2048;

/// The file of each place in a layer, by its number: the path of the one which has most of its
/// bytes, cut off where Linux takes no more in one call. Places that no file has are left out, and all of
/// them where `layout` is none.
#[must_use]
pub fn names(layout: &[u8], places: &[(DiffId, Extent)]) -> HashMap<usize, String> {
    names_in(layout, places).unwrap_or_default()
}

fn names_in(layout: &[u8], places: &[(DiffId, Extent)]) -> Option<HashMap<usize, String>> {
    let mut search = Search::new(places);
    each_piece(layout, &mut |piece| {
        search.offer(&piece.layer, piece.bytes, piece.path);
    })?;
    Some(search.found())
}

/// Bytes of a file that lie in a layer.
pub(crate) struct Piece<'a> {
    pub(crate) path: &'a [u8],
    /// Bytes of the whole file.
    pub(crate) size: u64,
    /// Where they begin in the file.
    pub(crate) offset: u64,
    pub(crate) layer: DiffId,
    /// Where they lie in its tar; may reach behind the file's end, up to the end of a block.
    pub(crate) bytes: Extent,
}

/// Shows every piece of every file of a layout, directory by directory; `None` for what is no layout.
pub(crate) fn each_piece(layout: &[u8], show: &mut dyn FnMut(&Piece<'_>)) -> Option<()> {
    let image = Image::open(layout).ok()?;
    image.check().ok()?;
    let tree = image.to_tree().ok()?;
    let devices: Vec<Option<DiffId>> = image.devices().iter().map(layer_of).collect();
    visit(&tree, tree.root(), &mut Vec::new(), 0, &mut |path, data| {
        for extent in &data.extents {
            let device = usize::from(extent.device).checked_sub(1);
            let layer = device.and_then(|device| devices.get(device).copied().flatten());
            let bytes = Extent::checked(
                extent.device_block.saturating_mul(BLOCK),
                extent.blocks.saturating_mul(BLOCK),
            );
            if let Some((layer, bytes)) = layer.zip(bytes) {
                show(&Piece {
                    path,
                    size: data.size,
                    offset: extent.file_block.saturating_mul(BLOCK),
                    layer,
                    bytes,
                });
            }
        }
    });
    Some(())
}

fn layer_of(device: &Device) -> Option<DiffId> {
    let hex = std::str::from_utf8(&device.tag).ok()?;
    Digest::from_hex(hex).ok().map(DiffId)
}

fn visit(
    tree: &Tree,
    directory: InodeId,
    path: &mut Vec<u8>,
    depth: usize,
    file: &mut dyn FnMut(&[u8], &FileData),
) {
    let Some(entries) = tree.entries(directory).filter(|_| depth < MAX_DEPTH) else {
        return;
    };
    for (name, id) in entries {
        let len = path.len();
        path.push(b'/');
        path.extend_from_slice(name);
        match &tree.get(*id).content {
            Content::Directory(_) => visit(tree, *id, path, depth + 1, file),
            Content::File(data) => file(path, data),
            _ => {}
        }
        path.truncate(len);
    }
}

/// Finds the places that an extent has bytes of.
struct Search {
    /// By layer: each place and its number, by offset.
    places: BTreeMap<DiffId, Vec<(Extent, usize)>>,
    /// Bytes of the longest one.
    longest: u64,
    /// Bytes of it, and path, for each place that was found.
    best: HashMap<usize, (u64, String)>,
}

impl Search {
    fn new(places: &[(DiffId, Extent)]) -> Self {
        let mut by_layer: BTreeMap<DiffId, Vec<(Extent, usize)>> = BTreeMap::new();
        for (number, (layer, extent)) in places.iter().enumerate() {
            by_layer.entry(*layer).or_default().push((*extent, number));
        }
        for layer in by_layer.values_mut() {
            layer.sort_by_key(|(extent, _)| extent.offset);
        }
        let longest = places.iter().map(|(_, extent)| extent.len).max();
        Self {
            places: by_layer,
            longest: longest.unwrap_or(0),
            best: HashMap::new(),
        }
    }

    fn offer(&mut self, layer: &DiffId, bytes: Extent, path: &[u8]) {
        let Some(places) = self.places.get(layer) else {
            return;
        };
        let first = bytes.offset.saturating_sub(self.longest);
        let begin = places.partition_point(|(place, _)| place.offset < first);
        let candidates = places[begin..].iter();
        for (place, number) in candidates.take_while(|(place, _)| place.offset < bytes.end()) {
            let common = place.intersect(&bytes).len;
            let known = self.best.get(number).map_or(0, |best| best.0);
            if common > known {
                let shown = &path[..path.len().min(MAX_PATH)];
                let path = String::from_utf8_lossy(shown).into_owned();
                self.best.insert(*number, (common, path));
            }
        }
    }

    fn found(self) -> HashMap<usize, String> {
        let found = self.best.into_iter();
        found.map(|(number, (_, path))| (number, path)).collect()
    }
}
