//! Public keys: PEM files with a SubjectPublicKeyInfo (RFC 5280), as `cosign generate-key-pair`
//! and `openssl pkey -pubout` write them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use thaw_image::Digest;
use webpki::RawPublicKeyEntity;
use webpki::ring::{
    ECDSA_P256_SHA256, ECDSA_P384_SHA256, ECDSA_P384_SHA384, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
};

/// What a key of some kind may have signed with. cosign hashes with SHA-256 whatever the curve;
/// its bundles hash with SHA-384 on P-384.
const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 6] = [
    ECDSA_P256_SHA256,
    ECDSA_P384_SHA256,
    ECDSA_P384_SHA384,
    ED25519,
    RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];
/// Bytes of a SubjectPublicKeyInfo with 2048 bits of RSA and the least exponent.
const LEAST_RSA_BYTES: usize = 292;
/// Most bytes of a key's file.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A public key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    id: Digest,
    spki: Arc<[u8]>,
}

/// Why there is no public key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the public key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none that signatures can be checked with.
    #[error(
        "{name} is no public key that is known here: {reason}; wanted is PEM (BEGIN PUBLIC KEY) of ECDSA \
         P-256 or P-384, RSA of 2048 to 8192 bits, or Ed25519"
    )]
    Kind {
        /// What it is called.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey")
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl PublicKey {
    /// Reads a PEM file; the key is called what the file is.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let pem = bounded(path).map_err(|source| KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_pem(&path.display().to_string(), &pem)
    }

    /// From PEM text.
    ///
    /// # Errors
    /// [`KeyError::Kind`].
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, KeyError> {
        let bad = |reason: String| KeyError::Kind {
            name: name.to_owned(),
            reason,
        };
        let spki =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| bad(error.to_string()))?;
        Self::from_spki(name, &spki).map_err(bad)
    }

    /// From the DER bytes of a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_spki(name: &str, spki: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from(spki);
        let entity = RawPublicKeyEntity::try_from(&der).map_err(|error| error.to_string())?;
        // Whether some algorithm takes it shows only when one is tried.
        let takes = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
            let error = entity.verify_signature(**algorithm, b"", b"");
            matches!(error, Err(webpki::Error::InvalidSignatureForPublicKey))
        };
        let Some(algorithm) = ALGORITHMS.iter().find(takes) else {
            return Err("it is of another kind".to_owned());
        };
        // Such a key would be taken and find every signature wrong.
        let is_rsa =
            algorithm.public_key_alg_id() == RSA_PKCS1_2048_8192_SHA256.public_key_alg_id();
        if is_rsa && spki.len() < LEAST_RSA_BYTES {
            return Err("it has too few bits".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            id: Digest::of(spki),
            spki: spki.into(),
        })
    }

    /// What it is called: its file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of its SubjectPublicKeyInfo: the same key in another file is the same.
    #[must_use]
    pub const fn id(&self) -> &Digest {
        &self.id
    }

    /// How bundles name it: its id in base64.
    pub(crate) fn hint(&self) -> String {
        STANDARD.encode(self.id.as_bytes())
    }

    /// Whether `signature` is this key's, over `message`.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let der = SubjectPublicKeyInfoDer::from(&*self.spki);
        let Ok(entity) = RawPublicKeyEntity::try_from(&der) else {
            return false;
        };
        let by = |algorithm: &&dyn SignatureVerificationAlgorithm| {
            let checked = entity.verify_signature(*algorithm, message, signature);
            checked.is_ok()
        };
        ALGORITHMS.iter().any(by)
    }
}

/// Reads a small file.
pub(crate) fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other("it is too large for a key"));
    }
    Ok(bytes)
}
