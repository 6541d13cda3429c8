//! Passwords from where Docker keeps them: `config.json` and the credential helpers it names.
//!
//! The file is read anew for each token, which is seldom: a login takes effect at once.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::RegistryError;

use crate::reasons::printable;
use crate::settings::Settings;

const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_HELPER_BYTES: u64 = 64 << 10;

/// What proves who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password { user: String, password: String },
    Identity { token: String },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Config {
    fn helper(&self, key: &str) -> Option<&str> {
        let helper = self.cred_helpers.get(key).or(self.creds_store.as_ref());
        helper.map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Keys may be written as addresses; only their host counts.
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.auths.get(key).or_else(|| {
            let mut entries = self.auths.iter();
            entries
                .find(|(name, _)| host_of(name) == host_of(key))
                .map(|(_, entry)| entry)
        })
    }
}

/// The name under which Docker keeps a registry's credentials.
fn key_of(registry: &str) -> &str {
    match registry {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    }
}

fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    let rest = rest.unwrap_or(key);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

impl Settings {
    /// The credentials for a registry, if there are any.
    pub(crate) async fn credentials(
        &self,
        registry: &str,
    ) -> Result<Option<Credentials>, RegistryError> {
        let Some(path) = &self.docker_config else {
            return Ok(None);
        };
        let config = read_config(path)?;
        let config: Config = serde_json::from_value(config).map_err(|it| in_file(path, &it))?;
        let key = key_of(registry);
        if let Some(helper) = config.helper(key) {
            let answer = self.run_helper(helper, "get", key.as_bytes()).await;
            match answer {
                Ok(answer) => return read_helper(helper, &answer),
                Err(HelperError::Unknown) => {}
                Err(HelperError::Failed(error)) => return Err(error),
            }
        }
        config.entry(key).map_or(Ok(None), |entry| {
            read_entry(entry).map_err(|reason| bad(&path.display().to_string(), reason))
        })
    }

    /// Keeps credentials as Docker does: with its helper where one is configured, else in the
    /// file, readable to its owner alone. The rest of the file stays as it is.
    pub(crate) async fn keep_credentials(
        &self,
        registry: &str,
        user: &str,
        password: &str,
    ) -> Result<(), RegistryError> {
        let Some(path) = &self.docker_config else {
            return Err(bad(
                "Docker's config.json",
                "none is configured (docker-config), and there is no home directory",
            ));
        };
        let mut config = read_config(path)?;
        let known: Config =
            serde_json::from_value(config.clone()).map_err(|it| in_file(path, &it))?;
        let key = key_of(registry);
        if let Some(helper) = known.helper(key) {
            let input = json!({"ServerURL": key, "Username": user, "Secret": password});
            let input = input.to_string();
            return match self.run_helper(helper, "store", input.as_bytes()).await {
                Ok(_) => Ok(()),
                Err(HelperError::Unknown) => Err(bad(helper, "it does not store credentials")),
                Err(HelperError::Failed(error)) => Err(error),
            };
        }
        let auth = STANDARD.encode(format!("{user}:{password}"));
        match config.get_mut("auths").and_then(Value::as_object_mut) {
            Some(auths) => drop(auths.insert(key.to_owned(), json!({"auth": auth}))),
            None => config["auths"] = json!({key: {"auth": auth}}),
        }
        write_config(path, &config)
    }
}

fn read_config(path: &Path) -> Result<Value, RegistryError> {
    let failed = |source| RegistryError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(json!({})),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    let read = file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text);
    if read.map_err(failed)? as u64 > MAX_CONFIG_BYTES {
        return Err(bad(&path.display().to_string(), "the file is too large"));
    }
    if text.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(&text).map_err(|error| in_file(path, &error))? {
        config @ Value::Object(_) => Ok(config),
        _ => Err(bad(&path.display().to_string(), "it is no JSON object")),
    }
}

/// By a new file and a rename: no reader sees half of it, and no one but the owner any of it.
fn write_config(path: &Path, config: &Value) -> Result<(), RegistryError> {
    // A link stays a link: what it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |source| RegistryError::File {
        action: "write",
        path: path.clone(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut name = path.clone().into_os_string();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(format!("{config:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // What failed is told; that the rest of it cannot be removed either adds nothing.
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

fn read_entry(entry: &Entry) -> Result<Option<Credentials>, &'static str> {
    if !entry.identitytoken.is_empty() {
        let token = entry.identitytoken.clone();
        return Ok(Some(Credentials::Identity { token }));
    }
    let (user, password) = if entry.auth.is_empty() {
        (entry.username.clone(), entry.password.clone())
    } else {
        let text = STANDARD.decode(entry.auth.trim()).ok();
        let text = text.and_then(|text| String::from_utf8(text).ok());
        let text = text.ok_or("an auth entry is no base64 text")?;
        let (user, password) = text.split_once(':').ok_or("an auth entry has no colon")?;
        // Docker once padded with NUL bytes.
        (user.to_owned(), password.trim_end_matches('\0').to_owned())
    };
    Ok((!user.is_empty()).then_some(Credentials::Password { user, password }))
}

fn read_helper(helper: &str, answer: &[u8]) -> Result<Option<Credentials>, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    // Not the parser's message: it might quote the secret.
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|_| bad(helper, "it answers something else than credentials"))?;
    Ok(match answer.username.as_str() {
        "" => None,
        "<token>" => Some(Credentials::Identity {
            token: answer.secret,
        }),
        _ => Some(Credentials::Password {
            user: answer.username,
            password: answer.secret,
        }),
    })
}

enum HelperError {
    /// It knows no such registry.
    Unknown,
    Failed(RegistryError),
}

impl Settings {
    /// Runs `docker-credential-HELPER ACTION` (the protocol of docker-credential-helpers).
    async fn run_helper(
        &self,
        helper: &str,
        action: &str,
        input: &[u8],
    ) -> Result<Vec<u8>, HelperError> {
        let origin = format!("docker-credential-{helper}");
        let failed = |reason: &str| HelperError::Failed(bad(&origin, reason));
        // The name comes from a file: it may name a program in PATH, not a path.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !helper.chars().all(plain) {
            return Err(failed("this is no name of a helper"));
        }
        let program = self.find_helper(&origin).ok_or_else(|| {
            let path = self.helper_path.to_string_lossy();
            failed(&format!("there is no such program in {path}"))
        })?;
        let mut command = std::process::Command::new(program);
        (self.prepare_helper)(&mut command);
        let mut command = Command::from(command);
        let answer = talk(command.arg(action), input);
        match tokio::time::timeout(self.helper_timeout, answer).await {
            Ok(Ok((status, answer))) if status.success() => Ok(answer),
            Ok(Ok((_, answer))) => {
                let text = printable(&String::from_utf8_lossy(&answer));
                if text.contains("credentials not found") {
                    return Err(HelperError::Unknown);
                }
                Err(failed(if text.is_empty() { "it failed" } else { &text }))
            }
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Err(_) => {
                let seconds = self.helper_timeout.as_secs_f64();
                Err(failed(&format!("it did not answer within {seconds:.1} s")))
            }
        }
    }

    fn find_helper(&self, program: &str) -> Option<PathBuf> {
        let dirs = std::env::split_paths(&self.helper_path);
        let mut files = dirs.map(|dir| dir.join(program));
        files.find(|file| file.is_absolute() && file.is_file())
    }
}

/// Writes `input` to a program and reads what it answers; it does not outlive the caller.
async fn talk(
    command: &mut Command,
    input: &[u8],
) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading.
        let _ = stdin.write_all(input).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MAX_HELPER_BYTES)
            .read_to_end(&mut answer)
            .await?;
    }
    Ok((child.wait().await?, answer))
}

fn bad(origin: &str, reason: &str) -> RegistryError {
    RegistryError::Credentials {
        origin: origin.to_owned(),
        reason: reason.to_owned(),
    }
}

fn in_file(path: &Path, error: &serde_json::Error) -> RegistryError {
    // The place alone: the message might quote a password.
    let reason = format!(
        "bad JSON in line {}, column {}",
        error.line(),
        error.column()
    );
    bad(&path.display().to_string(), &reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn settings(text: Option<&str>) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker/config.json");
        if let Some(text) = text {
            fs::create_dir(dir.path().join("docker")).unwrap();
            fs::write(&path, text).unwrap();
        }
        let settings = Settings {
            docker_config: Some(path),
            ..Settings::default()
        };
        (dir, settings)
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    #[tokio::test]
    async fn entries_are_found_by_host() {
        let (_dir, settings) = settings(Some(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"aHViOnA6dw=="},
                "https://a.example/v2/":{"username":"u","password":"p"},
                "b.example:5000":{"identitytoken":"t"},
                "c.example":{},
                "d.example":{"auth":"*"}}}"#,
        ));
        let get = async |host: &str| settings.credentials(host).await;
        assert_eq!(get("docker.io").await.unwrap(), password("hub", "p:w"));
        assert_eq!(get("a.example").await.unwrap(), password("u", "p"));
        let token = "t".to_owned();
        let identity = Some(Credentials::Identity { token });
        assert_eq!(get("b.example:5000").await.unwrap(), identity);
        assert_eq!(get("b.example").await.unwrap(), None);
        assert_eq!(get("c.example").await.unwrap(), None);
        assert!(get("d.example").await.is_err());
    }

    #[tokio::test]
    async fn a_login_is_kept_beside_what_is_there() {
        let (_dir, settings) = settings(Some(
            r#"{"x":{"y":1},"auths":{"o.example":{"auth":"YTpi"}}}"#,
        ));
        settings
            .keep_credentials("n.example", "me", "secret")
            .await
            .unwrap();
        let path = settings.docker_config.clone().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(text["x"]["y"], 1);
        assert_eq!(
            settings.credentials("o.example").await.unwrap(),
            password("a", "b")
        );
        assert_eq!(
            settings.credentials("n.example").await.unwrap(),
            password("me", "secret")
        );
    }

    #[tokio::test]
    async fn a_first_login_makes_the_file() {
        let (_dir, settings) = settings(None);
        assert_eq!(settings.credentials("docker.io").await.unwrap(), None);
        settings
            .keep_credentials("docker.io", "me", "s")
            .await
            .unwrap();
        assert_eq!(
            settings.credentials("docker.io").await.unwrap(),
            password("me", "s")
        );
    }

    /// Puts a helper, a shell script, beside the configuration.
    fn helper(settings: &mut Settings, name: &str, script: &str) {
        let dir = settings.docker_config.as_ref().unwrap().parent().unwrap();
        let path = dir.join(format!("docker-credential-{name}"));
        // Written by another process: a child that another test forks meanwhile would else hold it
        // open for writing, and to start it would fail.
        let status = std::process::Command::new("sh")
            .args([
                "-c",
                r#"printf '#!/bin/sh\n%s\n' "$2" > "$1"; chmod 755 "$1""#,
            ])
            .args(["sh".as_ref(), path.as_os_str(), script.as_ref()])
            .status();
        assert!(status.unwrap().success());
        settings.helper_path = dir.into();
    }

    /// Answers for one registry, and as a helper does for any other.
    const HELPER: &str = r#"
        read -r server
        if [ "$1 $server" = "get known.example" ]; then
            echo '{"ServerURL":"known.example","Username":"USER","Secret":"s"}'
        else
            echo 'credentials not found in native keychain'
            exit 1
        fi"#;

    #[tokio::test]
    async fn helpers_go_before_the_store_and_the_store_before_the_file() {
        let (_dir, mut settings) = settings(Some(
            r#"{"auths":{"known.example":{"auth":"YTpi"},"file.example":{"auth":"YTpi"}},
                "credHelpers":{"known.example":"own"},"credsStore":"all"}"#,
        ));
        helper(&mut settings, "own", &HELPER.replace("USER", "<token>"));
        helper(&mut settings, "all", &HELPER.replace("USER", "me"));
        let get = async |settings: &Settings, host: &str| settings.credentials(host).await;
        let token = Some(Credentials::Identity { token: "s".into() });
        assert_eq!(get(&settings, "known.example").await.unwrap(), token);
        let file = get(&settings, "file.example").await.unwrap();
        assert_eq!(file, password("a", "b"), "the store does not know it");
        let path = settings.docker_config.clone().unwrap();
        fs::write(&path, r#"{"credsStore":"all"}"#).unwrap();
        let stored = get(&settings, "known.example").await.unwrap();
        assert_eq!(stored, password("me", "s"));
        assert_eq!(get(&settings, "other.example").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_or_hangs_is_named() {
        let (_dir, mut settings) = settings(Some(
            r#"{"credHelpers":{"a.example":"missing","b.example":"hangs","c.example":"fails"}}"#,
        ));
        helper(&mut settings, "hangs", "exec sleep 60");
        helper(&mut settings, "fails", "echo the vault is sealed; exit 1");
        settings.helper_timeout = Duration::from_millis(300);
        let error = async |host: &str| settings.credentials(host).await.unwrap_err().to_string();
        let path = settings.helper_path.to_str().unwrap();
        assert_eq!(
            error("a.example").await,
            format!(
                "cannot use credentials from docker-credential-missing: \
                 there is no such program in {path}"
            )
        );
        assert_eq!(
            error("b.example").await,
            "cannot use credentials from docker-credential-hangs: it did not answer within 0.3 s"
        );
        assert_eq!(
            error("c.example").await,
            "cannot use credentials from docker-credential-fails: the vault is sealed"
        );
    }

    #[tokio::test]
    async fn helpers_are_named_not_pathed() {
        let (_dir, settings) = settings(Some(r#"{"credsStore":"../../bin/sh"}"#));
        let error = settings.credentials("x.example").await.unwrap_err();
        assert!(error.to_string().contains("no name of a helper"), "{error}");
    }

    #[test]
    fn helpers_answer_passwords_or_tokens() {
        let read = |text: &str| read_helper("x", text.as_bytes());
        let answer = r#"{"ServerURL":"s","Username":"u","Secret":"p"}"#;
        assert_eq!(read(answer).unwrap(), password("u", "p"));
        let answer = r#"{"Username":"<token>","Secret":"t"}"#;
        assert!(matches!(
            read(answer).unwrap(),
            Some(Credentials::Identity { .. })
        ));
        assert!(read("credentials").is_err());
    }
}
