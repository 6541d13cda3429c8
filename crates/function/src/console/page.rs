//! The page's parts, as they are in the binary.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use crate::http::{Body, full};

/// One part.
#[derive(Debug)]
pub(super) struct Part {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

macro_rules! part {
    ($name:literal, $file:literal, $kind:literal) => {
        Part {
            name: $name,
            kind: concat!($kind, "; charset=utf-8"),
            content: include_str!(concat!("page/", $file)),
        }
    };
    ($file:literal, $kind:literal) => {
        part!($file, $file, $kind)
    };
}

const PARTS: [Part; 18] = [
    part!("", "index.html", "text/html"),
    part!("sign-in", "sign-in.html", "text/html"),
    part!("style.css", "text/css"),
    part!("icon.svg", "image/svg+xml"),
    part!("theme.js", "text/javascript"),
    part!("sign-in.js", "text/javascript"),
    part!("app.js", "text/javascript"),
    part!("choices.js", "text/javascript"),
    part!("host.js", "text/javascript"),
    part!("dom.js", "text/javascript"),
    part!("words.js", "text/javascript"),
    part!("list.js", "text/javascript"),
    part!("acceleration.js", "text/javascript"),
    part!("function.js", "text/javascript"),
    part!("charts.js", "text/javascript"),
    part!("panels.js", "text/javascript"),
    part!("triggers.js", "text/javascript"),
    part!("form.js", "text/javascript"),
];

/// The part of that name.
pub(super) fn part(name: &str) -> Option<&'static Part> {
    static ALL: [Part; PARTS.len()] = PARTS;
    ALL.iter().find(|part| part.name == name)
}

impl Part {
    /// Its answer: `304` where the browser has it.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let digest = thaw_image::Digest::of(self.content.as_bytes()).hex();
        let tag = format!("\"{}\"", &digest[..32]);
        let has = headers.get(header::IF_NONE_MATCH);
        let has_it = has.is_some_and(|it| it.as_bytes() == tag.as_bytes());
        let content = if has_it { "" } else { self.content };
        let mut response = Response::new(full(content));
        if has_it {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts() -> impl Iterator<Item = &'static Part> {
        PARTS
            .iter()
            .filter(|part| part.name.ends_with(".js"))
            .map(|it| part(it.name).unwrap())
    }

    #[test]
    fn every_word_is_there_in_both_languages() {
        let words = part("words.js").unwrap().content;
        for script in scripts() {
            let calls = script.content.split("t('").skip(1);
            let before = script.content.split("t('");
            for (call, before) in calls.zip(before) {
                // Another function's name may end with t, and a word may go on with a value.
                let is_call = !before.ends_with(|c: char| c.is_alphanumeric() || c == '.');
                let (key, rest) = call.split_once('\'').unwrap();
                if is_call && rest.starts_with([')', ',']) {
                    let line = format!("\n  {key}: [");
                    assert!(words.contains(&line), "{}: {key}", script.name);
                }
            }
        }
    }

    #[test]
    fn nothing_is_put_into_the_page_but_as_text() {
        for script in scripts() {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "document.write",
            ] {
                assert!(!script.content.contains(way), "{}: {way}", script.name);
            }
        }
        for page in ["", "sign-in"] {
            let content = part(page).unwrap().content;
            // The policy forbids them: they would not work.
            assert!(!content.contains("<style") && !content.contains("style="));
            let tags = content.split("<script").skip(1);
            assert!(tags.into_iter().all(|tag| tag.contains("src=")));
        }
    }
}
