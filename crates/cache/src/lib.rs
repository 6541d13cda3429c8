//! Sparse layer tars: presence, fetching, eviction.
