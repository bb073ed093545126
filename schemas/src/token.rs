//! Subject tokens: names that may stand between two dots of a NATS subject.
//!
//! A token is checked once, when it is made, so that building a subject cannot fail. The server itself stores
//! `*`, `>`, `%` and `/` literally when they are published, so the rule here is the only guard.

use std::{fmt, str::FromStr};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// The longest token we accept, in bytes. Keeps a whole subject below 300 bytes; it is stored with each message.
pub const TOKEN_MAX: usize = 64;

/// Why a text is not a subject token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` must be 1 to 64 characters of a-z, 0-9, `-` and `_`")]
pub struct TokenError {
    /// What the token was meant to be, for instance `region`.
    pub kind: &'static str,
    /// The refused text, shortened to 80 characters.
    pub value: String,
}

fn is_token(text: &str) -> bool {
    (1..=TOKEN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "CompactString")]
        pub struct $name(CompactString);

        impl $name {
            /// The token as it stands in a subject.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = TokenError;
            fn try_from(text: &str) -> Result<Self, TokenError> {
                if is_token(text) {
                    Ok(Self(CompactString::from(text)))
                } else {
                    Err(TokenError { kind: $kind, value: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<CompactString> for $name {
            type Error = TokenError;
            fn try_from(text: CompactString) -> Result<Self, TokenError> {
                if is_token(&text) { Ok(Self(text)) } else { Self::try_from(text.as_str()) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = TokenError;
            fn try_from(text: String) -> Result<Self, TokenError> {
                Self::try_from(text.as_str())
            }
        }

        impl FromStr for $name {
            type Err = TokenError;
            fn from_str(text: &str) -> Result<Self, TokenError> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(token: $name) -> String {
                token.0.into_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

token!(
    /// Where work is done, for instance `us-east`.
    Region,
    "region"
);
token!(
    /// A model's name as a subject token: `llama-3.2-1b` becomes `llama-3-2-1b` (see `catalog`).
    ModelToken,
    "model"
);
token!(
    /// A rented machine, by the name that we gave it when it was ordered: the order id.
    MachineId,
    "machine"
);
token!(
    /// Who pays.
    Tenant,
    "tenant"
);
token!(
    /// Where a producer receives replies, inside its tenant.
    Mailbox,
    "mailbox"
);
token!(
    /// A provider as the operator named it, for instance `golem`.
    ProviderId,
    "provider"
);
token!(
    /// One worker process of a pool.
    WorkerId,
    "worker"
);

/// How urgent a job is; part of the subject, so that one consumer filter selects a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Somebody is waiting at a screen.
    High,
    /// Ordinary service traffic.
    Normal,
    /// Backfills.
    Low,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The lane as it stands in a subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text).ok_or_else(|| TokenError {
            kind: "lane (high, normal or low)",
            value: text.chars().take(80).collect(),
        })
    }
}

/// The workers for one provider in one region. Written `golem@us-east`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolId {
    /// Where the pool's workers call from.
    pub region: Region,
    /// Whom they call.
    pub provider: ProviderId,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.provider, self.region)
    }
}

impl FromStr for PoolId {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (provider, region) = text.split_once('@').ok_or_else(|| TokenError {
            kind: "pool (written provider@region)",
            value: text.chars().take(80).collect(),
        })?;
        Ok(Self { region: region.parse()?, provider: provider.parse()? })
    }
}

impl Default for Tenant {
    /// `default`: who pays when nobody says.
    fn default() -> Self {
        Self(CompactString::const_new("default"))
    }
}

impl Default for Mailbox {
    /// `default`: where replies go when the job names no mailbox.
    fn default() -> Self {
        Self(CompactString::const_new("default"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_dots_blanks_and_capitals_are_no_tokens() {
        for bad in ["", "*", ">", "a.b", "a b", "A", "ü", "a/b", "a%", &"x".repeat(65)] {
            assert!(Tenant::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pool_is_written_provider_at_region() {
        let pool: PoolId = "golem@us-east".parse().unwrap();
        assert_eq!(pool.to_string(), "golem@us-east");
        assert!("golem".parse::<PoolId>().is_err());
    }

    proptest! {
        #[test]
        fn a_token_survives_text_and_json(text in "[a-z0-9_-]{1,64}") {
            let token: Region = text.parse().unwrap();
            prop_assert_eq!(token.as_str(), &text);
            let json = serde_json::to_string(&token).unwrap();
            prop_assert_eq!(serde_json::from_str::<Region>(&json).unwrap(), token);
        }

        #[test]
        fn whatever_is_accepted_holds_no_separator(text in ".{0,80}") {
            if let Ok(token) = Region::try_from(text.as_str()) {
                prop_assert!(!token.as_str().contains(['.', '*', '>', ' ', '$', '\r', '\n']));
            }
        }
    }
}
