//! What a deployment does to a resource, worked out from what is wanted and what is there. No I/O.
//!
//! A field that the template does not have stays as it is, as with the API's `PUT`. Nothing is deleted.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

/// Objects that a `PUT` replaces as a whole.
const WHOLE: &str = "triggerConfig";
/// The same, and their values are nobody's business.
const SECRET: &str = "environmentVariables";

/// Whether there is anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Create,
    Update,
    Unchanged,
}

/// A field that becomes another. Of what may be secret only the name is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Change {
    pub(super) field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Value>,
}

/// One resource of a template.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Step {
    /// `service`, `function`, ….
    pub(super) what: &'static str,
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) changes: Vec<Change>,
    /// The body of the call that does it.
    #[serde(skip)]
    pub(super) body: Map<String, Value>,
    /// Where it is created; where it is updated.
    #[serde(skip)]
    pub(super) paths: (String, String),
}

impl Step {
    /// Makes `body` out of what is `present`.
    pub(super) fn new(
        what: &'static str,
        name: String,
        paths: (String, String),
        body: Map<String, Value>,
        present: Option<&Value>,
    ) -> Self {
        let changes = present.map(|present| differences(&body, present, ""));
        let mut step = Self {
            what,
            name,
            action: Action::Create,
            changes: changes.unwrap_or_default(),
            body,
            paths,
        };
        if present.is_some() {
            step.action = match step.changes.is_empty() {
                true => Action::Unchanged,
                false => Action::Update,
            };
        }
        step
    }

    /// One more change, which the fields do not show.
    pub(super) fn change(&mut self, change: Change) {
        self.changes.push(change);
        if self.action == Action::Unchanged {
            self.action = Action::Update;
        }
    }
}

/// A plan for people.
pub(super) fn text(steps: &[Step]) -> String {
    let mut shown = String::new();
    for step in steps {
        let action = match step.action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Unchanged => "unchanged",
        };
        let _ = writeln!(shown, "{action:9}  {:12}  {}", step.what, step.name);
        for change in &step.changes {
            let _ = writeln!(shown, "             {}", change.text());
        }
    }
    let count = |action| steps.iter().filter(|step| step.action == action).count();
    let (create, update) = (count(Action::Create), count(Action::Update));
    let unchanged = count(Action::Unchanged);
    let _ = writeln!(
        shown,
        "{create} to create, {update} to update, {unchanged} unchanged"
    );
    shown
}

impl Change {
    fn text(&self) -> String {
        let value = |value: &Value| match value {
            Value::Null => "nothing".to_owned(),
            value => value.to_string(),
        };
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{}: {} → {}", self.field, value(from), value(to)),
            _ => format!("{}: changes", self.field),
        }
    }
}

fn differences(wanted: &Map<String, Value>, present: &Value, path: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for (field, value) in wanted {
        let (now, path) = (&present[field], format!("{path}{field}"));
        match value {
            Value::Object(value) if field == SECRET => changes.extend(names(value, now, &path)),
            Value::Object(value) if field != WHOLE => {
                changes.extend(differences(value, now, &format!("{path}.")));
            }
            value if same(value, now) => {}
            value => changes.push(Change {
                field: path,
                from: Some(now.clone()),
                to: Some(value.clone()),
            }),
        }
    }
    changes
}

/// What is otherwise in two maps, by name alone.
fn names(wanted: &Map<String, Value>, present: &Value, path: &str) -> Vec<Change> {
    let empty = Map::new();
    let present = present.as_object().unwrap_or(&empty);
    let gone = present.keys().filter(|name| !wanted.contains_key(*name));
    let other = wanted.iter().filter(|(name, value)| {
        let now = present.get(*name);
        now != Some(value)
    });
    let names = other.map(|(name, _)| name).chain(gone);
    let change = |name| Change {
        field: format!("{path}.{name}"),
        from: None,
        to: None,
    };
    names.map(change).collect()
}

/// Whether the host would take two values for the same.
fn same(wanted: &Value, present: &Value) -> bool {
    match (wanted, present) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        // Lists that are written as texts of JSON.
        (Value::String(a), Value::String(b)) if a != b => {
            let list = |text| serde_json::from_str::<Vec<Value>>(text).ok();
            list(a).is_some_and(|wanted| list(b) == Some(wanted))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let of = |map: &Map<String, Value>, name| map.get(name).cloned().unwrap_or_default();
            let mut names = a.keys().chain(b.keys());
            names.all(|name| same(&of(a, name), &of(b, name)))
        }
        (wanted, present) => wanted == present || is_nothing(wanted) && is_nothing(present),
    }
}

/// As the API reads it: what is empty is not there.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(wanted: &Value, present: Option<&Value>) -> Step {
        let paths = (String::new(), String::new());
        let body = wanted.as_object().unwrap().clone();
        Step::new("function", "demo/web".to_owned(), paths, body, present)
    }

    #[test]
    fn what_is_the_same_to_the_host_is_no_change() {
        let wanted = json!({
            "memorySize": 256, "cpu": 1, "gpuMemorySize": 0,
            "customContainerConfig": { "image": "a", "command": "[\"x\", \"y\"]", "args": "" },
            "instanceLifecycleConfig": { "preStop": { "handler": "" } },
            "routeConfig": { "routes": [{ "path": "/*", "serviceName": "s" }] },
        });
        let present = json!({
            "memorySize": 256, "cpu": 1.0, "timeout": 3,
            "customContainerConfig": { "image": "a", "command": "[\"x\",\"y\"]", "port": 9000 },
            "instanceLifecycleConfig": { "preStop": null },
            "routeConfig": { "routes": [{ "path": "/*", "serviceName": "s", "qualifier": "", "methods": [] }] },
        });
        let step = step(&wanted, Some(&present));
        assert_eq!((step.action, step.changes), (Action::Unchanged, vec![]));
    }

    #[test]
    fn changes_are_told_and_secrets_are_not() {
        let wanted = json!({
            "memorySize": 256,
            "environmentVariables": { "A": "1", "B": "secret" },
            "triggerConfig": { "methods": ["GET"] },
        });
        let present = json!({
            "memorySize": 128,
            "environmentVariables": { "A": "1", "B": "old", "C": "gone" },
            "triggerConfig": { "methods": ["GET"], "authType": "anonymous" },
        });
        let step = step(&wanted, Some(&present));
        assert_eq!(step.action, Action::Update);
        let shown = text(&[step]);
        assert!(
            !shown.contains("secret") && !shown.contains("old"),
            "{shown}"
        );
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        assert_eq!(
            lines[1..],
            [
                "environmentVariables.B: changes",
                "environmentVariables.C: changes",
                "memorySize: 128 → 256",
                "triggerConfig: {\"authType\":\"anonymous\",\"methods\":[\"GET\"]} → {\"methods\":[\"GET\"]}",
                "0 to create, 1 to update, 0 unchanged",
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_created() {
        assert_eq!(step(&json!({ "a": 1 }), None).action, Action::Create);
    }
}
