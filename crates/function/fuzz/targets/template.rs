//! Any template is read, or refused with where it is wrong: a comment before it changes nothing but the lines, and what it becomes is
//! no more than templates may be, and has names.

use std::collections::BTreeSet;

use thaw_function::{FunctionSpec, Template, TemplateError};

/// Of the tree that a template may be, and of what JSON adds to its texts.
const MAX_BYTES: usize = 6 * (4 << 20);

/// Whether what is said of a line is said of the same one when a line is before it. What is missing in all of it is said of the first.
fn is_lower(above: u64, below: u64) -> bool {
    below == above + 1 || (above, below) == (1, 1)
}

/// What is said, without the line that it is said of, and that line.
fn split(warning: &str) -> (&str, u64) {
    let (what, line) = warning.rsplit_once(" (line ").expect("a line is named");
    let line = line.strip_suffix(')').and_then(|line| line.parse().ok());
    (what, line.expect("a number"))
}

fn check_function(function: &FunctionSpec) {
    assert!(!function.name.is_empty());
    assert_eq!(function.fields["functionName"], function.name);
    let names: BTreeSet<_> = function.triggers.iter().map(|it| &it.name).collect();
    assert_eq!(
        names.len(),
        function.triggers.len(),
        "no name is there twice"
    );
    for trigger in &function.triggers {
        assert_eq!(trigger.fields["triggerName"], trigger.name);
        assert_eq!(trigger.fields["triggerType"], trigger.kind);
    }
}

fn check(template: &Template) {
    let json = serde_json::to_vec(template).expect("a template can be written");
    assert!(json.len() <= MAX_BYTES, "{} bytes", json.len());
    for service in &template.services {
        assert_eq!(service.fields["serviceName"], service.name);
        service.functions.iter().for_each(check_function);
    }
    for domain in &template.domains {
        assert_eq!(domain.fields["domainName"], domain.name);
    }
}

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = Template::parse(&text);
    if let Ok(template) = &read {
        check(template);
    }
    // A byte order mark is one at the beginning only.
    if text.starts_with('\u{feff}') {
        return;
    }
    match (read, Template::parse(&format!("# lower\n{text}"))) {
        (Ok(read), Ok(again)) => {
            assert_eq!(
                (&read.services, &read.domains),
                (&again.services, &again.domains)
            );
            assert_eq!(read.warnings.len(), again.warnings.len());
            for (read, again) in read.warnings.iter().zip(&again.warnings) {
                let ((read, above), (again, below)) = (split(read), split(again));
                assert!(
                    read == again && is_lower(above, below),
                    "{read} ({above}, {below})"
                );
            }
        }
        (Err(TemplateError::Mistakes(read)), Err(TemplateError::Mistakes(again))) => {
            assert!(!read.is_empty() && read.len() == again.len());
            for (read, again) in read.iter().zip(&again) {
                assert_eq!((&read.path, &read.what), (&again.path, &again.what));
                assert!(is_lower(read.line, again.line), "{read}, {again}");
            }
        }
        (Err(TemplateError::Yaml(_)), Err(TemplateError::Yaml(_))) => {}
        (read, again) => panic!("{read:?}, and behind a comment {again:?}"),
    }
}
