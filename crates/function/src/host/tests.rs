#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Fake, config};

/// A function `demo/web` whose image was changed from `old` to `new`, which nobody has accelerated.
fn changed(host: &Host) -> Function {
    let now = Timestamp::now();
    let mut function = Function {
        name: FunctionName::parse("demo/web"),
        id: "web".to_owned(),
        config: config("old", 9000),
        number: 1,
        created: now,
        modified: now,
        last_version: 0,
        previous: None,
        disabled: None,
    };
    host.follow(&mut function, config("new", 9000));
    function.number = 2;
    host.catalog.put(&function).unwrap();
    host.function_changed(&function);
    function
}

fn host(dir: &tempfile::TempDir) -> Arc<Host> {
    let settings = Settings {
        dir: dir.path().to_owned(),
        limits: Limits::default(),
        region: "here".to_owned(),
        account: "1".to_owned(),
        no_auth: true,
    };
    Host::with(Fake::new(), settings).unwrap()
}

/// The image that an invocation runs now.
fn served(host: &Host) -> String {
    let target = host.target(&FunctionName::parse("demo/web"), "").unwrap();
    target.config.container.image.clone()
}

/// The time is over that it had.
fn let_time_pass(host: &Host, mut function: Function) {
    let previous = function.previous.as_mut().unwrap();
    previous.until = Timestamp::now() - SignedDuration::from_secs(1);
    host.catalog.put(&function).unwrap();
}

#[test]
fn an_image_that_is_not_ready_in_time_serves_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(&dir);
    let function = changed(&host);
    let until = function.previous.as_ref().unwrap().until;
    assert!(until > Timestamp::now() + FOLLOW_PATIENCE / 2);
    host.go_over().unwrap();
    assert_eq!(served(&host), "old", "until it is ready");
    let_time_pass(&host, function);
    assert_eq!(served(&host), "old");
    host.go_over().unwrap();
    assert_eq!(served(&host), "new", "or its time is over");
}

#[test]
fn a_host_goes_on_waiting_for_an_image_that_one_before_it_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let function = changed(&host(&dir));
    let host = host(&dir);
    host.go_over().unwrap();
    assert_eq!(served(&host), "old");
    let_time_pass(&host, function);
    host.go_over().unwrap();
    assert_eq!(served(&host), "new");
}

#[test]
fn a_domain_of_before_does_not_shadow_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(&dir);
    for name in ["localhost", "127.0.0.1", "a.example"] {
        let now = Timestamp::now();
        let domain = Domain {
            name: name.to_owned(),
            protocol: "HTTP".to_owned(),
            routes: Vec::new(),
            kept: serde_json::Map::new(),
            created: now,
            modified: now,
        };
        host.catalog.put(&domain).unwrap();
    }
    assert!(host.domain("a.example").unwrap().is_some());
    assert!(host.domain("localhost").unwrap().is_none());
    assert!(host.domain("127.0.0.1").unwrap().is_none());
}
