//! What a container is told of the function that it is: its environment, and the headers of its
//! requests.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::model::{LATEST, Target};

/// Where the function's code would be; an image has it wherever it likes.
const CODE_PATH: &str = "/code";

/// The variable that has the event of a container that is no server.
pub(crate) const EVENT: &str = "FC_CUSTOM_CONTAINER_EVENT";

/// What the machine calls itself.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) region: String,
    pub(crate) account: String,
}

/// The environment of an instance: `NAME=VALUE`.
pub(crate) fn environment(target: &Target, place: &Place, instance: &str) -> Vec<String> {
    let config = &target.config;
    let own = config.environment.iter();
    let own = own.map(|(name, value)| format!("{name}={value}"));
    let port = config.port.to_string();
    let memory = config.memory.to_string();
    let told = [
        ("FC_ACCOUNT_ID", place.account.as_str()),
        ("FC_REGION", &place.region),
        ("FC_SERVICE_NAME", &target.name.service),
        ("FC_FUNCTION_NAME", &target.name.function),
        ("FC_FUNCTION_HANDLER", &config.handler),
        ("FC_FUNCTION_MEMORY_SIZE", &memory),
        ("FC_CUSTOM_LISTEN_PORT", &port),
        ("FC_SERVER_PORT", &port),
        ("FC_INSTANCE_ID", instance),
        ("FC_QUALIFIER", &target.version),
        ("FC_FUNC_CODE_PATH", CODE_PATH),
    ];
    let told = told.iter().map(|(name, value)| format!("{name}={value}"));
    own.chain(told).collect()
}

/// What a request is for (`x-fc-control-path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Event,
    Http,
    Initialize,
    Hook,
}

impl Purpose {
    const fn path(self) -> Option<&'static str> {
        match self {
            Self::Event => Some("/invoke"),
            Self::Http => Some("/http-invoke"),
            Self::Initialize => Some("/initialize"),
            Self::Hook => None,
        }
    }
}

/// Puts the host's headers into a request; those of the same names that came with it go.
pub(crate) fn tell(
    headers: &mut HeaderMap,
    target: &Target,
    place: &Place,
    request_id: &str,
    purpose: Purpose,
) {
    strip(headers);
    let config = &target.config;
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("x-fc-request-id", request_id);
    if let Some(path) = purpose.path() {
        put("x-fc-control-path", path);
    }
    put("x-fc-function-name", &target.name.function);
    put("x-fc-function-handler", &config.handler);
    put("x-fc-function-memory", &config.memory.to_string());
    put("x-fc-function-timeout", &config.timeout.to_string());
    if let Some(initializer) = &config.initializer {
        put("x-fc-function-initializer", &initializer.handler);
        put(
            "x-fc-initialization-timeout",
            &initializer.timeout.to_string(),
        );
    }
    for (name, hook) in [
        ("x-fc-instance-lifecycle-pre-stop-handler", &config.pre_stop),
        (
            "x-fc-instance-lifecycle-pre-freeze-handler",
            &config.pre_freeze,
        ),
    ] {
        if let Some(hook) = hook {
            put(name, &hook.handler);
        }
    }
    put("x-fc-service-name", &target.name.service);
    put("x-fc-region", &place.region);
    put("x-fc-account-id", &place.account);
    put("x-fc-qualifier", &target.version);
    let version = if target.version == LATEST {
        ""
    } else {
        &target.version
    };
    put("x-fc-version-id", version);
}

/// Takes away what is between the host and its neighbour only: `x-fc-*`, and the headers of one
/// connection (RFC 9110, section 7.6.1).
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-fc-"));
    let ours: Vec<HeaderName> = ours.cloned().collect();
    let named = headers.get_all(hyper::header::CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(','));
    let named = named.filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let named: Vec<HeaderName> = named.collect();
    for name in ours.into_iter().chain(named) {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}
