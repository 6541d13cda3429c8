//! One machine's images and containers.
