//! Tokens and passwords, as registries ask for them (Docker's token authentication, RFC 6750 and
//! RFC 7617).
//!
//! A registry's first 401 says how it wants to be asked; that is remembered for the process. A
//! token is kept for its repository and access until shortly before it expires, fetched by one
//! task while the others wait for it, and dropped when the registry refuses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Request, Response, StatusCode, Url};
use serde::Deserialize;

use crate::RegistryError;
use crate::call::Call;
use crate::credentials::Credentials;
use crate::http::{Remote, locked};
use crate::retry::{Failure, Retry};

const MAX_TOKEN_BYTES: u64 = 64 << 10;
/// What a token that does not say lives (Docker's token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a token is renewed, at most; a short-lived one a tenth of its life.
const MARGIN: Duration = Duration::from_secs(30);
/// Tries of a login.
const LOGIN_TRIES: u32 = 3;
/// Tokens kept; over this all are forgotten and fetched again.
const MAX_TOKENS: usize = 4096;

/// What is to be done in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Access {
    Pull,
    Push,
    Delete,
    /// Nothing: a look whether the credentials are good.
    Login,
}

impl Access {
    fn scope(self, repository: &str) -> Option<String> {
        let actions = match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "pull,push,delete",
            Self::Login => return None,
        };
        Some(format!("repository:{repository}:{actions}"))
    }
}

/// How a registry wants to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// What is known of all registries.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: Mutex<HashMap<(String, String, Access), Slot>>,
}

/// An `Authorization` that was good, and how long it is thought to be.
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    pub(crate) renew_at: Option<Instant>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("renew_at", &self.renew_at)
            .finish_non_exhaustive()
    }
}

impl Token {
    fn good(&self) -> bool {
        self.renew_at.is_none_or(|then| Instant::now() < then)
    }
}

impl Remote {
    fn slot(&self, access: Access) -> Slot {
        let mut tokens = locked(&self.shared.auth.tokens);
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        let key = (self.registry.clone(), self.repository.clone(), access);
        Arc::clone(tokens.entry(key).or_default())
    }

    /// The `Authorization` to send: none while the registry has not asked for any.
    pub(crate) async fn grant(&self, access: Access) -> Result<Option<HeaderValue>, Failure> {
        let Some(challenge) = self.challenge() else {
            return Ok(None);
        };
        let slot = self.slot(access);
        let mut token = slot.lock().await;
        if let Some(token) = token.as_ref().filter(|token| token.good()) {
            return Ok(Some(token.header.clone()));
        }
        let credentials = self.shared.settings.credentials(&self.registry).await;
        let credentials = credentials.map_err(Failure::last)?;
        *token = self.fetch(&challenge, credentials, access).await?;
        Ok(token.as_ref().map(|token| token.header.clone()))
    }

    /// Learns from an answer of 401 or 403, and forgets the token that it refuses; `false` when
    /// another try would be the same again.
    pub(crate) async fn renew(
        &self,
        access: Access,
        response: &Response,
        refused: Option<&HeaderValue>,
    ) -> bool {
        match (response.status(), refused) {
            (StatusCode::UNAUTHORIZED, _) | (StatusCode::FORBIDDEN, Some(_)) => {}
            _ => return false,
        }
        let asked = challenges(response.headers());
        let known = match asked.into_iter().next() {
            Some(challenge) => {
                locked(&self.shared.auth.challenges).insert(self.registry.clone(), challenge);
                true
            }
            None => refused.is_some(),
        };
        if let Some(refused) = refused {
            let slot = self.slot(access);
            let mut token = slot.lock().await;
            // Another task may have renewed it meanwhile.
            if token.as_ref().is_some_and(|token| token.header == *refused) {
                *token = None;
            }
        }
        known
    }

    async fn fetch(
        &self,
        challenge: &Challenge,
        credentials: Option<Credentials>,
        access: Access,
    ) -> Result<Option<Token>, Failure> {
        let (realm, service) = match (challenge, &credentials) {
            (Challenge::Bearer { realm, service }, _) => (realm, service.as_deref()),
            (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                return Ok(Some(Token {
                    header: basic(user, password).map_err(|it| self.bad_token(&it))?,
                    renew_at: None,
                }));
            }
            (Challenge::Basic, _) => return Ok(None),
        };
        if credentials.is_some() && realm.scheme() != "https" && self.base.scheme() == "https" {
            return Err(self.bad_token("its token server is not reached by https"));
        }
        let scope = access.scope(&self.repository);
        let request = token_request(realm, service, scope.as_deref(), credentials.as_ref())
            .map_err(|reason| self.bad_token(&reason))?;
        let response = self.send(request, "a token").await?;
        if !response.status().is_success() {
            return Err(self.refusal("a token", response, true).await);
        }
        let body = self.read_all(response, "a token", MAX_TOKEN_BYTES).await?;
        read_token(&body)
            .map(Some)
            .map_err(|reason| self.bad_token(&reason))
    }

    /// Asks the registry for nothing in particular, as `user`.
    pub(crate) async fn check_password(
        &self,
        user: &str,
        password: &str,
    ) -> Result<(), RegistryError> {
        let credentials = Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        let deadline = Instant::now() + self.shared.settings.deadline;
        let mut retry = Retry::new(deadline, LOGIN_TRIES);
        loop {
            match self.check_once(&credentials).await {
                Ok(()) => return Ok(()),
                Err(failure) => retry.pause(failure).await.map_err(|error| match error {
                    RegistryError::Denied {
                        place,
                        what,
                        reason,
                        ..
                    } => RegistryError::Denied {
                        place,
                        what,
                        reason,
                        advice: "check user and password".to_owned(),
                    },
                    other => other,
                })?,
            }
        }
    }

    async fn check_once(&self, credentials: &Credentials) -> Result<(), Failure> {
        let what = "a login".to_owned();
        let call = Call::new(Method::GET, self.base.clone(), Access::Login, what);
        let response = self.send(call.request(&call.url, None), &call.what).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let learnt = self.renew(Access::Login, &response, None).await;
        let challenge = self.challenge().filter(|_| learnt);
        let Some(challenge) = challenge else {
            return Err(self.refusal(&call.what, response, true).await);
        };
        self.drain(response).await;
        let credentials = Some(credentials.clone());
        let token = self.fetch(&challenge, credentials, Access::Login).await?;
        let header = token.map(|token| token.header);
        let response = self.send(call.request(&call.url, header.as_ref()), &call.what);
        let response = response.await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.refusal(&call.what, response, true).await)
    }

    pub(crate) fn challenge(&self) -> Option<Challenge> {
        locked(&self.shared.auth.challenges)
            .get(&self.registry)
            .cloned()
    }

    fn bad_token(&self, reason: &str) -> Failure {
        Failure::last(self.malformed("token", reason))
    }
}

/// `Authorization: Basic`, marked so that nothing prints it.
fn basic(user: &str, password: &str) -> Result<HeaderValue, String> {
    let text = STANDARD.encode(format!("{user}:{password}"));
    sensitive(&format!("Basic {text}"))
}

fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "it has characters that no header may have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// By password, or without: GET (Docker's "Token Authentication Specification"). By identity
/// token: POST ("Docker Registry v2 authentication using OAuth2").
fn token_request(
    realm: &Url,
    service: Option<&str>,
    scope: Option<&str>,
    credentials: Option<&Credentials>,
) -> Result<Request, String> {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        for (key, value) in [("service", service), ("scope", scope)] {
            value.map(|value| query.append_pair(key, value));
        }
    }
    match credentials {
        None => Ok(Request::new(Method::GET, url)),
        Some(Credentials::Password { user, password }) => {
            url.query_pairs_mut().append_pair("account", user);
            let mut request = Request::new(Method::GET, url);
            let value = basic(user, password)?;
            request.headers_mut().insert(AUTHORIZATION, value);
            Ok(request)
        }
        Some(Credentials::Identity { token }) => {
            url.query_pairs_mut()
                .append_pair("client_id", "thaw")
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token);
            let form = url.query().unwrap_or_default().to_owned();
            let mut request = Request::new(Method::POST, realm.clone());
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(CONTENT_TYPE, kind);
            *request.body_mut() = Some(form.into());
            Ok(request)
        }
    }
}

pub(crate) fn read_token(body: &[u8]) -> Result<Token, String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    // Not the parser's message: it might quote the token.
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "the answer is no JSON of a token".to_owned())?;
    let token = answer.token.filter(|token| !token.is_empty());
    let token = token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| "the answer holds none".to_owned())?;
    let life = answer.expires_in.filter(|life| *life > 0);
    let life = life
        .map_or(DEFAULT_LIFE, Duration::from_secs)
        .min(LONGEST_LIFE);
    Ok(Token {
        header: sensitive(&format!("Bearer {token}"))?,
        renew_at: Some(Instant::now() + life - MARGIN.min(life / 10)),
    })
}

/// What an answer asks for, tokens before passwords.
pub(crate) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let asked = headers.get_all(WWW_AUTHENTICATE).iter();
    let asked = asked.filter_map(|value| Challenge::parse(value.to_str().ok()?));
    let mut asked: Vec<Challenge> = asked.collect();
    asked.sort_by_key(|challenge| *challenge == Challenge::Basic);
    asked
}

impl Challenge {
    /// One `WWW-Authenticate` value (RFC 9110, section 11.6.1), as registries write it: one
    /// scheme and its parameters.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        let realm = Url::parse(&parameters.remove("realm")?).ok()?;
        matches!(realm.scheme(), "http" | "https").then(|| Self::Bearer {
            realm,
            service: parameters.remove("service"),
        })
    }
}

/// `key="value", key=value`, backslashes undone.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let quoted = after.starts_with('"');
        if quoted {
            chars.next();
        }
        let mut end = after.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if quoted => value.extend(chars.next().map(|(_, c)| c)),
                '"' if quoted => {
                    end = at + 1;
                    break;
                }
                ',' if !quoted => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        let key = key.trim_start_matches([',', ' ']).trim();
        found.insert(key.to_ascii_lowercase(), value.trim_end().to_owned());
        rest = after.get(end..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="https://auth.example/token",service="reg\"x",scope="repository:a:pull,push""#;
        let Some(Challenge::Bearer { realm, service }) = Challenge::parse(text) else {
            panic!("no challenge");
        };
        assert_eq!(realm.as_str(), "https://auth.example/token");
        assert_eq!(service.as_deref(), Some("reg\"x"));
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Basic"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
        assert_eq!(Challenge::parse(r#"Bearer realm="file:///etc""#), None);
        assert_eq!(parameters(r#"a=1, b="2,3" ,c"#).len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_challenge_is_read_or_refused(text in "(?s)(Bearer )?.{0,60}", more in "[a,=\"\\\\ é]{0,40}") {
            let _ = Challenge::parse(&text);
            let _ = Challenge::parse(&format!("Bearer realm={more}"));
        }
    }

    #[test]
    fn tokens_are_read() {
        let life = |text: &str| {
            let token = read_token(text.as_bytes()).unwrap();
            assert_eq!(token.header, "Bearer t");
            token
                .renew_at
                .unwrap()
                .saturating_duration_since(Instant::now())
                .as_secs_f64()
        };
        assert!((53.0..=54.0).contains(&life(r#"{"token":"t"}"#)));
        assert!((269.0..=270.0).contains(&life(r#"{"access_token":"t","expires_in":300}"#)));
        assert!(life(r#"{"token":"t","expires_in":1}"#) <= 0.9);
        assert!(life(r#"{"token":"t","expires_in":18446744073709551615}"#) > 1000.0);
        for bad in ["", "[]", "{}", r#"{"token":""}"#, "{\"token\":\"a\\nb\"}"] {
            assert!(read_token(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
