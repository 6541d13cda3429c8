//! Sizes as people write them.

use serde::{Deserialize, Serialize};
use thaw_node::container::parse::{self, ParseError};

/// A number of bytes, written as such or with a unit: `20g`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Size {
    text: String,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl TryFrom<String> for Size {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        let bytes = parse::bytes(&text)?;
        Ok(Self { text, bytes })
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.text
    }
}
