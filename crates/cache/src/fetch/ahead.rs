//! Reading ahead of demands.
//!
//! Files that were installed together lie together in a layer, and are read together. So when a
//! chunk is demanded near one that is there, the chunks behind it are fetched too, beside the
//! demands and never instead of one: at most [`AT_ONCE`] requests, taken up by a demand thread
//! that has nothing else to do. A lone demand brings its chunk alone: random reads of a large file
//! shall not move all of it.
//!
//! A chunk is claimed when its request is made, not when it is planned: a demand for it that
//! comes before goes its own way, and does not wait behind others.

use std::collections::BTreeSet;
use std::sync::Arc;

use thaw_image::SeekTable;

use super::Shared;
use super::board::Job;
use super::chunks::{self, Errand, is_missing};
use super::origin::Attached;
use super::stats::Cause;

/// How many requests are made ahead at the same time.
pub(crate) const AT_ONCE: usize = 2;
/// How far before a demanded chunk another must be there, in chunks.
const NEAR: usize = 4;

/// Plans what to fetch behind chunks that were demanded.
pub(crate) fn plan(shared: &Shared, attached: &Arc<Attached>, demanded: &BTreeSet<usize>) {
    let (Some(table), Some(first), Some(last)) =
        (attached.table(), demanded.first(), demanded.last())
    else {
        return;
    };
    let most = shared.settings.ahead_bytes;
    if most == 0 || !near(attached, table, *first) {
        return;
    }
    let numbers = behind(attached, table, *last, most);
    if !numbers.is_empty() {
        shared
            .board
            .push_idle(Job::Ahead(attached.clone(), numbers));
    }
}

/// Whether one of the chunks before `number` is there.
fn near(attached: &Attached, table: &SeekTable, number: usize) -> bool {
    (number.saturating_sub(NEAR)..number).any(|before| !is_missing(attached, table, before))
}

/// The chunks behind `number`, up to `most` bytes of tar, that are not there.
fn behind(attached: &Attached, table: &SeekTable, number: usize, most: u64) -> Vec<usize> {
    let mut bytes = 0;
    let next = table.chunks.iter().enumerate().skip(number + 1);
    next.take_while(|(_, chunk)| {
        bytes += chunk.tar.len;
        bytes <= most
    })
    .map(|(number, _)| number)
    .filter(|number| is_missing(attached, table, *number))
    .collect()
}

/// Fetches planned chunks that nobody else fetches, in requests of bounded size.
pub(crate) fn fetch(shared: &Shared, attached: &Arc<Attached>, numbers: &[usize]) {
    let Some(table) = attached.table() else {
        return;
    };
    let errand = Errand {
        cause: Cause::Ahead,
        deadline: None,
    };
    for group in groups(table, numbers, shared.settings.fill_bytes) {
        if shared.is_closed() || attached.layer.writable().is_err() {
            return;
        }
        let wants = shared.board.claim(attached, group);
        if !wants.is_empty() {
            // What fails here is fetched again by whoever reads it, and told to them.
            chunks::fetch(shared, attached, wants, errand);
        }
    }
}

/// Runs of chunks that follow each other, each with at most `most` bytes of blob, or one chunk.
fn groups(table: &SeekTable, numbers: &[usize], most: u64) -> Vec<Vec<usize>> {
    let size = |number: usize| table.chunks.get(number).map_or(0, |chunk| chunk.blob.len);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for number in numbers.iter().copied() {
        bytes += size(number);
        match groups.last_mut() {
            Some(group) if group.last() == Some(&(number.wrapping_sub(1))) && bytes <= most => {
                group.push(number);
            }
            _ => {
                bytes = size(number);
                groups.push(vec![number]);
            }
        }
    }
    groups
}
