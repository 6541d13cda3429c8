//! The vectors were made by the SDKs' own code.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

const SECRET: &str = "test-secret";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const BODY: &str = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";

/// A request that a test may change before it is checked.
#[derive(Clone)]
struct Request {
    method: &'static str,
    path: String,
    query: String,
    headers: HeaderMap,
    body: &'static str,
}

impl Request {
    fn new(method: &'static str, path: &str, query: &str, headers: &[(&str, &str)]) -> Self {
        let (path, query) = (path.to_owned(), query.to_owned());
        let headers = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let (headers, body) = (headers.collect(), EMPTY);
        Self {
            method,
            path,
            query,
            headers,
            body,
        }
    }

    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut changed = self.clone();
        let value = HeaderValue::from_str(value).unwrap();
        changed.headers.insert(name, value);
        changed
    }

    fn without(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.remove(name).unwrap();
        changed
    }

    fn at(&self, path: &str, query: &str) -> Self {
        let (path, query) = (path.to_owned(), query.to_owned());
        Self {
            path,
            query,
            ..self.clone()
        }
    }

    fn check_at(&self, secret: &str, now: Timestamp) -> Result<(), AuthError> {
        let claim = Claim::of(&self.headers)?.unwrap();
        assert_eq!(claim.key(), "LTAI-TEST");
        let signed = Signed {
            method: self.method,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            body_sha256: if claim.signs_body() { self.body } else { "" },
        };
        claim.verify(&signed, secret, now)
    }

    fn check(&self) -> Result<(), AuthError> {
        self.check_at(SECRET, now(0))
    }
}

/// Seconds after what the vectors are dated.
fn now(seconds: i64) -> Timestamp {
    let date: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
    date + SignedDuration::from_secs(seconds)
}

const DATE: (&str, &str) = ("Date", "Mon, 23 Nov 2026 08:00:00 GMT");

fn invoke_2016() -> Request {
    let headers = [
        ("X-Fc-Log-Type", "Tail"),
        DATE,
        ("Content-Type", "application/json"),
        ("X-Fc-Invocation-Type", "Sync"),
        (
            "Authorization",
            "FC LTAI-TEST:ladt9SQwoV6dBx+F3Wu+AfgfkMET6JI9BieYgetYLoY=",
        ),
        ("Host", "127.0.0.1"),
    ];
    Request::new(
        "POST",
        "/2016-08-15/services/demo/functions/web/invocations",
        "",
        &headers,
    )
}

fn proxy(query: &str, signature: &str) -> Request {
    let authorization = format!("FC LTAI-TEST:{signature}");
    let headers = [
        DATE,
        ("Content-Type", "application/json"),
        ("Authorization", &authorization),
    ];
    Request::new(
        "GET",
        "/2016-08-15/proxy/demo.LATEST/web/a%20b",
        query,
        &headers,
    )
}

fn proxy_python(query: &str) -> Request {
    proxy(query, "V1jMOrT4QVZtf31xAKa6QQ/w8VrzfTheKXeADR+tc0I=")
}

fn proxy_node(query: &str) -> Request {
    proxy(query, "L+85dJM5nvmxwHeF57C+orzrui2dK5skbEcCAG3kQRI=")
}

fn acs3(signed: &str, signature: &str) -> String {
    format!("ACS3-HMAC-SHA256 Credential=LTAI-TEST,SignedHeaders={signed},Signature={signature}")
}

fn invoke_2023() -> Request {
    let authorization = acs3(
        "accept;content-type;host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version;x-fc-invocation-type",
        "f9a53df094abda7694fe7d48ceebe70837a328b24b2d81218a7c32a79e515c2d",
    );
    let headers = [
        ("accept", "application/json"),
        ("content-type", "application/octet-stream"),
        ("host", "127.0.0.1:9980"),
        ("x-acs-action", "InvokeFunction"),
        ("x-acs-content-sha256", BODY),
        ("x-acs-date", "2026-11-23T08:00:00Z"),
        ("x-acs-signature-nonce", "00000000000000000000000000000001"),
        ("x-acs-version", "2023-03-30"),
        ("x-fc-invocation-type", "Sync"),
        ("authorization", &authorization),
        ("user-agent", "not signed"),
    ];
    let path = "/2023-03-30/functions/web/invocations";
    let request = Request::new("POST", path, "qualifier=LATEST", &headers);
    Request {
        body: BODY,
        ..request
    }
}

fn get_2021() -> Request {
    let authorization = acs3(
        "accept;host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version",
        "446116565cd77278092da1edc49f6d8bfd73932d62b6d121c4bbf40ed1dfba91",
    );
    let headers = [
        ("accept", "application/json"),
        ("host", "127.0.0.1:9980"),
        ("x-acs-action", "GetFunction"),
        ("x-acs-content-sha256", EMPTY),
        ("x-acs-date", "2026-11-23T08:00:00Z"),
        ("x-acs-signature-nonce", "00000000000000000000000000000001"),
        ("x-acs-version", "2021-04-06"),
        ("authorization", &authorization),
    ];
    let path = "/2021-04-06/services/demo/functions/web";
    Request::new("GET", path, "qualifier=a%20b%2Fc", &headers)
}

#[test]
fn the_clients_own_signatures_are_true() {
    invoke_2016().check().unwrap();
    proxy_python("y=2&y=1&x=%2F&z").check().unwrap();
    proxy_node("y=2&y=1&x=%2F").check().unwrap();
    invoke_2023().check().unwrap();
    get_2021().check().unwrap();
}

#[test]
fn a_proxy_url_may_be_signed_in_any_clients_way() {
    // Escaped otherwise, other order, the empty value with a sign.
    proxy_python("x=/&y=1&y=2&z=").check().unwrap();
    proxy_python("z&x=%2f&y=%32&y=1").check().unwrap();
    // As given, which is not sorted.
    let signed = sign_fc("/2016-08-15/proxy/demo.LATEST/web/a%20b\ny=2\nx=a b");
    proxy("y=2&x=a+b", &signed).check().unwrap();
    proxy("y=2&x=a%20b", &signed).check().unwrap();
    assert_eq!(
        proxy("x=a+b&y=2", &signed).check(),
        Err(AuthError::Mismatch)
    );
    // Without a query the line feed stays.
    let signed = sign_fc("/2016-08-15/proxy/demo.LATEST/web/a b\n");
    proxy("", &signed).check().unwrap();
}

fn sign_fc(resource: &str) -> String {
    use base64::Engine;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let message = format!("GET\n\napplication/json\n{}\n{resource}", DATE.1);
    let tag = ring::hmac::sign(&key, message.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(tag)
}

#[test]
fn a_line_feed_in_the_path_does_not_stand_for_a_query() {
    let signed = sign_fc("/2016-08-15/proxy/demo/web/a\nx=1\ny=2");
    let path = "/2016-08-15/proxy/demo/web/a";
    proxy("", &signed).at(path, "x=1&y=2").check().unwrap();
    let tricked = proxy("", &signed).at(&format!("{path}%0Ax=1"), "y=2");
    assert_eq!(tricked.check(), Err(AuthError::Mismatch));
}

#[test]
fn only_proxy_urls_have_their_query_signed_by_fc() {
    let request = invoke_2016();
    request.at(&request.path, "qualifier=1").check().unwrap();
    let decoded = request.path.replace("web", "%77eb");
    assert_eq!(request.at(&decoded, "").check(), Err(AuthError::Mismatch));
}

#[test]
fn an_acs3_query_may_be_written_in_any_order_and_escaping() {
    let request = get_2021();
    let same = request.at(&request.path, "&qualifier=a+b/c");
    same.check().unwrap();
    let request = invoke_2023();
    let other = request.at(&request.path, "qualifier=LATEST&x=1");
    assert_eq!(other.check(), Err(AuthError::Mismatch));
}

#[test]
fn a_changed_part_is_refused() {
    let other = Err(AuthError::Mismatch);
    for request in [
        invoke_2016(),
        proxy_node("y=2&y=1&x=%2F"),
        invoke_2023(),
        get_2021(),
    ] {
        let method = Request {
            method: "PUT",
            ..request.clone()
        };
        assert_eq!(method.check(), other);
        assert_eq!(
            request
                .at("/2016-08-15/services/other", &request.query)
                .check(),
            other
        );
        assert_eq!(request.check_at("test-secreT", now(0)), other);
        assert_eq!(request.check_at("", now(0)), other);
    }
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-md5", "x"),
        ("date", "Mon, 23 Nov 2026 08:00:01 GMT"),
        ("x-fc-log-type", "None"),
        ("x-fc-account-id", "1"),
    ] {
        assert_eq!(invoke_2016().with(name, value).check(), other, "{name}");
    }
    assert_eq!(invoke_2016().without("x-fc-log-type").check(), other);
    for query in [
        "y=2&y=1&x=%2F&z",
        "y=2&y=1",
        "y=2&y=1&x=%2E",
        "",
        "x=%2F&y=12",
    ] {
        assert_eq!(proxy_node(query).check(), other, "{query}");
    }
    for name in [
        "accept",
        "content-type",
        "host",
        "x-acs-action",
        "x-acs-version",
    ] {
        assert_eq!(invoke_2023().with(name, "x").check(), other, "{name}");
        let gone = AuthError::MissingHeader(name.to_owned());
        assert_eq!(invoke_2023().without(name).check(), Err(gone));
    }
    for (name, value) in [
        ("x-acs-date", "2026-11-23T08:00:01Z"),
        ("x-acs-signature-nonce", "2"),
    ] {
        assert_eq!(invoke_2023().with(name, value).check(), other, "{name}");
    }
    let request = invoke_2023();
    assert_eq!(request.at(&request.path, "qualifier=2").check(), other);
    let body = Request {
        body: EMPTY,
        ..request.clone()
    };
    assert_eq!(body.check(), Err(AuthError::OtherBody));
    let both = body.with("x-acs-content-sha256", EMPTY);
    assert_eq!(both.check(), other, "the digest is signed");
    // What is not signed may change.
    request.with("user-agent", "x").check().unwrap();
}

#[test]
fn a_signature_is_good_for_fifteen_minutes_either_way() {
    for request in [invoke_2016(), invoke_2023()] {
        for seconds in [-900, 0, 900] {
            request.check_at(SECRET, now(seconds)).unwrap();
        }
        for seconds in [-901, 901, 86400 * 365] {
            let (signed, now) = (now(0), now(seconds));
            let skewed = AuthError::Skewed { signed, now };
            assert_eq!(request.check_at(SECRET, now), Err(skewed));
        }
    }
    for (request, name) in [(invoke_2016(), "date"), (invoke_2023(), "x-acs-date")] {
        let missing = AuthError::MissingHeader(name.to_owned());
        assert_eq!(request.without(name).check(), Err(missing));
        let malformed = request.with(name, "yesterday").check().unwrap_err();
        assert_eq!(
            (malformed.status(), malformed.code()),
            (400, "InvalidArgument")
        );
    }
}

#[test]
fn date_and_body_have_to_be_signed() {
    for (kept, missing) in [
        ("x-acs-date", "x-acs-content-sha256"),
        ("x-acs-content-sha256", "x-acs-date"),
    ] {
        let claim = acs3(&format!("host;{kept}"), &"0".repeat(64));
        let request = invoke_2023().with("authorization", &claim);
        let error = AuthError::MissingHeader(missing.to_owned());
        assert_eq!(request.check(), Err(error));
    }
}

#[test]
fn a_claim_is_of_a_known_form() {
    let of = |text: &str| {
        let headers = Request::new("GET", "/", "", &[("authorization", text)]).headers;
        Claim::of(&headers).map(|claim| claim.map(|claim| claim.key().to_owned()))
    };
    assert_eq!(of("FC a:c2ln"), Ok(Some("a".to_owned())));
    let spaced = format!(
        "ACS3-HMAC-SHA256 Signature={}, SignedHeaders=a, Credential=k",
        "0".repeat(64)
    );
    assert_eq!(of(&spaced), Ok(Some("k".to_owned())));
    assert_eq!(Claim::of(&HeaderMap::new()).unwrap().map(|_| ()), None);
    let long = format!("FC {}:c2ln", "a".repeat(129));
    let huge = format!("FC a:{}", "a".repeat(8192));
    let hex = "0".repeat(64);
    for text in [
        "",
        "FC",
        "FC ",
        "FC a",
        "FC :c2ln",
        "FC a b:c2ln",
        "FC a:???",
        "fc a:c2ln",
        "Basic YTpi",
        &long,
        &huge,
        "ACS3-HMAC-SHA256 Credential=k",
        "ACS3-HMAC-SHA256",
        &acs3("a", "00"),
        &acs3("a", &"g".repeat(64)),
        &acs3("a", &"0".repeat(65)),
        &acs3("a", &"0".repeat(66)),
        &acs3("", &hex),
        &acs3("A", &hex),
        &acs3("a;a", &hex),
        &acs3("a;;b", &hex),
        &format!("{},Credential=b", acs3("a", &hex)),
        &format!("{},Other=b", acs3("a", &hex)),
        &format!("{},", acs3("a", &hex)),
        &acs3(
            &(0..101)
                .map(|n| format!("x-{n}"))
                .collect::<Vec<_>>()
                .join(";"),
            &hex,
        ),
    ] {
        let error = of(text).unwrap_err();
        assert_eq!(
            (error.status(), error.code()),
            (400, "InvalidArgument"),
            "{text}"
        );
    }
    let mut twice = invoke_2016().headers;
    twice.append("authorization", HeaderValue::from_static("FC a:c2ln"));
    assert!(Claim::of(&twice).is_err());
}

#[test]
fn a_target_is_bounded() {
    let query = "a".repeat(MAX_TARGET_BYTES);
    for request in [invoke_2016(), invoke_2023()] {
        let length = request.path.len() + query.len();
        let error = AuthError::TargetTooLong(length);
        assert_eq!(request.at(&request.path, &query).check(), Err(error));
    }
}

#[test]
fn a_header_that_is_there_twice_is_refused_or_signed() {
    let mut request = invoke_2016();
    request
        .headers
        .append("content-type", HeaderValue::from_static("text/plain"));
    assert_eq!(request.check().unwrap_err().code(), "InvalidArgument");
    let mut request = invoke_2016();
    request
        .headers
        .append("x-fc-log-type", HeaderValue::from_static("None"));
    assert_eq!(request.check(), Err(AuthError::Mismatch));
    let mut request = invoke_2023();
    request
        .headers
        .append("host", HeaderValue::from_static("other"));
    assert_eq!(request.check(), Err(AuthError::Mismatch));
}

#[test]
fn an_acs3_request_is_known_by_its_nonce_or_its_signature() {
    let nonce = |request: &Request| {
        let claim = Claim::of(&request.headers).unwrap().unwrap();
        claim.nonce(&request.headers)
    };
    assert_eq!(nonce(&invoke_2016()), None);
    assert_eq!(
        nonce(&invoke_2023()).unwrap(),
        "00000000000000000000000000000001"
    );
    // A nonce that is not signed could be changed by whoever replays.
    let unsigned = invoke_2023().with("authorization", &acs3("host", &"ab".repeat(32)));
    assert_eq!(nonce(&unsigned).unwrap(), "ab".repeat(32));
}

#[test]
fn errors_have_the_services_codes() {
    let expected = [
        (
            AuthError::MissingHeader("date".to_owned()),
            400,
            "MissingRequiredHeader",
        ),
        (
            AuthError::UnknownKey("a".to_owned()),
            403,
            "InvalidAccessKeyID",
        ),
        (AuthError::Mismatch, 403, "SignatureNotMatch"),
        (AuthError::OtherBody, 403, "SignatureNotMatch"),
        (
            AuthError::Skewed {
                signed: now(0),
                now: now(1),
            },
            403,
            "AccessDenied",
        ),
        (AuthError::Replayed, 400, "SignatureNonceUsed"),
    ];
    for (error, status, code) in expected {
        assert_eq!((error.status(), error.code()), (status, code));
    }
}

fn any_headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof![
        Just("date".to_owned()),
        Just("content-type".to_owned()),
        Just("x-acs-date".to_owned()),
        Just("x-acs-content-sha256".to_owned()),
        Just("x-acs-signature-nonce".to_owned()),
        "x-fc-[a-z]{0,4}",
        "[a-z-]{1,6}",
    ];
    let value = prop_oneof![
        Just(DATE.1.as_bytes().to_vec()),
        Just(b"2026-11-23T08:00:00Z".to_vec()),
        Just(EMPTY.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec((name, value), 0..12)
}

fn any_claim() -> impl Strategy<Value = String> {
    prop_oneof![
        "FC [a-zA-Z]{0,4}:[a-zA-Z0-9+/]{0,44}={0,2}",
        "ACS3-HMAC-SHA256 Credential=[a-z]{0,4},SignedHeaders=(x-acs-date;x-acs-content-sha256(;[a-z-]{0,8}){0,3}),Signature=[0-9a-f]{64}",
        "ACS3-HMAC-SHA256 [a-zA-Z=,;]{0,60}",
        "[ -~]{0,60}",
    ]
}

proptest! {
    #[test]
    fn nothing_unsigned_is_let_in_and_nothing_panics(
        claim in any_claim(),
        headers in any_headers(),
        path in prop_oneof!["/2016-08-15/proxy/[ -~]{0,30}", "\\PC{0,30}"],
        query in "[a-c=&%+0-9A-F\\PC]{0,40}",
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value)) {
                map.append(name, value);
            }
        }
        map.insert("authorization", HeaderValue::from_str(&claim).unwrap());
        let signed = Signed { method: "GET", path: &path, query: &query, headers: &map, body_sha256: EMPTY };
        if let Ok(Some(claim)) = Claim::of(&map) {
            let _ = claim.nonce(&map);
            prop_assert!(claim.verify(&signed, SECRET, now(0)).is_err());
        }
    }
}
