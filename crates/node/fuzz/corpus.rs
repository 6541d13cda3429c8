//! Writes what the fuzzer begins with into `corpus/`, with a NUL between the parts of an input. For `accounts`: a
//! user, and the files of several distributions. For `image`: a manifest, and a configuration.

use std::error::Error;
use std::fs;

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

const DEBIAN: [&str; 2] = [
    "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "root:x:0:\ndaemon:x:1:\nadm:x:4:www-data,daemon\naudio:x:29:www-data\nwww-data:x:33:\nnogroup:x:65534:\n",
];
const ALPINE: [&str; 2] = [
    "root:x:0:0:root:/root:/bin/sh\nguest:x:405:100:guest:/dev/null:/sbin/nologin\n",
    "root:x:0:root\nbin:x:1:root,bin,daemon\nwheel:x:10:root\nusers:x:100:games\n",
];
/// What editors, NIS and people leave behind.
const ODD: [&str; 2] = [
    "# users\r\nweb:x:33:34:w:/srv:/bin/sh\r\n\n+::::::\n1000:x:7:8::/odd:\nshort:x:5:6\nbig:x:99999999999:1::/:\nlast:!:2147483647:2147483648::",
    "www:x:34:\nlog:x:50:web,other\nlog2:x:50:web\n7:x:9:web,,web\naudio:x:60:web",
];
const USERS: [&str; 10] = [
    "",
    "root",
    "www-data",
    "www-data:adm",
    "web",
    "1000",
    ":www",
    "4242:4343",
    "0:3000000000",
    "last:7",
];

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// As builders write them: everything, little, and what is odd.
const CONFIGS: [&str; 5] = [
    r#"{"created":"2026-01-02T03:04:05Z","author":"a","architecture":"amd64","os":"linux","config":{"User":"web:www","ExposedPorts":{"8080/tcp":{}},"Env":["PATH=/usr/bin:/bin","A=1","A=2","EMPTY="],"Entrypoint":["/bin/sh","-c"],"Cmd":["exec serve"],"Volumes":{"/data":{},"/srv/./x/":{}},"WorkingDir":"/app/../srv","Labels":{"a":"b"},"StopSignal":"SIGQUIT"},"rootfs":{"type":"layers","diff_ids":["DIGEST","DIGEST"]},"history":[{"created":"2026-01-02T03:04:05Z","created_by":"COPY","comment":"c","empty_layer":true}]}"#,
    r#"{"architecture":"arm64","variant":"v8","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["DIGEST"]}}"#,
    r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["DIGEST","DIGEST","DIGEST"]}}"#,
    r#"{"architecture":"amd64","os":"linux","config":{"Hostname":"","User":"","AttachStdin":false,"ExposedPorts":null,"Tty":false,"Env":null,"Cmd":["sh"],"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null,"StopSignal":""},"rootfs":{"type":"layers","diff_ids":["DIGEST"]},"docker_version":"26.1"}"#,
    r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Entrypoint":["../x",""],"Cmd":null,"WorkingDir":"../../x","Volumes":{"/../x":{}},"StopSignal":"RTMIN+3"},"rootfs":{"type":"layers","diff_ids":["DIGEST"]}}"#,
];

/// A manifest of as many layers as a configuration has.
fn image(number: usize, config: &str) -> String {
    let layer = |size: usize| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{DIGEST}","size":{size}}}"#
        )
    };
    let layers: Vec<String> = config
        .matches("DIGEST")
        .enumerate()
        .map(|(size, _)| layer(size << (30 + number)))
        .collect();
    let layers = layers.join(",");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":{}}},"layers":[{layers}]}}"#,
        config.len()
    )
}

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    for (system, [passwd, group]) in [("debian", DEBIAN), ("alpine", ALPINE), ("odd", ODD)] {
        for (number, user) in USERS.iter().enumerate() {
            let input = [user, passwd, group].join("\0").into_bytes();
            inputs.push(("accounts", format!("{system}-{number}"), input));
        }
    }
    inputs.push(("accounts", "no-files".to_owned(), b"12:13".to_vec()));
    for (number, config) in CONFIGS.iter().enumerate() {
        let input = [image(number, config), config.replace("DIGEST", DIGEST)].join("\0");
        inputs.push(("image", format!("config-{number}"), input.into_bytes()));
    }
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
