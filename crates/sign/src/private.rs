//! Private keys: PEM files with an unencrypted PKCS #8 key (RFC 5958), as `openssl genpkey` writes
//! them.
//!
//! A key that cosign made is encrypted in a format of cosign's own, which is not read here: such a
//! key signs with cosign.

use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use crate::public::{PublicKey, bounded};

/// A key that signs.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    P256(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

/// Why a key does not sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateKeyError {
    /// The file cannot be read.
    #[error("cannot read the private key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is encrypted.
    #[error(
        "{0} is encrypted, which is not read here: sign with cosign, or take a key in plain PKCS #8"
    )]
    Encrypted(String),
    /// It is none that can sign here.
    #[error(
        "{0} is no private key that signs here: wanted is PEM (BEGIN PRIVATE KEY) of ECDSA P-256, RSA of 2048 \
         to 4096 bits, or Ed25519"
    )]
    Kind(String),
    /// The system gives no random numbers.
    #[error("cannot sign with {0}: no random numbers, or a broken key")]
    Sign(String),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Reads a PEM file; the key is called what the file is.
    ///
    /// # Errors
    /// [`PrivateKeyError`].
    pub fn read(path: &Path) -> Result<Self, PrivateKeyError> {
        let pem = bounded(path).map_err(|source| PrivateKeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_pem(&path.display().to_string(), &pem)
    }

    /// From PEM text.
    ///
    /// # Errors
    /// [`PrivateKeyError`].
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let says = |word: &[u8]| pem.windows(word.len()).any(|text| text == word);
        if says(b"-----BEGIN ENCRYPTED ") {
            return Err(PrivateKeyError::Encrypted(name.to_owned()));
        }
        let bad = || PrivateKeyError::Kind(name.to_owned());
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| bad())?;
        let der = der.secret_pkcs8_der();
        let random = SystemRandom::new();
        let p256 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random);
        let (pair, spki) = if let Ok(pair) = p256() {
            let spki = spki(P256_ALGORITHM, pair.public_key().as_ref());
            (Pair::P256(pair), spki)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let spki = spki(ED25519_ALGORITHM, pair.public_key().as_ref());
            (Pair::Ed25519(pair), spki)
        } else {
            let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| bad())?;
            let spki = spki(RSA_ALGORITHM, pair.public().as_ref());
            (Pair::Rsa(Box::new(pair)), spki)
        };
        let public = PublicKey::from_spki(name, &spki).map_err(|_| bad())?;
        Ok(Self { pair, public })
    }

    /// Its public key.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature over `message`, by the algorithm that cosign takes for such a key.
    ///
    /// # Errors
    /// [`PrivateKeyError::Sign`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PrivateKeyError> {
        let random = SystemRandom::new();
        let failed = |_| PrivateKeyError::Sign(self.public.name().to_owned());
        match &self.pair {
            Pair::P256(pair) => {
                let signature = pair.sign(&random, message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

/// AlgorithmIdentifiers in DER: id-ecPublicKey with prime256v1 (RFC 5480), id-Ed25519 (RFC 8410),
/// rsaEncryption with a null parameter (RFC 3279).
const P256_ALGORITHM: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const ED25519_ALGORITHM: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const RSA_ALGORITHM: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// A SubjectPublicKeyInfo in DER.
fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = tagged(BIT_STRING, &[&[0], key].concat());
    tagged(SEQUENCE, &[algorithm, &bits].concat())
}

/// A DER value with its tag and length.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let skip = length.iter().take_while(|byte| **byte == 0).count();
    let length = &length[skip..];
    let mut der = vec![tag];
    match (value.len(), u8::try_from(length.len())) {
        (0..=0x7f, _) => der.extend(length.last().or(Some(&0))),
        (_, Ok(count)) => {
            der.push(0x80 | count);
            der.extend(length);
        }
        (_, Err(_)) => {}
    }
    der.extend(value);
    der
}
