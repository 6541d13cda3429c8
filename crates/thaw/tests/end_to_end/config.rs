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

/// Runs `thaw ARGS…` with no store but the configured one; answers with its code and what it said.
fn without_root(args: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_thaw"));
    let output = command.args(args).env_remove("THAW_ROOT").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[test]
fn what_a_daemon_would_refuse_is_not_good() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    fs::write(dir.join("empty.pem"), "").unwrap();
    let file = dir.join("config.toml");
    let config = file.to_str().unwrap();
    let root = dir.join("store");
    let long = dir.join("x".repeat(100));
    let in_store = format!("root = {root:?}\n");
    for (text, wanted) in [
        (format!("root = {long:?}\n"), "has a path of"),
        (in_store.clone() + "[socket]\n", "[socket] lets nobody in"),
        (
            in_store.clone() + "[socket]\nusers = [\"no such user\"]\n",
            "no such user",
        ),
        (
            in_store.clone() + "[registry.\"a.example\"]\nclient-cert = \"c.pem\"\n",
            "client-cert without client-key",
        ),
        (
            in_store.clone() + "[[trust]]\n",
            "neither keys nor require-signature",
        ),
        (
            in_store.clone() + "[[trust]]\nkeys = [\"none.pem\"]\n",
            "none.pem",
        ),
        (in_store.clone() + "ca = [\"none.pem\"]\n", "none.pem"),
        (
            in_store.clone() + "ca = [\"empty.pem\"]\n",
            "none in PEM format",
        ),
        (
            in_store.clone() + "[registry.\"a.example\"]\nca = [\"none.pem\"]\n",
            "none.pem",
        ),
        (
            in_store.clone() + "[registry.\"a.example\"]\nmirrors = [\"m/../n\"]\n",
            "is no mirror",
        ),
        (
            in_store.clone() + "[proxy]\nhttp = \"socks5://proxy:1080\"\n",
            "the proxy for HTTP makes no sense",
        ),
    ] {
        fs::write(&file, &text).unwrap();
        let (code, checked) = without_root(&["config", "--check", config]);
        assert_eq!(code, 125, "{text}{checked}");
        let problem = checked.strip_prefix(&format!("{config}: ")).unwrap();
        assert!(problem.contains(wanted), "{text}{checked}");
        // The daemon says the same.
        let (code, said) = without_root(&["--config", config, "daemon"]);
        assert_eq!(code, 125, "{text}{said}");
        assert!(said.contains(problem.trim_end()), "{said}\n{problem}");
        assert!(!root.exists(), "nothing is touched: {text}");
    }
    let (_, facts) = without_root(&["config", "--check", config, "--json"]);
    let problem = &parsed(&facts)["problems"][0];
    assert_eq!(
        (&problem["line"], &problem["key"]),
        (&json!(null), &json!(null))
    );

    // From another directory, and by a flag that goes before the file.
    fs::write(&file, format!("root = {long:?}\n")).unwrap();
    let flag = [
        "--root",
        root.to_str().unwrap(),
        "config",
        "--check",
        config,
    ];
    assert_eq!(without_root(&flag), (0, format!("{config}: good\n")));
}

#[test]
fn docker_s_credentials_are_root_s_also_where_a_service_manager_gives_no_home() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_thaw"));
    let output = command
        .args(["config", "--json"])
        .env_remove("HOME")
        .env_remove("DOCKER_CONFIG")
        .output()
        .unwrap();
    let facts = parsed(&String::from_utf8(output.stdout).unwrap());
    let settings = facts["settings"].as_array().unwrap();
    let file = settings.iter().find(|it| it["key"] == "docker-config");
    let home = fs::read_to_string("/etc/passwd").unwrap();
    let home = home.lines().find(|line| line.starts_with("root:")).unwrap();
    let home = home.split(':').nth(5).unwrap();
    assert_eq!(
        file.unwrap()["value"],
        format!("{home}/.docker/config.json")
    );
}
