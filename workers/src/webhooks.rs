//! Receives what providers tell by webhook, and wakes whoever follows the run. A hint, never more: the result is read
//! from the provider itself, and without any webhook the polls find it.
//!
//! | provider | path | believed when |
//! |---|---|---|
//! | RunPod | `/webhooks/runpod/<token>` | the token is ours: a new one for each process, that nobody can guess |
//! | Replicate | `/webhooks/replicate` | the signature is right, no older than five minutes, and its id is new |

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rand::RngExt as _;
use ring::hmac;
use schemas::time::Clock as _;
use serde::Deserialize;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use transport::SystemClock;

use crate::{
    adapters::{
        Secret,
        hints::{Callback, Hints},
    },
    metrics,
};

/// Older signatures may have been overheard.
const AGE_MAX: Duration = Duration::from_secs(300);

/// A prediction with its output: as long as a job's output may be, and what JSON adds.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// The receiver of one process.
#[derive(Debug)]
pub struct Webhooks {
    public_url: String,
    token: String,
    hints: Arc<Hints>,
    keys: RwLock<Vec<SigningKey>>,
    /// Ids of messages that were taken, for as long as a signature is believed.
    taken: Mutex<HashMap<String, Instant>>,
}

/// Why a signing secret does not work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a webhook secret must be `whsec_` and base64")]
pub struct SecretError;

/// What Replicate signs its webhooks with. Shows nothing of itself.
#[derive(Clone, Debug)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Reads `whsec_<base64>`.
    pub fn new(secret: &Secret) -> Result<Self, SecretError> {
        let bytes = secret.expose().strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        bytes.map(|bytes| Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))).ok_or(SecretError)
    }

    /// Whether one of the signatures of a header is ours, compared in constant time.
    fn signed(&self, signed: &[u8], header: &str) -> bool {
        let signatures = header.split(' ').filter_map(|part| part.strip_prefix("v1,"));
        let mut decoded = signatures.filter_map(|text| STANDARD.decode(text).ok());
        decoded.any(|signature| hmac::verify(&self.0, signed, &signature).is_ok())
    }
}

/// What both providers put into a webhook, as far as we read it.
#[derive(Deserialize)]
struct Told {
    id: String,
}

impl Webhooks {
    /// `public_url` is how providers reach this process, without a slash at its end.
    pub fn new(public_url: &str) -> Self {
        let token = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 24]>());
        Self {
            public_url: public_url.trim_end_matches('/').to_owned(),
            token,
            hints: Arc::default(),
            keys: RwLock::default(),
            taken: Mutex::default(),
        }
    }

    /// For a pool of RunPod.
    pub fn runpod(&self) -> Callback {
        Callback {
            url: format!("{}/webhooks/runpod/{}", self.public_url, self.token),
            hints: Arc::clone(&self.hints),
        }
    }

    /// For a pool of Replicate whose account signs with this key.
    pub fn replicate(&self, key: SigningKey) -> Callback {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).push(key);
        Callback { url: format!("{}/webhooks/replicate", self.public_url), hints: Arc::clone(&self.hints) }
    }

    /// Listens; gives the address and what serves until `shutdown`.
    pub async fn serve(
        self: Arc<Self>,
        listen: SocketAddr,
        shutdown: CancellationToken,
    ) -> std::io::Result<(SocketAddr, impl Future<Output = std::io::Result<()>> + Send)> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let app = Router::new()
            .route("/webhooks/runpod/{token}", post(from_runpod))
            .route("/webhooks/replicate", post(from_replicate))
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .with_state(self);
        let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned());
        Ok((address, serving.into_future()))
    }

    fn told(&self, provider: &'static str, body: &[u8]) -> StatusCode {
        let Ok(Told { id }) = serde_json::from_slice(body) else {
            metrics::webhook(provider, "unreadable");
            return StatusCode::BAD_REQUEST;
        };
        let followed = self.hints.tell(&id);
        metrics::webhook(provider, if followed { "followed" } else { "unknown" });
        debug!(provider, run = id, followed, "webhook");
        // One for a run of another process, or of an earlier life of this one, is no error of the provider's.
        StatusCode::OK
    }

    /// Whether the message is signed, fresh and new.
    fn believes(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(at), Some(signature)) =
            (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"))
        else {
            return false;
        };
        let Ok(seconds) = at.parse::<u64>() else { return false };
        let now = SystemClock.now().get() / 1_000_000;
        if now.abs_diff(seconds) > AGE_MAX.as_secs() {
            return false;
        }
        let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().any(|key| key.signed(&signed, signature)) && self.is_new(id)
    }

    fn is_new(&self, id: &str) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, at| at.elapsed() <= 2 * AGE_MAX);
        taken.insert(id.to_owned(), Instant::now()).is_none()
    }
}

async fn from_runpod(
    State(webhooks): State<Arc<Webhooks>>,
    Path(token): Path<String>,
    body: Bytes,
) -> StatusCode {
    // Comparing hashes takes the same time wherever the tokens differ.
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    if digest(&token).as_ref() != digest(&webhooks.token).as_ref() {
        metrics::webhook("runpod", "refused");
        return StatusCode::NOT_FOUND;
    }
    webhooks.told("runpod", &body)
}

async fn from_replicate(
    State(webhooks): State<Arc<Webhooks>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if !webhooks.believes(&headers, &body) {
        metrics::webhook("replicate", "refused");
        warn!("a webhook in Replicate's name that is not signed, too old, or came before");
        return StatusCode::UNAUTHORIZED;
    }
    webhooks.told("replicate", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhooks() -> (Webhooks, hmac::Key) {
        let webhooks = Webhooks::new("https://h/x/");
        let secret = Secret::new(format!("whsec_{}", STANDARD.encode(b"twenty-four bytes of key")));
        let callback = webhooks.replicate(SigningKey::new(&secret).unwrap());
        assert_eq!(callback.url, "https://h/x/webhooks/replicate");
        (webhooks, hmac::Key::new(hmac::HMAC_SHA256, b"twenty-four bytes of key"))
    }

    fn headers(key: &hmac::Key, id: &str, at: u64, body: &str) -> HeaderMap {
        let tag = hmac::sign(key, format!("{id}.{at}.{body}").as_bytes());
        let signature = format!("v1,bm90IG91cnM= v1,{}", STANDARD.encode(tag));
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", at.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn only_what_is_signed_fresh_and_new_is_believed() {
        let (webhooks, key) = webhooks();
        let now = SystemClock.now().get() / 1_000_000;
        let good = headers(&key, "m-1", now, "{}");
        assert!(webhooks.believes(&good, b"{}"));
        assert!(!webhooks.believes(&good, b"{}"), "the same once more");
        assert!(!webhooks.believes(&headers(&key, "m-2", now, "{}"), b"{ }"), "another body");
        assert!(!webhooks.believes(&headers(&key, "m-3", now - 301, "{}"), b"{}"), "too old");
        assert!(!webhooks.believes(&headers(&key, "m-4", now + 301, "{}"), b"{}"), "from the future");
        let other = hmac::Key::new(hmac::HMAC_SHA256, b"another");
        assert!(!webhooks.believes(&headers(&other, "m-5", now, "{}"), b"{}"), "another key");
        assert!(!webhooks.believes(&HeaderMap::new(), b"{}"), "nothing at all");
        assert_eq!(SigningKey::new(&Secret::new("whsec_%")).unwrap_err(), SecretError);
    }

    #[tokio::test]
    async fn a_token_cannot_be_guessed_and_a_hint_reaches_the_follower() {
        let webhooks = Arc::new(Webhooks::new("http://h"));
        let hint = webhooks.hints.listen("job-1");
        let call = |token: &str, body: &'static str| {
            from_runpod(
                State(Arc::clone(&webhooks)),
                Path(token.to_owned()),
                Bytes::from_static(body.as_bytes()),
            )
        };
        assert_eq!(call("guess", r#"{"id":"job-1"}"#).await, StatusCode::NOT_FOUND);
        assert_eq!(call(&webhooks.token, "no").await, StatusCode::BAD_REQUEST);
        assert_eq!(call(&webhooks.token, r#"{"id":"of another life"}"#).await, StatusCode::OK);
        assert_eq!(call(&webhooks.token, r#"{"id":"job-1","status":"COMPLETED"}"#).await, StatusCode::OK);
        hint.came().await;
        assert_ne!(webhooks.token, Webhooks::new("http://h").token);
    }
}
