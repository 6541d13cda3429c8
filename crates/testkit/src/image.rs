//! Images made for tests.
//!
//! [`Entry`] → [`Layer`] → [`Image`] → [`Layout`], a directory as the OCI image-layout
//! specification has it, which can be pushed to a [`Registry`](crate::registry::Registry) under
//! any tag. [`cases`] has images that try every rule of merging; [`real`] builds real ones.

pub mod cases;
mod entry;
pub mod function;
mod layer;
mod layout;
pub mod real;

pub use entry::{Dialect, Entry};
pub use layer::{Compression, Layer};
pub use layout::{Image, Layout, write_index};
