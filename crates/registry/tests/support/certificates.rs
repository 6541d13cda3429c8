//! Certificates, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use thaw_registry::ClientCertificate;

/// A name that no resolver knows, but a proxy may.
pub const NAME: &str = "registry.invalid";

/// Makes `DIR/NAME.pem` and `DIR/NAME.key`, which vouch for themselves, for [`NAME`] and for the
/// address that [`super::real::RealRegistry::no_loopback`] gives.
pub fn self_signed(dir: &Path, name: &str) -> ClientCertificate {
    let file = |kind: &str| -> PathBuf { dir.join(format!("{name}.{kind}")) };
    let (certificate, key) = (file("pem"), file("key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
        .args([
            "-addext",
            &format!("subjectAltName=IP:::ffff:127.0.0.1,DNS:{NAME}"),
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    ClientCertificate { certificate, key }
}

/// A server with a certificate of its own, which takes those of `clients` where they are shown.
pub fn server(own: &ClientCertificate, clients: &ClientCertificate) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = |of: &ClientCertificate| CertificateDer::from_pem_file(&of.certificate);
    let mut roots = RootCertStore::empty();
    roots.add(certificate(clients).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
        .with_single_cert(
            vec![certificate(own).unwrap()],
            PrivateKeyDer::from_pem_file(&own.key).unwrap(),
        );
    Arc::new(config.unwrap())
}
