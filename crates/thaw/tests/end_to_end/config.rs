//! The configuration: what is in force, and what is wrong with a file.

use std::fs;

use serde_json::{Value, json};

use crate::support::{json as parsed, refused, thaw};

#[test]
fn each_value_says_whence_it_comes() {
    let node = thaw();
    let file = node.root().with_file_name("config.toml");
    fs::write(&file, "runtime = \"runc\"\nplain-http = [\"a\"]\n").unwrap();
    let config = file.to_str().unwrap();
    let args = ["--config", config, "--plain-http", "b", "config"];
    let facts = parsed(&node.run([&args[..], &["--json"]].concat()).unwrap());
    assert_eq!(facts["file"], config);
    let setting = |facts: &Value, key: &str| {
        let settings = facts["settings"].as_array().unwrap();
        settings.iter().find(|it| it["key"] == key).unwrap().clone()
    };
    let root = node.root().to_str().unwrap();
    for (key, value, from) in [
        ("root", json!(root), json!(["flag"])),
        ("runtime", json!("runc"), json!(["file"])),
        ("plain-http", json!(["a", "b"]), json!(["file", "flag"])),
        ("fault-timeout-seconds", json!(30), json!(["default"])),
        ("metrics-listen", json!(null), json!(["default"])),
    ] {
        let wanted = json!({ "key": key, "value": value, "from": from });
        assert_eq!(setting(&facts, key), wanted);
    }
    let text = node.run(args).unwrap();
    assert!(text.starts_with(&format!("file: {config}\nKEY ")), "{text}");
    let line = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("plain-http"), "plain-http [\"a\",\"b\"] file and flag");
    assert_eq!(line("metrics-listen"), "metrics-listen nowhere default");

    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_thaw"));
    let output = command
        .args(["config", "--json"])
        .env("THAW_ROOT", root)
        .output()
        .unwrap();
    let facts = parsed(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(setting(&facts, "root")["from"], json!(["environment"]));
    assert!(!node.root().exists(), "nobody was started for it");
}

#[test]
fn a_file_is_checked() {
    let node = thaw();
    let file = node.root().with_file_name("config.toml");
    let config = file.to_str().unwrap();
    fs::write(&file, "\nrooot = \"/x\"\nfault-timeout-seconds = \"5\"\n").unwrap();
    let check = |flags: &[&str]| {
        let output = node
            .output([&["config", "--check", config], flags].concat())
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = check(&[]);
    assert_eq!(code, 125);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with(&format!("{config}: line 2: rooot: unknown key")));
    assert!(lines[1].starts_with(&format!("{config}: line 3: fault-timeout-seconds: ")));
    let (code, facts) = check(&["--json"]);
    let facts = parsed(&facts);
    assert_eq!(code, 125);
    let second = &facts["problems"][1];
    assert_eq!(
        (&second["line"], &second["key"]),
        (&3.into(), &"fault-timeout-seconds".into())
    );

    // Every command says the same.
    let (code, said) = refused(&node, &["--config", config, "config"]);
    assert_eq!(code, 125);
    assert!(
        said.contains("line 2: rooot: ") && said.contains("; line 3: fault-timeout-seconds: "),
        "{said}"
    );
    let (_, said) = refused(&node, &["config", "--check", "/no/such/file"]);
    assert!(said.contains("/no/such/file"), "{said}");

    fs::write(&file, node.run(["config", "--example"]).unwrap()).unwrap();
    assert_eq!(check(&[]), (0, format!("{config}: good\n")));
    assert!(!node.root().exists(), "nobody was started for it");
}
