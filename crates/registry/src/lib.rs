//! OCI registries and OCI layout directories.
