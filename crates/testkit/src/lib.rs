//! Test helpers: image builder, registry, mount guards.
