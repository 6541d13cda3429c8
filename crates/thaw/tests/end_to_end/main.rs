//! The program as a user runs it: real images through a real registry, mounted and run for real.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod accelerate;
mod access;
mod config;
mod directories;
mod durable;
mod explain;
mod facts;
mod fetching;
mod gone;
mod images;
mod limits;
mod messages;
mod metrics;
mod mount;
mod powers;
mod pull;
mod reads;
mod run;
mod searches;
mod signing;
mod space;
mod starts;
mod support;
mod terminal;
mod words;
mod working_sets;
