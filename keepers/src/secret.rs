//! A text that is never shown, and the keys that are derived from it.

use std::{fmt, fmt::Write as _};

use reqwest::header::HeaderValue;
use ring::hmac;
use schemas::MachineId;

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

    /// A header value of `prefix` and the text; `None` when no header can carry it.
    pub(crate) fn header(&self, prefix: &str) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// `text` without this secret: some servers repeat the key they refuse.
    pub(crate) fn scrub(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "***") }
    }

    /// The key of one machine's server: HMAC-SHA256 of the machine's name under this secret, in hexadecimal.
    ///
    /// An adopted machine's key is computed again, since no provider gives back what a machine was started with. A machine
    /// whose address was given to another one refuses this key, so that a probe tells them apart.
    #[must_use]
    pub fn of_machine(&self, machine: &MachineId) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let tag = hmac::sign(&key, machine.as_str().as_bytes());
        let mut text = String::with_capacity(64);
        for byte in tag.as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
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

    /// HMAC-SHA256 of `0192f3a4c5d67e8f90a1b2c3d4e5f607` under `pool-secret`. The worker's test has the same.
    const VECTOR: &str = "9dbfc8fd69a4d90eb87e4c61af4e1a8fbbf175b57892190491ea7b19400fe684";

    #[test]
    fn a_machines_key_is_what_a_worker_computes() {
        let machine = "0192f3a4c5d67e8f90a1b2c3d4e5f607".parse().unwrap();
        assert_eq!(Secret::new(" pool-secret\n").of_machine(&machine).expose(), VECTOR);
    }

    #[test]
    fn each_machine_has_a_key_of_its_own_that_can_be_computed_again() {
        let secret = Secret::new(" pool-secret\n");
        let (a, b) = ("0192f3a4".parse().unwrap(), "0192f3a5".parse().unwrap());
        assert_eq!(secret.of_machine(&a), secret.of_machine(&a));
        assert_ne!(secret.of_machine(&a), secret.of_machine(&b));
        assert_eq!(secret.of_machine(&a).expose().len(), 64);
        assert_eq!(format!("{secret:?}"), "***");
    }
}
