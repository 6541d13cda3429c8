//! Signatures of accelerations and working sets, in the formats that cosign writes: made and
//! checked with nothing but keys.
//!
//! ```text
//!                      ┌ simple signing: a payload that names the digest, and a signature over it
//! artifact's manifest ◀┤
//!                      └ Sigstore bundle ┬ message signature: over the manifest's own bytes
//!                                        └ DSSE envelope: over a statement that names the digest
//! ```
//!
//! - simple signing: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>
//! - bundles: <https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto>, and
//!   as referrers: <https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md>
//! - envelopes: <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>, and the statement
//!   inside: <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>
//!
//! A claim is worth what its digest and its key say, no more: certificates, transparency logs and
//! timestamps are not looked at, and the name that a payload gives the artifact is not compared, for
//! an artifact may be copied to another registry. Nothing is fetched here.
//!
//! Claims come from whoever may push. Each is bounded before it is parsed ([`MAX_CLAIM_BYTES`]), its
//! signature is checked over the very bytes that are then parsed, and what is parsed has to name the
//! artifact's digest.

mod bundle;
mod claim;
mod private;
mod public;
mod simple;

pub use bundle::{PREDICATE_SIGN, bundle};
pub use claim::{Artifact, Claim, Refusal, verify};
pub use private::{PrivateKey, PrivateKeyError};
pub use public::{KeyError, PublicKey};
pub use simple::payload;

/// Most bytes of a payload or of a bundle.
pub const MAX_CLAIM_BYTES: u64 = 256 << 10;
/// Most bytes of a signature: RSA's with 8192 bits have 1024.
const MAX_SIGNATURE_BYTES: usize = 2048;
