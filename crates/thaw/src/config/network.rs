//! How registries are reached: the tables `[registry."HOST"]` and `[proxy]`, and what the
//! environment says of proxies.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use thaw_registry::{ClientCertificate, ProxySettings, RegistrySettings};

/// Variables of the environment that name proxies.
pub(crate) const VARIABLES: [&str; 6] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// `[registry."HOST"]`: one registry.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Registry {
    /// Who is asked before it.
    pub(crate) mirrors: Vec<String>,
    /// Whether it speaks plain HTTP.
    pub(crate) plain_http: Option<bool>,
    /// PEM files with certificate authorities that are trusted for this registry.
    pub(crate) ca: Vec<PathBuf>,
    /// PEM file with the certificate that is shown to it.
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    pub(crate) client_key: Option<PathBuf>,
}

impl Registry {
    /// The same in the registry client's words; files may be named from `base` on.
    pub(crate) fn settings(self, base: &Path) -> anyhow::Result<RegistrySettings> {
        let client_certificate = match (self.client_cert, self.client_key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate: base.join(certificate),
                key: base.join(key),
            }),
            (None, None) => None,
            (Some(_), None) => anyhow::bail!("client-cert without client-key"),
            (None, Some(_)) => anyhow::bail!("client-key without client-cert"),
        };
        Ok(RegistrySettings {
            mirrors: self.mirrors,
            plain_http: self.plain_http,
            certificate_authorities: self.ca.iter().map(|path| base.join(path)).collect(),
            client_certificate,
        })
    }
}

/// `[proxy]`: HTTP proxies. A key that is not there is taken from the environment; an empty one
/// says that there is none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Proxy {
    /// For plain HTTP; else `http_proxy` or `HTTP_PROXY`.
    pub(crate) http: Option<String>,
    /// For HTTPS; else `https_proxy` or `HTTPS_PROXY`.
    pub(crate) https: Option<String>,
    /// Hosts, domains and networks to reach without, separated by commas; else `no_proxy` or
    /// `NO_PROXY`.
    pub(crate) none_for: Option<String>,
}

impl Proxy {
    /// Completed from the environment.
    pub(crate) fn settings(self, environment: impl Fn(&str) -> Option<String>) -> ProxySettings {
        // As most programs do it: the name in lower case goes first, and an empty value is none.
        let or_else = |configured: Option<String>, name: &str| {
            let upper = || environment(&name.to_uppercase());
            let value = configured.or_else(|| environment(name)).or_else(upper);
            value.filter(|text| !text.trim().is_empty())
        };
        ProxySettings {
            http: or_else(self.http, "http_proxy"),
            https: or_else(self.https, "https_proxy"),
            none_for: or_else(self.none_for, "no_proxy").unwrap_or_default(),
        }
    }
}

/// The settings of one registry, with its name in what is wrong.
pub(crate) fn registry(
    (host, registry): (String, Registry),
    base: &Path,
) -> anyhow::Result<(String, RegistrySettings)> {
    let settings = registry.settings(base);
    let settings = settings.with_context(|| format!("in [registry.\"{host}\"]"))?;
    Ok((host, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_completes_what_is_configured() {
        let environment = |name: &str| {
            let value = match name {
                "http_proxy" => "lower:1",
                "HTTP_PROXY" => "upper:1",
                "HTTPS_PROXY" => "upper:2",
                "NO_PROXY" => "a.example",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let read = |text: &str| {
            let proxy: Proxy = toml::from_str(text).unwrap();
            let ProxySettings {
                http,
                https,
                none_for,
            } = proxy.settings(environment);
            (
                http.unwrap_or_default(),
                https.unwrap_or_default(),
                none_for,
            )
        };
        let all = |http: &str, https: &str, none_for: &str| {
            (http.to_owned(), https.to_owned(), none_for.to_owned())
        };
        assert_eq!(read(""), all("lower:1", "upper:2", "a.example"));
        assert_eq!(
            read("http = \"own:1\"\nhttps = \"\"\nnone-for = \"b.example\""),
            all("own:1", "", "b.example")
        );
        let none = Proxy::default().settings(|_| None);
        assert_eq!(none, ProxySettings::default());
    }

    #[test]
    fn a_certificate_has_a_key() {
        let read = |text: &str| {
            let registry: Registry = toml::from_str(text).unwrap();
            registry.settings(Path::new("/etc/thaw"))
        };
        let both = read("client-cert = \"c.pem\"\nclient-key = \"/k.pem\"\nca = [\"ca.pem\"]");
        let both = both.unwrap();
        let ClientCertificate { certificate, key } = both.client_certificate.unwrap();
        assert_eq!(certificate, Path::new("/etc/thaw/c.pem"));
        assert_eq!(key, Path::new("/k.pem"));
        assert_eq!(
            both.certificate_authorities,
            [Path::new("/etc/thaw/ca.pem")]
        );
        for half in ["client-cert = \"c.pem\"", "client-key = \"k.pem\""] {
            assert!(read(half).is_err(), "{half}");
        }
    }
}
