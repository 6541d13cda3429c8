//! Cold-start comparisons.

fn main() {}
