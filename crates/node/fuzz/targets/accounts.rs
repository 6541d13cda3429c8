//! Any user in any `/etc/passwd` and `/etc/group` is found or refused: all ids are such as any part of
//! the system takes, nobody is in a group that does not list them, a number needs no file, and a line
//! that says nothing changes nothing.

use std::collections::BTreeSet;

use thaw_node::container::fuzz::{User, look_up};

const MAX_ID: u32 = 0x7fff_ffff;
/// The own one and those that list the user.
const MAX_GROUPS: usize = 1 + 1024;

fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= MAX_ID)
}

/// The fields of each line.
fn lines(file: &[u8]) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(file);
    let fields = |line: &str| line.trim_end().split(':').map(str::to_owned).collect();
    text.lines().map(fields).collect()
}

fn check(found: &User, passwd: &[u8], group: &[u8], spec: &str) {
    assert!(
        found
            .groups
            .iter()
            .chain([&found.uid])
            .all(|id| *id <= MAX_ID)
    );
    assert_eq!(found.groups.first(), Some(&found.gid));
    let distinct: BTreeSet<_> = found.groups.iter().collect();
    assert!(distinct.len() == found.groups.len() && distinct.len() <= MAX_GROUPS);
    assert!(!found.home.is_empty() && !found.home.contains([':', '\n']));

    let user = spec.split(':').next().unwrap_or_default();
    let user = if user.is_empty() { "0" } else { user };
    let id = |line: &[String], field: usize| line.get(field).and_then(|text| number(text));
    let accounts = lines(passwd);
    let account = accounts.iter().find(|line| {
        let is_whole = !line[0].is_empty() && id(line, 3).is_some();
        let is_asked = line[0] == user || number(user) == Some(found.uid);
        is_whole && is_asked && id(line, 2) == Some(found.uid)
    });
    if account.is_none() {
        assert_eq!(number(user), Some(found.uid), "a user from nowhere");
    }
    let listed = lines(group);
    for gid in &found.groups[1..] {
        let account = account.expect("only who is in the file is listed");
        let lists = |line: &Vec<String>| {
            let members = line
                .get(3)
                .is_some_and(|list| list.split(',').any(|it| *it == account[0]));
            members && id(line, 2) == Some(*gid)
        };
        assert!(listed.iter().any(lists), "group {gid} from nowhere");
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (spec, passwd, group) = (part(), part(), part());
    let spec = String::from_utf8_lossy(spec);
    let found = look_up(passwd, group, &spec);
    if let Ok(found) = &found {
        check(found, passwd, group, &spec);
    }
    let more = |file: &[u8]| [b"nobody\n:x:0:0::/:\n\n#\n", file].concat();
    let again = look_up(&more(passwd), &more(group), &spec);
    assert_eq!(again.ok(), found.ok());
    let found = look_up(passwd, group, "7:8").expect("numbers need no file");
    check(&found, passwd, group, "7:8");
}
