//! Certificates, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

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
