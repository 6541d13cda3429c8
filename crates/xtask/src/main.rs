//! Set-up, test, demo and bench of the workspace.

fn main() {}
