//! Private authorities, client certificates, HTTP/2 and proxies, against docker-registry itself.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::certificates::{NAME, self_signed};
use support::faulty::{Faulty, Reply};
use support::proxy::Proxy;
use support::real::RealRegistry;
use support::{client, open, pattern, put_image, settings};
use thaw_registry::{
    Client, ClientCertificate, ProxySettings, RegistryError, RegistrySettings, Settings, Which,
};

/// A registry by TLS; with `clients` it asks for a certificate of theirs.
fn tls_registry(clients: bool) -> RealRegistry {
    RealRegistry::with(|dir| {
        self_signed(dir, "server");
        self_signed(dir, "client");
        let dir = dir.display();
        let clients = match clients {
            true => format!(", clientcas: [{dir}/client.pem]"),
            false => String::new(),
        };
        format!("  tls: {{certificate: {dir}/server.pem, key: {dir}/server.key{clients}}}")
    })
}

fn trusting(registry: &RealRegistry) -> RegistrySettings {
    RegistrySettings {
        certificate_authorities: vec![registry.dir.path().join("server.pem")],
        ..RegistrySettings::default()
    }
}

/// Settings with one registry's own.
fn with(place: &str, own: RegistrySettings) -> Settings {
    Settings {
        registries: [(place.to_owned(), own)].into(),
        ..settings()
    }
}

fn manifest(client: &Client, place: &str) -> Result<(), RegistryError> {
    let (_, repository) = open(client, &format!("{place}/a:v1"));
    repository.manifest(&Which::Tag("v1".into())).map(drop)
}

#[test]
fn an_authority_is_trusted_for_its_registry_alone() {
    let (one, other) = (tls_registry(false), tls_registry(false));
    let (place, elsewhere) = (one.no_loopback(), other.no_loopback());
    let client = Client::new(with(&place, trusting(&one))).unwrap();
    let (_, repository) = open(&client, &format!("{place}/a"));
    put_image(&*repository, Some("v1"), &pattern(5_000_000));
    manifest(&client, &place).unwrap();
    // The second one has the first one's certificate: known, but not for it.
    for file in ["server.pem", "server.key"] {
        std::fs::copy(one.dir.path().join(file), other.dir.path().join(file)).unwrap();
    }
    let error = manifest(&client, &elsewhere).unwrap_err().to_string();
    assert!(error.contains("certificate authority"), "{error}");
}

#[test]
fn tls_registries_are_spoken_to_in_http_2() {
    let registry = tls_registry(false);
    let place = registry.no_loopback();
    let client = Client::new(with(&place, trusting(&registry))).unwrap();
    let (_, repository) = open(&client, &format!("{place}/a"));
    put_image(&*repository, Some("v1"), b"layer");
    let log = registry.log();
    let spoken = |version: &str| log.lines().filter(|line| line.contains(version)).count();
    assert!(spoken(" HTTP/2.0\"") > 0, "{log}");
    assert_eq!(spoken(" HTTP/1.1\""), 0, "{log}");
}

#[test]
fn a_client_certificate_is_shown_to_its_registry() {
    let registry = tls_registry(true);
    let (place, dir) = (registry.no_loopback(), registry.dir.path());
    let error = manifest(
        &Client::new(with(&place, trusting(&registry))).unwrap(),
        &place,
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`client-cert`"), "{error}");
    let own = RegistrySettings {
        client_certificate: Some(ClientCertificate {
            certificate: dir.join("client.pem"),
            key: dir.join("client.key"),
        }),
        ..trusting(&registry)
    };
    let client = Client::new(with(&place, own)).unwrap();
    let error = manifest(&client, &place).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn files_that_make_no_sense_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = self_signed(dir.path(), "good");
    let other = self_signed(dir.path(), "other");
    let (missing, text) = (dir.path().join("missing"), dir.path().join("text"));
    std::fs::write(&text, "no certificate").unwrap();
    let authority = |path: &Path| RegistrySettings {
        certificate_authorities: vec![path.to_owned()],
        ..RegistrySettings::default()
    };
    let identity = |certificate: &PathBuf, key: &PathBuf| RegistrySettings {
        client_certificate: Some(ClientCertificate {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        ..RegistrySettings::default()
    };
    for (own, named) in [
        (authority(&missing), &missing),
        (authority(&text), &text),
        (identity(&missing, &good.key), &missing),
        (identity(&good.certificate, &text), &text),
        (identity(&good.certificate, &missing), &missing),
        (identity(&good.certificate, &other.key), &other.key),
    ] {
        let error = Client::new(with("a.example", own)).unwrap_err().to_string();
        assert!(error.contains(&named.display().to_string()), "{error}");
    }
    assert!(Client::new(with("a.example", identity(&good.certificate, &good.key))).is_ok());
    let error = Client::new(with("https://a.example/", RegistrySettings::default()));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("https://a.example/"), "{error}");
}

#[test]
fn a_loopback_registry_may_be_said_to_speak_tls() {
    let registry = RealRegistry::start();
    let own = RegistrySettings {
        plain_http: Some(false),
        ..RegistrySettings::default()
    };
    let error = manifest(
        &Client::new(with(&registry.host, own)).unwrap(),
        &registry.host,
    );
    assert!(error.unwrap_err().to_string().contains("--plain-http"));
    assert!(
        manifest(&client(), &registry.host)
            .unwrap_err()
            .is_not_found()
    );
}

#[test]
fn tls_goes_through_a_tunnel() {
    let registry = tls_registry(false);
    let proxy = Proxy::start(&registry.host);
    let through = |none_for: &str| {
        Client::new(Settings {
            proxy: ProxySettings {
                https: Some(format!("http://me:secret@{}", proxy.address)),
                // Nothing listens there.
                http: Some("127.0.0.1:1".into()),
                none_for: none_for.to_owned(),
            },
            deadline: Duration::from_secs(1),
            ..with(NAME, trusting(&registry))
        })
        .unwrap()
    };
    let error = manifest(&through(""), NAME).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let heads = proxy.heads();
    let connect = format!("CONNECT {NAME}:443 HTTP/1.1\r\n");
    assert!(heads[0].starts_with(&connect), "{heads:?}");
    let password = "Basic bWU6c2VjcmV0";
    assert!(heads[0].contains(password), "{heads:?}");
    // A host that needs none is reached without: nobody knows this one.
    assert!(
        !manifest(&through("invalid"), NAME)
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(proxy.heads().len(), heads.len());
}

#[test]
fn plain_http_is_passed_on_by_its_proxy() {
    let proxy = Faulty::start(|_| Reply::new(404, "{}"));
    let with_proxy = |proxies: ProxySettings| {
        Client::new(Settings {
            plain_http: vec![NAME.into()],
            proxy: proxies,
            ..settings()
        })
        .unwrap()
    };
    let client = with_proxy(ProxySettings {
        http: Some(proxy.address.to_string()),
        ..ProxySettings::default()
    });
    let error = manifest(&client, NAME).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(
        proxy.seen()[0].target,
        "http://registry.invalid/v2/a/manifests/v1"
    );
    // One on this machine is not asked for through it.
    let here = Faulty::start(|_| Reply::new(404, "{}"));
    assert!(
        manifest(&client, &here.address.to_string())
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!((here.seen().len(), proxy.seen().len()), (1, 1));
}
