//! The page as its users see it.

use serde_json::json;

use super::browser::Browser;
use super::key;
use crate::support::{Host, until};

/// WebDriver's Tab, Enter and Space.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

pub(super) fn open(host: &Host) -> Browser {
    let browser = Browser::start();
    browser.open(&format!("http://{}/", host.address));
    browser
}

pub(super) fn sign_in(host: &Host, browser: &Browser) {
    let key = key(host);
    browser.see("h1", "Sign in");
    browser.fill("#id", &key.0);
    browser.fill("#secret", &key.1);
    browser.click("button[type=submit]");
    // A browser drops its requests when a network interface comes or goes, as those of other tests do.
    until("it is signed in", || {
        if browser.text("#problem").contains("Failed to fetch") {
            browser.click("button[type=submit]");
        }
        browser.text("h1").contains("Functions")
    });
}

pub(super) fn all_well(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

fn background(browser: &Browser) -> String {
    let colour = browser.value("getComputedStyle(document.body).backgroundColor");
    colour.as_str().unwrap().to_owned()
}

#[test]
fn a_function_is_made_invoked_and_accelerated_in_a_browser() {
    let host = Host::with(&["--keep", "8s"]);
    let browser = open(&host);
    browser.picture("sign-in");
    sign_in(&host, &browser);
    browser.see("main", "There are no functions yet.");
    browser.picture("list-empty");

    browser.click("a[href='#/new']");
    browser.see("h1", "Create function");
    browser.fill("#service", "demo");
    browser.fill("#functionName", "web");
    browser.fill("#image", &host.image);
    browser.fill("#timeout", "30");
    browser.fill("#environment", "GREETING=hello");
    browser.click("#acceleration");
    all_well(&browser);
    browser.fill("#memorySize", "1");
    browser.click("form button[type=submit]");
    browser.see("#memorySize-problem", "memorySize has to be a whole number");
    assert_eq!(browser.value("document.activeElement.id"), "memorySize");
    browser.picture("form-error");
    let complaints = browser.complaints();
    // The service that is not there yet, and the field.
    let expected = |it: &String| it.contains("status of 404") || it.contains("status of 400");
    assert!(complaints.iter().all(expected), "{complaints:?}");
    browser.fill("#memorySize", "256");
    browser.click("form button[type=submit]");
    browser.see("h1", "demo/web");
    browser.see(".overview", "None");

    let invoke = |event: &str, result: &str| {
        browser.fill("#event", event);
        browser.click("#invoke-title ~ form button");
        browser.see("#result", result);
    };
    invoke("hello", "hello");
    browser.see(".outcome", "Succeeded");
    browser.see("#logs", "listening at");
    invoke("again", "again");
    browser.see("#warm-title ~ div", "Before acceleration");
    invoke("fail", "failed as told");
    browser.see(".outcome", "UnhandledInvocationError");
    browser.see("#instances-title ~ div", "No instance runs");

    browser.click(".overview .switch");
    browser.see(".overview .status", "Ready");
    assert_eq!(
        browser.value("document.querySelector('.switch').ariaChecked"),
        "true"
    );
    browser.see("#live", "Ready");
    // Else it would be a start of what is here, which says nothing of before and after.
    host.thaw.run(["gc", "--all"]).unwrap();
    invoke("cold again", "cold again");
    browser.see("#cold-title ~ div", "Accelerated · n = 1");
    invoke("warm again", "warm again");
    browser.see("#waterfall-title ~ div:last-of-type", "Accelerated");
    browser.see("#set-title ~ div", "/");
    browser.see(".tiles", "compressed");
    browser.picture("function");

    browser.click("a[href='#/']");
    browser.see("tbody", "demo/web");
    browser.see("tbody", "Ready");
    browser.picture("list");
    browser.click("tbody .switch");
    browser.see("tbody .status", "None");
    all_well(&browser);
}

#[test]
fn both_languages_both_themes_and_a_phone() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.invoke("hello");
    let browser = open(&host);
    browser.prefer("light");
    sign_in(&host, &browser);
    browser.see("tbody", "demo/web");
    let light = background(&browser);
    browser.prefer("dark");
    let dark = background(&browser);
    assert_ne!(light, dark, "as the system has it");
    browser.picture("list-dark");
    browser.click("#theme option[value=light]");
    assert_eq!(background(&browser), light, "as it was chosen");

    browser.click("#language");
    browser.see("thead", "镜像加速");
    assert_eq!(browser.value("document.documentElement.lang"), "zh-CN");
    browser.click("tbody a");
    browser.see("main", "热调用");
    browser.see("#waterfall-title", "瀑布图");
    browser.picture("function-zh");
    browser.open(&format!("http://{}/console/#/", host.address));
    browser.see("h1", "函数");
    browser.value("location.reload()");
    browser.see("thead", "镜像加速");
    assert_eq!(background(&browser), light, "both are remembered");

    browser.click("#theme option[value=dark]");
    assert_eq!(background(&browser), dark);
    browser.size(390, 844, true);
    let wide = "document.documentElement.scrollWidth > innerWidth";
    for (address, name) in [
        ("#/", "list"),
        ("#/functions/demo/web", "function"),
        ("#/new", "form"),
    ] {
        browser.open(&format!("http://{}/console/{address}", host.address));
        browser.see("main", "函数");
        if name == "function" {
            browser.see("#waterfall-title", "瀑布图");
        }
        assert_eq!(browser.value(wide), false, "{address} fits");
        browser.picture(&format!("phone-{name}"));
    }
    all_well(&browser);
}

#[test]
fn it_is_used_by_keyboard_and_deletes_when_that_is_confirmed() {
    let host = Host::start();
    host.deploy(&json!({}));
    let browser = open(&host);
    sign_in(&host, &browser);
    browser.see("tbody", "demo/web");
    let focus = || browser.value("document.activeElement.outerHTML");
    let reach = |what: &str| {
        for _ in 0..40 {
            if focus().as_str().unwrap().starts_with(what) {
                return;
            }
            browser.press(TAB);
        }
        panic!("Tab does not reach {what}: {}", focus());
    };
    reach("<button type=\"button\" role=\"switch\"");
    let visible = browser.value("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(visible, "solid", "the focus is seen");
    browser.press(" ");
    browser.see("tbody .acceleration", "Preparing");
    assert!(
        focus().as_str().unwrap().contains("role=\"switch\""),
        "the focus stays"
    );
    browser.see("tbody .status", "Ready");
    browser.value("document.querySelector('main').focus()");
    reach("<a href=\"#/functions/demo/web\"");
    browser.press(ENTER);
    browser.see("h1", "demo/web");
    reach("<button class=\"danger\"");
    browser.press(ENTER);
    browser.see("dialog", "Delete demo/web?");
    browser.picture("delete");
    assert!(
        focus().as_str().unwrap().contains("value=\"no\""),
        "what does no harm has the focus"
    );
    browser.press(ENTER);
    until("the question is gone", || browser.text("dialog").is_empty());
    browser.see("h1", "demo/web");
    browser.click("#delete");
    browser.click("dialog .danger");
    browser.see("main", "There are no functions yet.");
    browser.see("#live", "demo/web is deleted");
    browser.click("#sign-out");
    browser.see("h1", "Sign in");
    all_well(&browser);
}
