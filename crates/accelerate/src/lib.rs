//! Merge layers into a layout, pack working sets, publish and find accelerations.
//!
//! ```text
//!  blobs ──▶ index each layer once ──▶ entries ──▶ merge ──▶ tree ──▶ layout ─┐
//!            (download, inflate, hash) └──▶ seek tables, windows ─────────────┼─▶ acceleration
//!  access trace ──▶ pack ──▶ working set                                      ┘
//! ```
//!
//! [`merge`] is pure: entries in, tree out.

pub mod merge;
