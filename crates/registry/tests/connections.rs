//! Private authorities, client certificates, HTTP/2 and proxies, against docker-registry itself.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::certificates::{NAME, self_signed, server};
use support::faulty::{Faulty, Reply, Seen};
use support::pipe::Pipe;
use support::proxy::Proxy;
use support::real::RealRegistry;
use support::{client, open, pattern, put_image, settings};
use thaw_image::{Digest, Extent};
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
fn over_one_connection_of_http_2_several_ranges_are_on_their_way() {
    const SEGMENT: usize = 2 << 20;
    let registry = tls_registry(false);
    let blob = pattern(4 * SEGMENT);
    let direct = Client::new(with(&registry.no_loopback(), trusting(&registry))).unwrap();
    let (_, repository) = open(&direct, &format!("{}/a", registry.no_loopback()));
    put_image(&*repository, Some("v1"), &blob);
    // The first segment passes, and no other one as a whole.
    let far = Duration::from_millis(50);
    let pipe = Pipe::start(&registry.host, far, SEGMENT + SEGMENT / 2);
    let place = format!("[::ffff:127.0.0.1]:{}", pipe.address.port());
    let client = Client::new(Settings {
        request_timeout: Duration::from_secs(30),
        ..with(&place, trusting(&registry))
    });
    let client = client.unwrap();
    manifest(&client, &place).unwrap();
    let (_, repository) = open(&client, &format!("{place}/a"));
    let digest = Digest::of(&blob);
    let extent = Extent {
        offset: 0,
        len: blob.len() as u64,
    };
    let mut stream = repository.stream(&digest, extent).unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    let ranges = || {
        let log = registry.log();
        let path = format!("GET /v2/a/blobs/{digest} HTTP/2.0\" 206");
        log.lines().filter(|line| line.contains(&path)).count()
    };
    let begun = Instant::now();
    while ranges() < 3 {
        let log = registry.log();
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "one by one: {log}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    pipe.open();
    assert!(reader.join().unwrap().unwrap() == blob);
    assert_eq!(pipe.connections(), 1);
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

/// A server by TLS that takes client certificates, and their files.
fn tls_server(
    dir: &Path,
    name: &str,
    handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Faulty, String) {
    let own = self_signed(dir, name);
    let client = ClientCertificate {
        certificate: dir.join("client.pem"),
        key: dir.join("client.key"),
    };
    let server = Faulty::start_tls(server(&own, &client), handler);
    let place = format!("[::ffff:127.0.0.1]:{}", server.address.port());
    (server, place)
}

/// Settings that trust both servers, and have a certificate for the one at `place`.
fn certified(dir: &Path, place: &str) -> Settings {
    let own = RegistrySettings {
        client_certificate: Some(ClientCertificate {
            certificate: dir.join("client.pem"),
            key: dir.join("client.key"),
        }),
        ..RegistrySettings::default()
    };
    Settings {
        certificate_authorities: vec![dir.join("one.pem"), dir.join("other.pem")],
        ..with(place, own)
    }
}

fn read(client: &Client, place: &str, blob: &[u8]) -> Result<Vec<u8>, String> {
    let (_, repository) = open(client, &format!("{place}/a"));
    let deadline = Instant::now() + Duration::from_secs(5);
    let extent = Extent { offset: 0, len: 10 };
    let read = repository.read_at(&Digest::of(blob), extent, Some(deadline));
    read.map_err(|error| error.to_string())
}

#[test]
fn a_client_certificate_is_shown_to_no_other_host() {
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path(), "client");
    let blob = pattern(1000);
    let stored = blob.clone();
    let (other, elsewhere) = tls_server(dir.path(), "other", move |seen| {
        match seen.target.starts_with("/token") {
            true => Reply::new(200, r#"{"token":"good"}"#),
            false => seen.serve(&stored),
        }
    });
    let (one, place) = tls_server(dir.path(), "one", move |seen| {
        match seen.header("authorization") {
            Some("Bearer good") => {
                Reply::new(307, "").header("location", format!("https://{elsewhere}/blob"))
            }
            _ => {
                let realm = format!(r#"Bearer realm="https://{elsewhere}/token""#);
                Reply::new(401, "").header("www-authenticate", realm)
            }
        }
    });
    let client = Client::new(certified(dir.path(), &place)).unwrap();
    for _ in 0..2 {
        assert_eq!(read(&client, &place, &blob).unwrap(), blob[..10]);
    }
    let (here, there) = (one.seen(), other.seen());
    assert!(here.len() == 2 && here.iter().all(|seen| seen.is_certified));
    let asked: Vec<_> = there.iter().map(|seen| seen.target.as_str()).collect();
    assert!(
        asked[0].starts_with("/token") && asked[1..] == ["/blob", "/blob"],
        "{asked:?}"
    );
    assert!(!there.iter().any(|seen| seen.is_certified));
}

#[test]
fn a_handshake_that_fails_by_the_servers_own_trouble_is_made_again() {
    const INTERNAL_ERROR: u8 = 80;
    const HANDSHAKE_FAILURE: u8 = 40;
    let dir = tempfile::tempdir().unwrap();
    for name in ["client", "one", "other"] {
        self_signed(dir.path(), name);
    }
    let file = |name: &str| ClientCertificate {
        certificate: dir.path().join(format!("{name}.pem")),
        key: dir.path().join(format!("{name}.key")),
    };
    let blob = pattern(1000);
    let reads = |alert| {
        let tls = server(&file("one"), &file("client"));
        let stored = blob.clone();
        let server = Faulty::start_tls_after(vec![alert], tls, move |seen| seen.serve(&stored));
        let place = format!("[::ffff:127.0.0.1]:{}", server.address.port());
        let client = Client::new(certified(dir.path(), &place)).unwrap();
        (read(&client, &place, &blob), server.connections())
    };
    assert_eq!(reads(INTERNAL_ERROR), (Ok(blob[..10].to_vec()), 2));
    let (said, connections) = reads(HANDSHAKE_FAILURE);
    let said = said.unwrap_err();
    assert!(said.contains("HandshakeFailure"), "{said}");
    assert_eq!(connections, 1, "it would be said again");
}

#[test]
fn nothing_leads_from_tls_to_plain_http() {
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path(), "client");
    self_signed(dir.path(), "other");
    let blob = pattern(1000);
    let stored = blob.clone();
    let plain = Faulty::start(move |seen| match seen.target.starts_with("/token") {
        true => Reply::new(200, r#"{"token":"good"}"#),
        false => seen.serve(&stored),
    });
    let target = plain.address;
    let asks = Arc::new(Mutex::new(false));
    let asks_for_token = Arc::clone(&asks);
    let (_one, place) = tls_server(dir.path(), "one", move |seen| {
        if !*asks_for_token.lock().unwrap() || seen.header("authorization").is_some() {
            return Reply::new(307, "").header("location", format!("http://{target}/blob"));
        }
        let realm = format!(r#"Bearer realm="http://{target}/token""#);
        Reply::new(401, "").header("www-authenticate", realm)
    });
    let config = dir.path().join("config.json");
    let auths = format!(r#"{{"auths":{{"{place}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    std::fs::write(&config, auths).unwrap();
    let client = Client::new(Settings {
        docker_config: Some(config),
        ..certified(dir.path(), &place)
    });
    let client = client.unwrap();
    let said = read(&client, &place, &blob).unwrap_err();
    assert!(said.contains("the redirect leaves https"), "{said}");
    *asks.lock().unwrap() = true;
    let said = read(&client, &place, &blob).unwrap_err();
    assert!(said.contains("not reached by https"), "{said}");
    let said = client
        .login(&place, "me", "secret")
        .unwrap_err()
        .to_string();
    assert!(said.contains("not reached by https"), "{said}");
    assert_eq!(plain.seen().len(), 0, "{:?}", plain.seen());
}
