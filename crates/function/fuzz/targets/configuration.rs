//! Whatever body makes a function, the function that is shown makes the same one again, in that version of the API: clients change
//! what they were given and send it back.

use serde_json::Value;
use thaw_function::fuzz::configured;

const VERSIONS: [&str; 3] = ["2016-08-15", "2021-04-06", "2023-03-30"];

pub(crate) fn run(data: &[u8]) {
    let Some((version, body)) = data.split_first() else {
        return;
    };
    let version = VERSIONS[usize::from(*version) % VERSIONS.len()];
    let Some(shown) = configured(version, body) else {
        return;
    };
    for (field, range) in [("timeout", 1..=86_400), ("memorySize", 128..=32_768)] {
        let number = shown[field].as_u64();
        assert!(
            number.is_some_and(|it| range.contains(&it)),
            "{field} {number:?}"
        );
    }
    assert!(
        shown["cpu"]
            .as_f64()
            .is_some_and(|it| (0.05..=64.0).contains(&it))
    );
    let environment = shown["environmentVariables"].as_object();
    let environment = environment.expect("a map").iter();
    for (name, value) in environment {
        let is_name = !name.is_empty() && !name.contains(['=', '\0']) && !name.starts_with("FC_");
        assert!(
            is_name && value.as_str().is_some_and(|it| !it.contains('\0')),
            "{name:?}"
        );
    }
    let again = configured(version, shown.to_string().as_bytes());
    assert_eq!(
        again.as_ref().map(Value::to_string),
        Some(shown.to_string())
    );
}
