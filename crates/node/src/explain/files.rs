//! Waits, by file.

use std::collections::HashMap;
use std::time::Duration;

use crate::reports::FileWaits;
use crate::waits::Wait;

/// What was waited for, by file, the costliest first; at most `most` of them.
pub(super) fn by_cost(waits: &[Wait], layout: Option<&[u8]>, most: usize) -> Vec<FileWaits> {
    let places: Vec<_> = waits.iter().map(|wait| (wait.layer, wait.extent)).collect();
    let names = layout.map(|layout| thaw_accelerate::names(layout, &places));
    let names = names.unwrap_or_default();
    let mut files: HashMap<String, FileWaits> = HashMap::new();
    for (number, wait) in waits.iter().enumerate() {
        let path = match names.get(&number) {
            Some(path) => path.clone(),
            None => format!("(layer {}, no file of the image)", wait.layer),
        };
        let file = files.entry(path.clone()).or_insert_with(|| FileWaits {
            path,
            waits: 0,
            took: Duration::ZERO,
            bytes: 0,
            failed: 0,
        });
        file.waits += 1;
        file.took += wait.took;
        file.bytes = file.bytes.saturating_add(wait.extent.len);
        file.failed += u64::from(wait.failed.is_some());
    }
    let mut files: Vec<FileWaits> = files.into_values().collect();
    files.sort_by(|a, b| b.took.cmp(&a.took).then_with(|| a.path.cmp(&b.path)));
    files.truncate(most);
    files
}
