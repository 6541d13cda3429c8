//! The function host as its users reach it: real images, a real registry, real containers.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod accelerating;
mod calls;
mod clients;
mod commands;
mod confined;
mod console;
mod flowing;
mod invoking;
mod jobs;
mod managed;
mod neighbours;
mod resources;
mod scaling;
mod support;
mod surviving;
mod triggers;
