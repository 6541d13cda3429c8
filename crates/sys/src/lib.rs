//! What the kernel gives: pre-content events, mounts, capabilities.
