//! Layer formats: scan a tar, index and decode gzip.

pub mod tar;
