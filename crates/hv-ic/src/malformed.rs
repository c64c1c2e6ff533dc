use core::fmt;

/// A message of the host that is shorter than it says, or whose text is not UTF-16. It is not answered.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed integration service message")
    }
}

impl core::error::Error for Malformed {}
