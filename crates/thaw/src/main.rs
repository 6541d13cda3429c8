//! Starts containers before their image has arrived.

fn main() {}
