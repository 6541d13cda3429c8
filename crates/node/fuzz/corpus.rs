//! Writes what the fuzzer begins with into `corpus/accounts`: a user, and the files of several
//! distributions, with a NUL between each.

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
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
