//! Lazy mounts: fault transports, the keeper, access traces.
