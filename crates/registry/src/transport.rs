//! Connections: TLS, proxies, and which HTTP client speaks with which host.
//!
//! All hosts share one client. One with certificates of its own has a client of its own, chosen by
//! the address of each request: wherever a redirect or a token server leads, no other host is shown
//! our certificate, and none is trusted by another's authority.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use reqwest::{Client, NoProxy, Proxy, Request, Response, Url};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::RegistryError;
use crate::settings::{ClientCertificate, ProxySettings, RegistrySettings, Settings};

/// Windows of HTTP/2: one stream must fill a fast and long link.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const IDLE_CONNECTIONS: usize = 16;

/// A host and its port.
type Server = (String, u16);

/// The HTTP clients.
#[derive(Debug)]
pub(crate) struct Transport {
    shared: Client,
    apart: HashMap<Server, Client>,
}

impl Transport {
    /// # Errors
    /// [`RegistryError::Setup`], with the file or the address that makes no sense.
    pub(crate) fn new(settings: &Settings) -> Result<Self, RegistryError> {
        let common = authorities(settings)?;
        let mut apart = HashMap::new();
        for (registry, own) in &settings.registries {
            let server = address_of(registry)?;
            for mirror in &own.mirrors {
                let (host, prefix) = split_mirror(mirror);
                address_of(host)?;
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
                if !prefix.chars().all(plain) || prefix.split('/').any(|part| part == "..") {
                    let text = format!("{mirror} is no mirror: it is HOST[:PORT][/NAME]");
                    return Err(RegistryError::Setup(text));
                }
            }
            if own.is_apart() {
                apart.insert(server, client(settings, tls(common.clone(), own)?)?);
            }
        }
        let tls = tls(common, &RegistrySettings::default())?;
        Ok(Self {
            shared: client(settings, tls)?,
            apart,
        })
    }

    pub(crate) async fn execute(&self, request: Request) -> reqwest::Result<Response> {
        let own = server(request.url()).and_then(|server| self.apart.get(&server));
        own.unwrap_or(&self.shared).execute(request).await
    }
}

/// The host that serves a registry, which for one is not the host in references.
pub(crate) fn host_of(registry: &str) -> &str {
    match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// A mirror's host, and the name below which it has the repositories.
pub(crate) fn split_mirror(mirror: &str) -> (&str, &str) {
    let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
    (host, prefix.trim_matches('/'))
}

fn address_of(registry: &str) -> Result<Server, RegistryError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let url = Url::parse(&format!("https://{}", host_of(registry))).ok();
    let url = url.filter(|_| registry.chars().all(plain) && !registry.ends_with(':'));
    url.as_ref().and_then(server).ok_or_else(|| {
        let reason = "a registry is named by host and port, as in references";
        RegistryError::Setup(format!("{registry} is no registry: {reason}"))
    })
}

fn server(url: &Url) -> Option<Server> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

fn client(settings: &Settings, tls: ClientConfig) -> Result<Client, RegistryError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(&settings.user_agent)
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        // A connection that died unseen must be given up before the requests on it are: they
        // would be tried again on the same one.
        .tcp_user_timeout(settings.request_timeout)
        .http2_keep_alive_interval(settings.request_timeout / 4)
        .http2_keep_alive_timeout(settings.request_timeout / 4)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW);
    for proxy in proxies(&settings.proxy)? {
        builder = builder.proxy(proxy);
    }
    builder
        .build()
        .map_err(|error| RegistryError::Setup(error.to_string()))
}

fn proxies(settings: &ProxySettings) -> Result<Vec<Proxy>, RegistryError> {
    let around = format!("localhost,127.0.0.0/8,::1,{}", settings.none_for);
    let mut proxies = Vec::new();
    if let Some(address) = &settings.http {
        proxies.push(Proxy::http(proxy_address("HTTP", address)?));
    }
    if let Some(address) = &settings.https {
        proxies.push(Proxy::https(proxy_address("HTTPS", address)?));
    }
    let with = |proxy: reqwest::Result<Proxy>| {
        let proxy = proxy.map_err(|_| RegistryError::Setup("a proxy makes no sense".to_owned()))?;
        Ok(proxy.no_proxy(NoProxy::from_string(&around)))
    };
    proxies.into_iter().map(with).collect()
}

/// `http://`, which may be left out, or `https://`. The message does not quote it: it may have a
/// password.
fn proxy_address(of: &str, address: &str) -> Result<Url, RegistryError> {
    let text = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let url = Url::parse(&text).ok();
    let good = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    url.filter(good).ok_or_else(|| {
        let reason = "it is an address like http://proxy.example:3128";
        RegistryError::Setup(format!("the proxy for {of} makes no sense: {reason}"))
    })
}

/// The system's certificate authorities and those of the settings. A system without any can still
/// reach registries that need none.
fn authorities(settings: &Settings) -> Result<RootCertStore, RegistryError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (good, bad) = roots.add_parsable_certificates(system.certs);
    tracing::debug!(good, bad, errors = ?system.errors, "loaded the system's certificates");
    for path in &settings.certificate_authorities {
        trust(&mut roots, path)?;
    }
    Ok(roots)
}

fn trust(roots: &mut RootCertStore, path: &Path) -> Result<(), RegistryError> {
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| unusable("certificate authorities", path, &error.to_string()))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let what = "certificates";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read: Vec<_> = read.map_err(|error: PemError| unusable(what, path, &said(&error)))?;
    if read.is_empty() {
        return Err(unusable(what, path, "there is none in PEM format"));
    }
    Ok(read)
}

fn tls(
    mut roots: RootCertStore,
    registry: &RegistrySettings,
) -> Result<ClientConfig, RegistryError> {
    for path in &registry.certificate_authorities {
        trust(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Setup(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &registry.client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { certificate, key }) => {
            let chain = certificates(certificate)?;
            let what = "a private key";
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unusable(what, key, &said(&error)))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| {
                    let reason = format!("with {}: {error}", certificate.display());
                    unusable(what, key, &reason)
                })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn unusable(what: &str, path: &Path, reason: &str) -> RegistryError {
    RegistryError::Setup(format!("cannot use {} as {what}: {reason}", path.display()))
}

fn said(error: &PemError) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => "there is none in PEM format".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_addresses_of_http() {
        let read = |text: &str| proxy_address("HTTPS", text).map(|url| url.to_string());
        assert_eq!(read("proxy:3128").unwrap(), "http://proxy:3128/");
        assert_eq!(read("https://u:p@proxy").unwrap(), "https://u:p@proxy/");
        for bad in ["", "socks5://proxy:1080", "http://", "http://u:secret@:x"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("the proxy for HTTPS makes no sense"));
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
