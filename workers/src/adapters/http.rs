//! The HTTP client all adapters share, and how its errors are classified.
//!
//! It never follows a redirect (Modal's carries a run id that must be journalled first, and a key must not travel to
//! another host), never uses a proxy it was not told of, and has no total timeout: each adapter bounds its own steps.

use std::{error::Error as _, fmt::Write as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use reqwest::{
    Client, Response, Url,
    header::{DATE, HeaderMap, RETRY_AFTER},
    redirect,
};
use schemas::failure::{Failure, FailureClass};

/// uvicorn, under vLLM and FastAPI, closes a connection after 5 s without a request, and so does Node. Ours must be
/// given up first, or a POST now and then meets a closing connection and fails.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(4);

/// An error page is read this far; the rest says nothing new.
const ERROR_BODY_MAX: usize = 64 * 1024;

/// An error page that does not come at once is not waited for: its status has told what matters.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(2);

/// The longest wait we believe: one odd header must not close a pool for a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Why an adapter cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The base URL does not work.
    #[error("base_url `{url}` {rule}")]
    Url {
        /// The URL, without what may be a password in it.
        url: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A header that HTTP cannot carry.
    #[error("header `{0}` must be visible ASCII")]
    Header(String),
    /// One half of a pair.
    #[error("`key` and `secret` must be given together or not at all")]
    KeyPair,
    /// The TLS library refuses, most likely for want of root certificates.
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
}

/// Where a provider listens: no trailing slash, no `/v1`, no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// Reads `http(s)://host[:port][/path]`, with or without `/v1` and slashes at its end.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let refuse = |rule| BuildError::Url { url: text.chars().take(120).collect(), rule };
        let mut url = Url::parse(text.trim()).map_err(|_| refuse("must be http(s)://host[:port][/path]"))?;
        if !url.username().is_empty() || url.password().is_some() {
            let rule = "must not contain a user or password; give the key by its own setting";
            return Err(BuildError::Url { url: "(not shown)".to_owned(), rule });
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse("must begin with http:// or https:// and name a host"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("must end with its path"));
        }
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// The URL of a path that begins with a slash.
    pub fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }

    /// The last part of its path.
    pub(super) fn last_segment(&self) -> String {
        self.0.path().rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Whether it is at this host, by https.
    pub(super) fn is_at(&self, host: &str) -> bool {
        self.0.scheme() == "https" && self.0.host_str() == Some(host)
    }

    /// The URL of something by its name, as one segment: a name with a slash in it names no other route.
    pub(super) fn join_segment(&self, path: &str, name: &str) -> Url {
        let mut url = self.join(path);
        url.path_segments_mut().expect("a base URL is http or https").push(name);
        url
    }

    /// Resolves a `Location`; `None` when it does not read or leads to another host.
    pub(super) fn resolve(&self, location: &str) -> Option<Url> {
        let url = self.0.join(location).ok()?;
        (url.origin() == self.0.origin()).then_some(url)
    }

    /// Reads a whole URL; `None` when it leads to another host.
    pub(super) fn resolve_url(&self, url: &str) -> Option<Url> {
        Url::parse(url).ok().filter(|url| url.origin() == self.0.origin())
    }

    /// Whether it is spoken to without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }

    /// A client for this place. Plain HTTP needs no root certificates, so none are loaded for it.
    pub(crate) fn client(&self, connect_timeout: Duration) -> Result<Client, BuildError> {
        // Fails when some other part of the process was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(IDLE_CONNECTION_MAX);
        if self.is_plain() {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring supports the default versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(tls);
        }
        builder.build().map_err(BuildError::Client)
    }
}

/// What the client library says went wrong. Nothing of it tells whether the provider had begun.
pub(super) fn broken(error: reqwest::Error) -> Failure {
    let class = if error.is_timeout() && !error.is_connect() {
        FailureClass::Timeout
    } else if error.is_builder() {
        FailureClass::Misconfigured
    } else {
        FailureClass::Connection
    };
    // The URL is in the pool's configuration; its query may carry a run id.
    let error = error.without_url();
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(message, ": {cause}");
        source = cause.source();
    }
    Failure::new(class, message)
}

/// Reads a whole body of at most `max` bytes.
pub(super) async fn whole_body(mut response: Response, max: usize) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(broken)? {
        if body.len() + part.len() > max {
            return Err(too_long(max));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// An answer that is longer than anything we asked for.
pub(super) fn too_long(max: usize) -> Failure {
    Failure::new(FailureClass::ProviderDown, format!("the answer is longer than {max} bytes"))
}

/// Reads what there is of an error page.
pub(super) async fn error_body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(part)) = response.chunk().await {
            let left = ERROR_BODY_MAX - body.len();
            body.extend_from_slice(&part[..part.len().min(left)]);
            if body.len() == ERROR_BODY_MAX {
                break;
            }
        }
    };
    // Late or broken, what came is what there is.
    let _ = tokio::time::timeout(ERROR_BODY_WAIT, read).await;
    body
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date, which is counted from the answer's own `Date` so that two
/// clocks need not agree. At most an hour; `None` when absent, unreadable or a date without a `Date`.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse() {
        Duration::try_from_secs_f64(seconds).ok()?
    } else {
        let until = DateTime::parse_from_rfc2822(text).ok()?;
        let now = DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?;
        (until - now).to_std().unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> String {
        BaseUrl::parse(text).unwrap().join("/v1/models").to_string()
    }

    #[test]
    fn a_base_url_may_be_written_in_several_ways() {
        for text in ["http://h:8000", "http://h:8000/", "http://h:8000/v1", " http://h:8000/v1/ "] {
            assert_eq!(base(text), "http://h:8000/v1/models", "{text}");
        }
        assert_eq!(base("https://h/gate/a/v1"), "https://h/gate/a/v1/models");
    }

    #[test]
    fn a_base_url_that_cannot_work_is_refused_and_a_password_is_not_repeated() {
        for text in ["", "h:8000", "ftp://h", "http://", "http://h/?a=b", "http://h/#x"] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
        let error = BaseUrl::parse("https://me:hunter2@h").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn a_redirect_must_stay_where_it_came_from() {
        let base = BaseUrl::parse("https://a.modal.run").unwrap();
        assert!(base.resolve("/v1/run?x=1").is_some());
        assert!(base.resolve("https://a.modal.run/v1/run?x=1").is_some());
        for elsewhere in ["https://b.modal.run/", "http://a.modal.run/", "https://a.modal.run:8443/", "//b/"]
        {
            assert_eq!(base.resolve(elsewhere), None, "{elsewhere}");
        }
    }

    fn waits(value: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(waits("3", None), Some(Duration::from_secs(3)));
        assert_eq!(waits("0.5", None), Some(Duration::from_millis(500)));
        assert_eq!(waits("Wed, 21 Oct 2015 07:28:07 GMT", date), Some(Duration::from_secs(7)));
        assert_eq!(waits("Wed, 21 Oct 2015 07:27:00 GMT", date), Some(Duration::ZERO));
        assert_eq!(waits("999999", None), Some(RETRY_AFTER_MAX));
        for odd in ["soon", "-1", "NaN", "Wed, 21 Oct 2015 07:28:07 GMT"] {
            assert_eq!(waits(odd, None), None, "{odd}");
        }
    }
}
