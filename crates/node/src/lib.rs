//! One machine's images and containers.

pub mod container;
