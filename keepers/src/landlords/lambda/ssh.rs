//! A public key in OpenSSH's form, and the name under which we add it.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};

/// The kind and the blob of a public key: what it is, without its comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicKey<'a> {
    kind: &'a str,
    blob: &'a str,
}

impl<'a> PublicKey<'a> {
    /// Reads one line of OpenSSH's form.
    pub(super) fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (kind, blob) = (words.next()?, words.next()?);
        let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start));
        (known && blob.starts_with("AAAA") && !line.trim().contains('\n')).then_some(Self { kind, blob })
    }

    /// The name under which we add it.
    pub(super) fn name(&self) -> String {
        let hash = digest(&SHA256, format!("{} {}", self.kind, self.blob).as_bytes());
        let mut name = String::from("beacon-");
        for byte in &hash.as_ref()[..8] {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_kind_and_blob_and_nothing_else_reads() {
        let [here, there] = ["us@here", ""].map(|comment| format!("ssh-ed25519 AAAAC3 {comment}\n"));
        assert_eq!(PublicKey::read(&here), PublicKey::read(&there));
        for odd in
            ["", "AAAAC3", "-----BEGIN PRIVATE KEY-----", "ssh-rsa", "ssh-rsa AAAAB3 a\nssh-rsa AAAAB3 b"]
        {
            assert_eq!(PublicKey::read(odd), None, "{odd}");
        }
    }
}
