//! Who a process in a container is: `USER[:GROUP]`, looked up in the image's own `/etc/passwd` and
//! `/etc/group`, with the rules that container tools share.
//!
//! - a name must be in the file; a number need not;
//! - without GROUP, the group is the user's, and the groups that list the user come with it;
//! - with GROUP, there are no further groups.

use serde_json::{Value, json};

use super::ContainerError;
use super::parse::ParseError;
use super::rootfs::RootFs;

/// Most bytes of `/etc/passwd` and `/etc/group`: about 50,000 users.
const MAX_FILE: u64 = 4 << 20;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// The supplementary groups; the first is `gid`, as otherwise a file that its group may *not*
    /// read could be read by leaving the group (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Where it is at home; `/` where nobody says.
    pub home: String,
}

impl User {
    /// The `user` object of the runtime-spec.
    pub(super) fn to_json(&self) -> Value {
        json!({ "uid": self.uid, "gid": self.gid, "additionalGids": self.groups })
    }
}

/// Finds `spec` in the image. An empty one is root's number.
pub(super) fn resolve(root: &RootFs, spec: &str) -> Result<User, ContainerError> {
    look_up(&content(root, PASSWD)?, &content(root, GROUP)?, spec)
}

/// Finds `spec` in what the two files hold.
///
/// # Errors
/// Where it names somebody who is not there, or a number that is too large.
pub fn look_up(passwd: &[u8], group: &[u8], spec: &str) -> Result<User, ContainerError> {
    let (passwd, listed) = (
        String::from_utf8_lossy(passwd),
        String::from_utf8_lossy(group),
    );
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let found = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|account| account.name == user || number(user).is_some_and(|uid| uid == account.uid));
    let uid = match (&found, number(user)) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(unknown("user", user, PASSWD, spec)?),
    };
    let own_group = found.as_ref().map_or(0, |account| account.gid);
    let (gid, further) = match (group, &found) {
        (Some(group), _) => (find_group(&listed, group, spec)?, Vec::new()),
        (None, Some(account)) => (own_group, groups_of(&listed, account.name)),
        (None, None) => (own_group, Vec::new()),
    };
    let mut groups = vec![gid];
    for group in further {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let home = found.map_or("", |account| account.home);
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    Ok(User {
        uid,
        gid,
        groups,
        home,
    })
}

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// `name:password:uid:gid:comment:home:shell`; lines of another form are skipped.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }
}

/// A line of `/etc/group`: `name:password:gid:member,member`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim_end().split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = number(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn find_group(listed: &str, group: &str, spec: &str) -> Result<u32, ContainerError> {
    let named = listed
        .lines()
        .filter_map(parse_group)
        .find(|(name, ..)| *name == group);
    match (named, number(group)) {
        (Some((_, gid, _)), _) | (None, Some(gid)) => Ok(gid),
        (None, None) => Err(unknown("group", group, GROUP, spec)?),
    }
}

fn groups_of(listed: &str, user: &str) -> Vec<u32> {
    // The kernel takes at most 65,536 (NGROUPS_MAX).
    listed
        .lines()
        .filter_map(parse_group)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .take(1024)
        .collect()
}

/// An id: at most 2^31 - 1, as the field has it, for larger ones are negative somewhere.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|id| *id <= 0x7fff_ffff);
    number.filter(|_| digits)
}

fn unknown(
    what: &'static str,
    name: &str,
    file: &'static str,
    spec: &str,
) -> Result<ContainerError, ParseError> {
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::new("user", spec, "ids go from 0 to 2147483647"));
    }
    Ok(ContainerError::UnknownUser {
        what,
        name: name.chars().take(96).collect(),
        file,
    })
}

/// One of the files; empty where the image has none.
fn content(root: &RootFs, path: &str) -> Result<Vec<u8>, ContainerError> {
    Ok(root.read(path, MAX_FILE)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn image(passwd: &str, group: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), group).unwrap();
        dir
    }

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n\nweb:x:33:34:w:/srv:/bin/sh\n\
                         1000:x:7:8::/odd:\nshort:x:5:6\nbig:x:99999999999:1::/:\n";
    const GROUPS: &str =
        "root:x:0:\nwww:x:34:\nlog:x:50:web,other\nlog2:x:50:web\naudio:x:60:web\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn the_shared_rules_hold() {
        let dir = image(USERS, GROUPS);
        let root = RootFs::open(dir.path()).unwrap();
        let resolve = |spec| resolve(&root, spec).unwrap();
        assert_eq!(resolve(""), user(0, 0, &[0], "/root"));
        assert_eq!(resolve("web"), user(33, 34, &[34, 50, 60], "/srv"));
        assert_eq!(resolve("33"), user(33, 34, &[34, 50, 60], "/srv"));
        assert_eq!(resolve("web:log"), user(33, 50, &[50], "/srv"));
        assert_eq!(resolve("web:77"), user(33, 77, &[77], "/srv"));
        assert_eq!(resolve("web:"), user(33, 34, &[34, 50, 60], "/srv"));
        assert_eq!(resolve("4242"), user(4242, 0, &[0], "/"));
        assert_eq!(resolve("4242:4343"), user(4242, 4343, &[4343], "/"));
        assert_eq!(resolve("1000"), user(7, 8, &[8], "/odd"));
        assert_eq!(resolve("short"), user(5, 6, &[6], "/"));
        assert_eq!(resolve(":www"), user(0, 34, &[34], "/root"));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let dir = image(USERS, GROUPS);
        let root = RootFs::open(dir.path()).unwrap();
        for spec in [
            "nobody",
            "big",
            "web:nogroup",
            "-1",
            "+1",
            "4294967295",
            "0:3000000000",
        ] {
            assert!(resolve(&root, spec).is_err(), "{spec}");
        }
        let error = resolve(&root, "nobody").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown user \"nobody\": it is not in the image's /etc/passwd"
        );
    }

    #[test]
    fn an_image_without_the_files_has_numbers_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootFs::open(dir.path()).unwrap();
        assert_eq!(resolve(&root, "").unwrap(), user(0, 0, &[0], "/"));
        assert_eq!(resolve(&root, "12:13").unwrap(), user(12, 13, &[13], "/"));
        assert!(resolve(&root, "web").is_err());
    }

    #[test]
    fn the_hosts_users_are_never_seen() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let link = dir.path().join("etc/passwd");
        std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
        let root = RootFs::open(dir.path()).unwrap();
        // On the host that file has `daemon`; inside, the link leads to itself.
        assert!(resolve(&root, "daemon").is_err());
    }
}
