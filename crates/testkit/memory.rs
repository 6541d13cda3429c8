//! The most memory that this process ever had, for tests that bound it.
//!
//! Linux keeps it (proc(5), `VmHWM`), so nothing has to be counted: pages that were touched, whoever
//! asked for them. What an allocator keeps for later is in it already and counts once. It is the whole
//! process's: such a test is alone in its program.
//!
//! A file and not a module of `thaw-testkit`, as `seeds.rs`.

use std::fs;

/// Forgets what was before, and says what the process has now, in bytes.
pub(crate) fn begin() -> u64 {
    // What there is becomes the most (proc(5), `clear_refs`).
    fs::write("/proc/self/clear_refs", "5").expect("a process may forget its peak");
    peak()
}

/// The most since [`begin`], in bytes.
pub(crate) fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its status");
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|it| it.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.expect("Linux tells a peak") << 10
}
