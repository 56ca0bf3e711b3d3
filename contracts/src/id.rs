//! Identifiers that cannot be wrong: the field is private, and the only way in is a check.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::bytes::Fixed;

/// Random, never reused, one per agent start: binds commands and reports to one run of the agent.
pub type SessionId = Fixed<8>;

/// A text that does not fit the rule of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct Invalid {
    /// The type, in words.
    pub what: &'static str,
    /// The rule, in words.
    pub rule: &'static str,
    /// The refused text, shortened to 80 characters.
    pub text: String,
}

/// Declares a checked text type: `(name, "kind in words", "rule in words", check)`.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = $crate::id::Invalid;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    return Ok(Self(text));
                }
                Err($crate::id::Invalid { what: $what, rule: $rule, text: text.chars().take(80).collect() })
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::id::Invalid;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::try_from(text.to_owned())
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use checked_text;

/// RFC 1123 label: 1 to 63 of `a-z 0-9 -`, with a letter or digit at both ends.
fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| inner(b) || b == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

fn is_base32(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

/// Twenty base32 characters (100 bits) out of 13 random bytes.
fn base32_20(entropy: [u8; 13]) -> String {
    let mut text = BASE32_NOPAD.encode(&entropy).to_ascii_lowercase();
    text.truncate(20);
    text
}

checked_text!(
    /// A device, for ever: `d-` and 20 base32 characters, made at enrolment, never reused.
    DeviceId,
    "device id",
    "`d-` and 20 characters of a-z and 2-7",
    |t| t.strip_prefix("d-").is_some_and(|rest| is_base32(rest, 20))
);
checked_text!(
    /// An object, for ever (a deployment that is deleted and made again has another uid): 20 base32 characters.
    Uid,
    "uid",
    "20 characters of a-z and 2-7",
    |t| is_base32(t, 20)
);
checked_text!(
    /// What people call a device, deployment, container or volume; unique in its tenant and kind.
    Name,
    "name",
    "1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
    is_dns_label
);
checked_text!(
    /// Whom a device, deployment or job belongs to.
    Tenant,
    "tenant",
    "1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
    is_dns_label
);

impl DeviceId {
    /// A new id from 13 random bytes.
    pub fn from_entropy(entropy: [u8; 13]) -> Self {
        Self(format!("d-{}", base32_20(entropy)))
    }
}

impl Uid {
    /// A new uid from 13 random bytes.
    pub fn from_entropy(entropy: [u8; 13]) -> Self {
        Self(base32_20(entropy))
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// Of one device's desired document. Only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Of one deployment. Only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Generation {
    /// The one after this. Saturates: a device at `u64::MAX` accepts nothing newer, which is safe.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Revision {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Generation {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for good in ["a", "web", "pi-1", "0", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a*", "a>b", "a b", "é", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn device_ids_are_subject_safe() {
        let id = DeviceId::from_entropy([0xff; 13]);
        assert_eq!(id.as_str(), "d-77777777777777777777");
        assert!("d-*".parse::<DeviceId>().is_err());
        assert!("d-ABCDEFGHIJKLMNOPQRST".parse::<DeviceId>().is_err());
    }
}
