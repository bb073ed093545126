//! A text that is never shown.

use std::{fmt, fmt::Write as _};

use reqwest::header::HeaderValue;
use ring::hmac;
use schemas::MachineId;

use super::http::BuildError;

/// A key or token. `Debug` prints `***`, there is no `Display`, and headers made of it are marked sensitive.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text that was read from the environment or a file; blanks around it are dropped.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().trim().to_owned())
    }

    /// The text itself, for what is neither a header nor shown.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// A header value of `prefix` and the text; `header` only names it in the refusal.
    pub(super) fn header(&self, header: &str, prefix: &str) -> Result<HeaderValue, BuildError> {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0))
            .map_err(|_| BuildError::Header(header.to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The key of one machine's server: HMAC-SHA256 of the machine's name under this secret, in hexadecimal.
    ///
    /// The keeper computes the same when it orders the machine. The two share no crate that may do so, so both are tested
    /// against one fixed vector.
    pub(crate) fn of_machine(&self, machine: &MachineId) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let tag = hmac::sign(&key, machine.as_str().as_bytes());
        let mut text = String::with_capacity(64);
        for byte in tag.as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// `text` without this secret: some servers repeat the key they refuse.
    pub(super) fn scrub(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "***") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HMAC-SHA256 of `0192f3a4c5d67e8f90a1b2c3d4e5f607` under `pool-secret`. The keeper's test has the same.
    const VECTOR: &str = "9dbfc8fd69a4d90eb87e4c61af4e1a8fbbf175b57892190491ea7b19400fe684";

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::new(" sk-abc\n");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", secret.header("authorization", "Bearer ").unwrap()), "Sensitive");
        assert_eq!(secret.scrub("key sk-abc is wrong"), "key *** is wrong");
    }

    #[test]
    fn a_machines_key_is_what_its_keeper_gave_it() {
        let machine = "0192f3a4c5d67e8f90a1b2c3d4e5f607".parse().unwrap();
        let key = Secret::new("pool-secret\n").of_machine(&machine);
        assert_eq!(key.expose(), VECTOR);
    }

    #[test]
    fn a_secret_that_no_header_can_carry_is_refused_without_being_told() {
        let error = Secret::new("a\u{1}b").header("authorization", "").unwrap_err();
        assert_eq!(error.to_string(), "header `authorization` must be visible ASCII");
    }
}
