//! `[nats]`: a server that runs elsewhere, or the settings of an embedded server.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use transport::{Address, LinkConfig};

use super::rule::Rule;

/// Where NATS is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nats {
    /// A server that this process does not start.
    Remote(LinkConfig),
    /// A server that this process starts.
    Embedded(Embedded),
}

/// How the embedded nats-server is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// The program; searched when missing.
    pub(crate) server: Option<PathBuf>,
    /// Its data folder; the command's default when missing.
    pub(crate) data: Option<PathBuf>,
    /// Its port on loopback; a free one when missing.
    pub(crate) port: Option<u16>,
}

/// `[nats]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNats {
    url: Option<String>,
    urls: Vec<String>,
    credentials: Option<PathBuf>,
    root_certificates: Option<PathBuf>,
    server: Option<PathBuf>,
    data: Option<PathBuf>,
    port: Option<u16>,
}

impl RawNats {
    pub(super) fn check(self, folder: &Path) -> Result<Nats, Rule> {
        let Self { url, urls, credentials, root_certificates, server, data, port } = self;
        if url.is_some() && !urls.is_empty() {
            return Err(Rule::new("nats.urls", "only one of nats.url and nats.urls may be given"));
        }
        let urls: Vec<String> = url.into_iter().chain(urls).collect();
        if let Some(bad) = urls.iter().find(|url| !is_address(url)) {
            return Err(Rule::new(
                "nats.url",
                format!("`{}` must be nats://host:port or tls://host:port", Address::from(bad)),
            ));
        }
        let beneath = |path: Option<PathBuf>| path.map(|p| folder.join(p));
        if urls.is_empty() {
            for (key, given) in [
                ("nats.credentials", credentials.is_some()),
                ("nats.root_certificates", root_certificates.is_some()),
            ] {
                if given {
                    return Err(Rule::new(key, "is for a server of yours; give its nats.url, too"));
                }
            }
            let (server, data) = (beneath(server), beneath(data));
            return Ok(Nats::Embedded(Embedded { server, data, port }));
        }
        for (key, given) in
            [("nats.server", server.is_some()), ("nats.data", data.is_some()), ("nats.port", port.is_some())]
        {
            if given {
                return Err(Rule::new(
                    key,
                    "is for the embedded server, which is not started when nats.url is given",
                ));
            }
        }
        let link = LinkConfig {
            urls: urls.into_iter().map(Address::from).collect(),
            credentials: beneath(credentials),
            root_certificates: beneath(root_certificates),
        };
        link.check().map_err(|error| Rule::new("nats", error.to_string()))?;
        Ok(Nats::Remote(link))
    }
}

/// Whether a text is an address that the NATS client takes.
pub(crate) fn is_address(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    ["nats", "tls", "ws", "wss"].contains(&scheme) && !rest.is_empty() && !rest.contains(char::is_whitespace)
}
