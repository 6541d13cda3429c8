//! What containers are called: an id of 64 hex characters, and a name.

use std::fmt;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::ContainerError;
use super::parse::ParseError;

/// A container's id: 64 lower-case hex characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// A new one, from the kernel's random numbers.
    pub(super) fn generate() -> Result<Self, ContainerError> {
        Ok(Self(
            random::<32>()?
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        ))
    }

    /// All 64 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 characters: what people are shown, and the default host name.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }

    /// Path of its control group, below the root of each hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/thaw/{}", self.0)
    }
}

/// Six random bytes in hex, for a file's name.
pub(super) fn unique() -> Result<String, ContainerError> {
    Ok(ContainerId::generate()?.short().to_owned())
}

fn random<const N: usize>() -> Result<[u8; N], ContainerError> {
    let mut bytes = [0; N];
    let action = "get random numbers";
    // Up to 256 bytes come whole (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(ContainerError::system(action))?;
    Ok(bytes)
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContainerId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(lower) {
            let reason = "it takes 64 lower-case hex characters";
            return Err(ParseError::new("container id", text, reason));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

/// A name of two words that `taken` does not know; with a number where all the tries are taken.
pub(super) fn generate_name(taken: impl Fn(&str) -> bool) -> Result<String, ContainerError> {
    for attempt in 0..32u32 {
        let [first, second, low, high] = random::<4>()?;
        let word = |list: &[&'static str], byte: u8| list[usize::from(byte) % list.len()];
        let mut name = format!("{}-{}", word(&FIRST, first), word(&SECOND, second));
        if attempt >= 8 {
            name = format!("{name}-{}", u16::from_le_bytes([low, high]));
        }
        if !taken(&name) {
            return Ok(name);
        }
    }
    // 65,536 numbers on 1,024 pairs: nobody has that many containers.
    unique()
}

const FIRST: [&str; 32] = [
    "amber", "arctic", "brisk", "bright", "calm", "clear", "cool", "crisp", "early", "fresh",
    "frosty", "gentle", "glacial", "gliding", "glowing", "keen", "light", "lively", "lucid",
    "mellow", "mild", "nimble", "northern", "pale", "polar", "quick", "quiet", "rapid", "silver",
    "still", "sunny", "swift",
];

const SECOND: [&str; 32] = [
    "aurora", "bay", "beck", "birch", "brook", "cove", "creek", "delta", "drift", "ember", "fern",
    "fjord", "floe", "glade", "heron", "inlet", "lagoon", "lake", "marsh", "meadow", "otter",
    "pond", "puffin", "rill", "river", "shoal", "spring", "stream", "tarn", "tern", "tide",
    "willow",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_and_differ() {
        let id = ContainerId::generate().unwrap();
        assert_eq!(id.as_str().parse::<ContainerId>().unwrap(), id);
        assert_ne!(ContainerId::generate().unwrap(), id);
        for text in [
            "",
            "ab",
            &"A".repeat(64),
            &"../".repeat(22),
            &"é".repeat(32),
        ] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_avoid_those_that_are_taken() {
        let name = generate_name(|name| name.matches('-').count() == 1).unwrap();
        assert_eq!(name.matches('-').count(), 2);
        assert!(generate_name(|_| true).unwrap().len() == 12);
    }
}
