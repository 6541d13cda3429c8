//! Reading a configuration file, with everything that is wrong in it.

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, Deserializer, Error};

use super::keys::{File, Key};

/// What is wrong with a file, at one place or as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The line, from 1, where it is about one.
    pub(crate) line: Option<usize>,
    /// The key, where it is about one.
    pub(crate) key: Option<String>,
    /// What, in words.
    pub(crate) problem: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.problem)
    }
}

impl Problem {
    /// What was only seen when all was put together.
    pub(crate) fn of_all(error: &anyhow::Error) -> Self {
        Self {
            line: None,
            key: None,
            problem: format!("{error:#}"),
        }
    }
}

/// Reads `text`, or names all of its problems, by line.
pub(crate) fn parse(text: &str) -> Result<File, Vec<Problem>> {
    let line = |at: usize| {
        let before = text.bytes().take(at);
        Some(1 + before.filter(|byte| *byte == b'\n').count())
    };
    let start = |error: &Error| error.span().map_or(0, |span| span.start);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = errors
        .iter()
        .map(|error| Problem {
            line: line(start(error)),
            key: None,
            problem: error.message().to_owned(),
        })
        .collect();
    if problems.is_empty() {
        for (key, value) in table.get_ref() {
            // Each alone, for reading ends at the first that is wrong.
            let mut alone = DeTable::new();
            alone.insert(key.clone(), value.clone());
            let alone = Spanned::new(table.span(), alone);
            if let Err(error) = File::deserialize(Deserializer::from(alone)) {
                let known = Key::find(key.get_ref());
                problems.push(Problem {
                    line: line(known.map_or(key.span().start, |_| start(&error))),
                    key: Some(key.get_ref().to_string()),
                    problem: known.map_or_else(
                        || "unknown key (`thaw config --example` has all)".to_owned(),
                        |known| format!("{}; e.g. {}", error.message().trim_end(), known.example),
                    ),
                });
            }
        }
    }
    problems.sort_by_key(|problem| problem.line);
    if !problems.is_empty() {
        return Err(problems);
    }
    File::deserialize(Deserializer::from(table)).map_err(|error| {
        vec![Problem {
            line: line(start(&error)),
            key: None,
            problem: error.message().to_owned(),
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let problems = parse(text).unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text = "# a comment\nrooot = \"/x\"\nruntime = \"crun\"\nfault-timeout-seconds = 0\n\
                    plain-http = [\n  \"a\",\n  5,\n]\n[trusted]\nx = 1\n";
        assert_eq!(
            told(text),
            [
                "line 2: rooot: unknown key (`thaw config --example` has all)",
                "line 4: fault-timeout-seconds: invalid value: integer `0`, expected a nonzero \
                 u64; e.g. 30",
                "line 7: plain-http: invalid type: integer `5`, expected a string; e.g. \
                 [\"registry.internal:5000\"]",
                "line 9: trusted: unknown key (`thaw config --example` has all)",
            ]
        );
        assert_eq!(
            told("\nmetrics-listen = \"localhost\""),
            ["line 2: metrics-listen: invalid socket address syntax; e.g. \"127.0.0.1:9477\""]
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        for (text, line) in [
            ("root = \"/x\"\nroot = \"/y\"\n", 2),
            ("\n\nruntime = \"crun\n", 3),
            ("root\n", 1),
        ] {
            let problems = parse(text).unwrap_err();
            assert_eq!(problems[0].line, Some(line), "{problems:?}");
        }
    }

    #[test]
    fn a_good_file_is_read() {
        let file = parse("root = \"/x\"\nfault-timeout-seconds = 5\n").unwrap();
        assert_eq!(file.fault_timeout_seconds.map(u64::from), Some(5));
        assert!(parse("").unwrap().root.is_none());
    }
}
