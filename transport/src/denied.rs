//! What the server does not permit: it says so in an error of the connection, and leaves the call itself without an answer.

/// A subject that this connection's user may not use so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing may be published there.
    #[error("publish to `{subject}` (permission: publish)")]
    Publish {
        /// The subject.
        subject: String,
    },
    /// Nothing may be heard there.
    #[error("subscribe to `{subject}` (permission: subscribe)")]
    Subscribe {
        /// The subject.
        subject: String,
    },
}

impl Denied {
    /// The subject that is denied.
    pub fn subject(&self) -> &str {
        match self {
            Self::Publish { subject } | Self::Subscribe { subject } => subject,
        }
    }

    /// Reads the server's words, `Permissions Violation for Publish to "x"` or `… for Subscription to "x" using queue "y"`; `None` for
    /// any other error.
    pub fn read(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let at = lower.find("permissions violation for ")?;
        let what = &lower[at + "permissions violation for ".len()..];
        let subject = text.split('"').nth(1)?.to_owned();
        if what.starts_with("publish") {
            Some(Self::Publish { subject })
        } else if what.starts_with("subscription") {
            Some(Self::Subscribe { subject })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_what_is_denied_and_where() {
        let publish = |subject: &str| Some(Denied::Publish { subject: subject.into() });
        let subscribe = |subject: &str| Some(Denied::Subscribe { subject: subject.into() });
        for (text, denied) in [
            (r#"nats: Permissions Violation for Publish to "beacon.jobs.A""#, publish("beacon.jobs.A")),
            (r#"permissions violation for publish with reply of "_INBOX.x""#, publish("_INBOX.x")),
            (r#"Permissions Violation for Subscription to "a.*" using queue "q""#, subscribe("a.*")),
            ("nats: authorization violation", None),
            ("Permissions Violation for Publish", None),
            (r#"Maximum Payload Violation for "x""#, None),
        ] {
            assert_eq!(Denied::read(text), denied, "{text}");
        }
    }
}
