//! The signature of a webhook: HMAC-SHA256 over its id, its time and its body, as Svix writes it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// The key that signs webhooks.
#[derive(Debug)]
pub(crate) struct Secret(hmac::Key);

impl Secret {
    /// Reads `whsec_` and base64.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let key = STANDARD.decode(text.strip_prefix("whsec_")?).ok().filter(|key| !key.is_empty())?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The value of `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.0, &signed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        // The example in the documentation of Svix, whose scheme this is.
        let secret = Secret::parse("whsec_plJ3nmyCDGBKInavdOK15jsl").unwrap();
        let body = br#"{"event_type":"ping","data":{"success":true}}"#;
        let signature = secret.sign("msg_loFOjxBNrRLzqYUf", 1_731_705_121, body);
        assert_eq!(signature, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
    }

    #[test]
    fn a_secret_is_a_prefix_and_base64() {
        for text in ["", "whsec_", "whsec_?", "c2ltdWxhdGVk"] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
