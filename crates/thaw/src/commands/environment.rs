//! Environment variables, as the command line and files name them.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use thaw_node::container::parse;

/// Those of files, a line each, then those that were named, which go before: the last of a name holds.
///
/// # Errors
/// Names the file, and the line.
pub(super) fn environment(files: &[PathBuf], named: &[String]) -> anyhow::Result<Vec<String>> {
    let lookup = |name: &str| std::env::var(name).ok();
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let variable = parse::env(line, lookup);
            all.extend(variable.with_context(|| format!("{}:{number}", file.display()))?);
        }
    }
    for variable in named {
        all.extend(parse::env(variable, lookup)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_variable_on_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        fs::write(
            &file,
            "# a comment\n\nA=1 # no comment\n  B=two words\nPATH\nNOT_SET_HERE\n",
        )
        .unwrap();
        let read = environment(std::slice::from_ref(&file), &["A=3".into()]).unwrap();
        let path = format!("PATH={}", std::env::var("PATH").unwrap());
        assert_eq!(read, ["A=1 # no comment", "B=two words", &path, "A=3"]);

        fs::write(&file, "A=1\n=2\n").unwrap();
        let error = environment(std::slice::from_ref(&file), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("env:2: "), "{error:#}");
        let error = environment(&[dir.path().join("none")], &[]).unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }
}
