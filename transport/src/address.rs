//! The address of a NATS server, as a person writes it: `nats://host:port`, with a user and password or a token in front of
//! the host. What is secret never shows: only the rest is displayed, debugged, serialized.

use std::fmt;

use serde::{Serialize, Serializer};

/// An address. Whether it reads is found out when it is connected to.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: String,
    login: Option<Login>,
}

/// Who connects.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user with a password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

impl Address {
    /// The address without its login.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who connects, if the address says so.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// The whole address, with its secret, for a process of ours. Never print it.
    pub fn exposed(&self) -> String {
        let login = match &self.login {
            None => return self.url.clone(),
            Some(Login::User { name, password }) => format!("{}:{}", encoded(name), encoded(password)),
            Some(Login::Token(token)) => encoded(token),
        };
        match self.url.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{login}@{rest}"),
            None => format!("{login}@{}", self.url),
        }
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
        // A password may hold anything, another `@` or a slash too; a host may not.
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        let url = if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") };
        let login = login.filter(|login| !login.is_empty()).map(|login| match login.split_once(':') {
            Some((name, password)) => Login::User { name: decoded(name), password: decoded(password) },
            None => Login::Token(decoded(login)),
        });
        Self { url, login }
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.url, f)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.url)
    }
}

/// The same text with the login of every address in it left out. For texts of others, such as a parser's message that
/// quotes what it read.
pub fn redacted(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end =
            after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '`' | ',')).unwrap_or(after.len());
        let address = &after[..end];
        out.push_str(address.rsplit_once('@').map_or(address, |(_, host)| host));
        rest = &after[end..];
    }
    out + rest
}

/// `%40` is `@`, as in every address. What is no such code stands for itself.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            bytes.push(byte);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().fold(String::new(), |out, byte| {
        if plain(&byte) {
            out + char::from(byte).encode_utf8(&mut [0; 4])
        } else {
            out + &format!("%{byte:02X}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> Login {
        Login::User { name: name.into(), password: password.into() }
    }

    #[test]
    fn an_address_is_split_into_where_and_who() {
        for (text, url, login) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222", None),
            ("nats://al:secret@h:4222", "nats://h:4222", Some(user("al", "secret"))),
            ("al:secret@h:4222", "h:4222", Some(user("al", "secret"))),
            ("tls://al:a@b/c:d%40e@h", "tls://h", Some(user("al", "a@b/c:d@e"))),
            ("nats://al:50%@[::1]:4222", "nats://[::1]:4222", Some(user("al", "50%"))),
            ("nats://al:@h", "nats://h", Some(user("al", ""))),
            ("nats://@h", "nats://h", None),
            ("nats://s3cr3t@h", "nats://h", Some(Login::Token("s3cr3t".into()))),
        ] {
            let address = Address::from(text);
            assert_eq!((address.url(), address.login()), (url, login.as_ref()), "{text}");
            assert_eq!(Address::from(address.exposed()), address, "{text}");
        }
    }

    #[test]
    fn what_is_secret_does_not_show() {
        let address = Address::from("nats://alice:hunter2@h:4222");
        let shown = format!("{address} {address:?} {:?} {}", address.login(), serde_json::json!([address]));
        assert!(
            !shown.contains("hunter2") && !shown.contains("alice") && shown.contains("h:4222"),
            "{shown}"
        );
        let said = r#"string "nats://alice:hunter2@h:1", `tls://t0ken@h` and nats://h:2, http://h/x"#;
        assert_eq!(redacted(said), r#"string "nats://h:1", `tls://h` and nats://h:2, http://h/x"#);
    }
}
