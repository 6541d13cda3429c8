//! What the page shows of an acceleration that goes on, fails, or is done; and the form where
//! something is wrong.

use serde_json::{Value, json};

use super::browser::Browser;
use super::page::{all_well, open, sign_in};
use crate::support::{Host, until};

const ACCELERATED: &str = "Default";

fn deploy(host: &Host, more: Value) {
    let mut function = json!({ "customContainerConfig": { "accelerationType": ACCELERATED } });
    function
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    host.deploy(&function);
}

/// Leaves a mark in the page, which a page that was loaded anew has not.
fn mark(browser: &Browser) {
    browser.value("window.marked = true");
}

fn is_marked(browser: &Browser) -> bool {
    browser.value("window.marked === true") == true
}

fn fits(browser: &Browser, name: &str) {
    let wide = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(browser.value(wide), false, "{name} fits the screen");
    browser.picture(name);
}

#[test]
fn an_acceleration_is_followed_as_it_goes() {
    let host = Host::start();
    let browser = open(&host);
    sign_in(&host, &browser);
    mark(&browser);
    // The recorded start takes a while.
    deploy(
        &host,
        json!({ "environmentVariables": { "START_DELAY": "4000" } }),
    );
    browser.see("tbody .status", "Preparing");
    browser.see("tbody .detail", "recording a start");
    assert_eq!(
        browser.value("document.querySelector('tbody progress').hidden"),
        false
    );
    browser.picture("list-preparing");
    browser.click("tbody a");
    browser.see(".overview .status", "Preparing");
    browser.see(".overview .detail", "recording a start");
    browser.see(".overview .status", "Ready");
    assert_eq!(
        browser.value("document.querySelector('.overview progress').hidden"),
        true
    );
    browser.see("#live", "demo/web: Image acceleration – Ready");
    assert!(
        is_marked(&browser),
        "all of that came to the page that was there"
    );
    all_well(&browser);
}

#[test]
fn an_acceleration_that_failed_says_why_and_is_tried_again_from_the_page() {
    let host = Host::start();
    let layers = host.layout.manifest().unwrap()["layers"].clone();
    let digest: thaw_image::Digest = layers[1]["digest"].as_str().unwrap().parse().unwrap();
    let blob = host.registry.blob(&digest);
    let away = blob.with_extension("away");
    std::fs::rename(&blob, &away).unwrap();
    deploy(&host, json!({}));
    let browser = open(&host);
    browser.size(390, 844, true);
    sign_in(&host, &browser);
    mark(&browser);
    browser.see("tbody .status", "Failed");
    let reason = host.facts()["acceleration"]["failed"]["reason"].clone();
    browser.see("tbody .detail", reason.as_str().unwrap());
    browser.see("tbody .detail", "tried again");
    fits(&browser, "phone-list-failed");
    browser.size(1280, 900, false);
    browser.click("tbody a");
    browser.see(".overview .status", "Failed");
    browser.see(".overview .detail", reason.as_str().unwrap());
    browser.picture("function-failed");
    std::fs::rename(&away, &blob).unwrap();
    browser.click(".overview .acceleration button.small");
    browser.see(".overview .status", "Ready");
    let detail = browser.text(".overview .detail");
    assert!(!detail.contains("tried again"), "{detail}");
    let hidden = "document.querySelector('.overview .acceleration button.small').hidden";
    assert_eq!(
        browser.value(hidden),
        true,
        "there is nothing to be tried again"
    );
    assert!(is_marked(&browser));
    all_well(&browser);
}

#[test]
fn cold_starts_working_set_and_bill_are_shown_before_and_after() {
    let host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({}));
    let cold = |event: &str| {
        until("it is scaled to zero", || host.containers().is_empty());
        host.thaw.run(["gc", "--all"]).unwrap();
        assert_eq!(host.invoke(event).text(), event);
    };
    cold("first");
    let switch = "/thaw/acceleration?name=demo/web&to=on";
    host.call("POST", switch, &Value::Null).ok();
    until("it is ready", || {
        host.facts()["acceleration"]["status"] == "Ready"
    });
    cold("second");
    let browser = open(&host);
    sign_in(&host, &browser);
    browser.click("tbody a");
    browser.see("#waterfall-title ~ div:last-of-type", "Accelerated");
    let count = |selector: &str| {
        let expression = format!("document.querySelectorAll({}).length", json!(selector));
        browser.value(&expression).as_u64().unwrap()
    };
    let spans = |start: &Value| {
        let all = start["spans"].as_array().unwrap().iter();
        all.map(|span| span[0].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let starts = host.facts()["coldStarts"].clone();
    let starts = starts.as_array().unwrap();
    assert_eq!(starts.len(), 2);
    let drawn = || {
        let names =
            "[...document.querySelectorAll('.waterfall tbody th')].map((it) => it.innerText)";
        let names = browser.value(names);
        let names = names.as_array().unwrap().iter();
        names
            .map(|it| it.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(drawn(), spans(&starts[1]), "the last one");
    assert_eq!(count(".waterfall rect"), drawn().len() as u64);
    assert_eq!(count("#which-start option"), 2);
    let older = "(() => { const it = document.querySelector('#which-start'); \
                 it.selectedIndex = 1; it.dispatchEvent(new Event('change')); return 0; })()";
    browser.value(older);
    browser.see("#waterfall-title ~ div:last-of-type", "Original");
    assert_eq!(drawn(), spans(&starts[0]), "the one that was chosen");

    browser.see("#set-title ~ div", "/");
    assert!(count(".treemap rect") >= 1);
    let label = browser.value("document.querySelector('.treemap').getAttribute('aria-label')");
    assert!(label.as_str().unwrap().contains("/function"), "{label}");
    let figure = |which: &str| browser.text(&format!(".tile.pair .{which}"));
    for which in ["before", "after"] {
        let number: f64 = figure(which)
            .parse()
            .unwrap_or_else(|_| panic!("{which}: {}", figure(which)));
        assert!(number > 0.0, "{which}");
    }
    browser.picture("function-both");
    browser.size(390, 844, true);
    fits(&browser, "phone-function-both");
    browser.click("#language");
    browser.see("main", "瀑布图");
    browser.see("main", "GB-秒");
    browser.see("#set-title ~ div", "/");
    fits(&browser, "phone-function-both-zh");
    all_well(&browser);
}

#[test]
fn a_function_is_changed_and_what_is_wrong_stands_at_its_field() {
    let host = Host::start();
    host.deploy(&json!({ "environmentVariables": { "GREETING": "hello" }, "memorySize": 256 }));
    let browser = open(&host);
    sign_in(&host, &browser);
    browser.open(&format!("http://{}/console/#/edit/demo/web", host.address));
    let value = |id: &str| browser.value(&format!("document.querySelector('#{id}').value"));
    until("the form has what is there", || {
        value("image") == host.image.as_str()
    });
    assert_eq!(
        (value("memorySize"), value("timeout")),
        (json!("256"), json!("30"))
    );
    assert_eq!(value("environment"), "GREETING=hello");
    all_well(&browser);
    let wrong = |field: &str, text: &str, problem: &str| {
        let before = value(field);
        browser.fill(&format!("#{field}"), text);
        browser.click("form button[type=submit]");
        browser.see(&format!("#{field}-problem"), problem);
        assert_eq!(browser.value("document.activeElement.id"), field);
        let invalid = format!("document.querySelector('#{field}').ariaInvalid");
        assert_eq!(browser.value(&invalid), "true");
        let others =
            "[...document.querySelectorAll('.problem')].filter((it) => it.innerText).length";
        assert_eq!(browser.value(others), 1, "{field}: it is said once");
        browser.fill(&format!("#{field}"), before.as_str().unwrap());
    };
    wrong("memorySize", "1", "memorySize has to be a whole number");
    wrong("timeout", "soon", "timeout has to be a whole number");
    wrong("port", "99999", "caPort has to be");
    wrong("environment", "GREETING", "line 1 has no =");
    wrong("environment", "FC_X=1", "must not begin with FC_");
    wrong("image", &format!("{}-nix", host.image), "cannot be used");
    browser.size(390, 844, true);
    fits(&browser, "phone-edit-error");
    let refused = |it: &String| it.contains("status of 400");
    assert!(browser.complaints().iter().all(refused));
    browser.fill("#memorySize", "384");
    browser.fill("#environment", "GREETING=bye");
    browser.click("#server");
    browser.click("form button[type=submit]");
    browser.see("h1", "demo/web");
    browser.see("#live", "demo/web is saved");
    let shown = host
        .call(
            "GET",
            "/2016-08-15/services/demo/functions/web",
            &Value::Null,
        )
        .ok();
    assert_eq!(shown["memorySize"], 384);
    assert_eq!(shown["environmentVariables"], json!({ "GREETING": "bye" }));
    assert_eq!(
        shown["customContainerConfig"]["accelerationType"], "None",
        "as it was"
    );
    assert_eq!(shown["customContainerConfig"]["webServerMode"], false);
    browser.fill("#event", "exit 4");
    browser.click("#invoke-title ~ form button");
    browser.see("#result", "exit code 4");
    all_well(&browser);
}
