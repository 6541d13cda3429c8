//! How far a long piece of work is.

/// Who wants to know how far the work is. Called from any thread, often: implementations are
/// cheap and do the thinning themselves.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// A part named `part` (for instance a layer's short digest) starts; `total` is its bytes,
    /// where that is known.
    fn begin(&self, part: &str, total: Option<u64>);
    /// `bytes` more of `part` are done.
    fn advance(&self, part: &str, bytes: u64);
    /// `part` is done.
    fn finish(&self, part: &str);
    /// What is being done now, in a few words.
    fn say(&self, what: &str);
    /// Whether anybody waits for the end still. Long work for one who has gone stops, as if it had failed.
    fn is_wanted(&self) -> bool {
        true
    }
}

/// Nobody wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _part: &str, _total: Option<u64>) {}
    fn advance(&self, _part: &str, _bytes: u64) {}
    fn finish(&self, _part: &str) {}
    fn say(&self, _what: &str) {}
}
