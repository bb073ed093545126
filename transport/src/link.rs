//! A connection: made with our settings, refused when the server is too old, and able to say that it reconnected.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, Statistics};
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};
use tracing::{debug, error, info, warn};

use crate::{
    address::{Address, Login},
    denied::Denied,
};

/// The oldest server with message schedules and work-queue sourcing.
pub const SERVER_MIN: (u64, u64) = (2, 14);

/// Commands that may wait in the client while it is disconnected; then a publish waits.
const CLIENT_CAPACITY: usize = 65_536;

/// Messages one subscription may buffer. Credits and windows keep far below it; beyond it messages are dropped and
/// the lease redelivers them.
const SUBSCRIPTION_CAPACITY: usize = 131_072;

/// Denials that a listener may be behind. One that is further behind hears of the same denial again when it repeats what was denied.
const DENIALS_AHEAD: usize = 256;
/// How long the client may take to say that it is connected, once it is.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Where to connect and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// One or more servers of one cluster.
    pub urls: Vec<Address>,
    /// A credentials file (JWT and key).
    pub credentials: Option<PathBuf>,
    /// Trusted root certificates in PEM; TLS is required when set.
    pub root_certificates: Option<PathBuf>,
}

impl LinkConfig {
    /// One server, as the user that its address names, if any.
    pub fn to(url: impl Into<Address>) -> Self {
        Self { urls: vec![url.into()], credentials: None, root_certificates: None }
    }

    /// The addresses for people to read; no secret is in them.
    pub fn shown(&self) -> String {
        self.urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Checks what can be checked before anything connects.
    pub fn check(&self) -> Result<(), LinkError> {
        self.login().map(drop)
    }

    /// Who connects, as the addresses say: the same to each server, since the client goes to any of them.
    fn login(&self) -> Result<Option<&Login>, LinkError> {
        let mut logins = self.urls.iter().filter_map(Address::login);
        let first = logins.next();
        match (logins.any(|other| Some(other) != first), first, &self.credentials) {
            (true, ..) => Err(LinkError::Logins),
            (false, Some(_), Some(path)) => Err(LinkError::TwoLogins { path: path.clone() }),
            (false, ..) => Ok(first),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// An address does not read.
    #[error("nats.url `{0}` must be nats://host:port")]
    Address(Address),
    /// The addresses name different users.
    #[error("nats.urls name different users; each must name the same one, or only one of them any")]
    Logins,
    /// Address and credentials file each say who connects.
    #[error("nats.url names a user, and so does nats.credentials `{path}`; only one of them may")]
    TwoLogins {
        /// The file.
        path: PathBuf,
    },
    /// The credentials file does not read.
    #[error("nats.credentials `{path}` cannot be read")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answered.
    #[error("cannot connect to NATS at {urls}")]
    Connect {
        /// Where we tried.
        urls: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The server lacks what we need.
    #[error("nats-server {found} at {urls} is too old; Beacon needs {}.{} or newer (`make setup` installs one)", SERVER_MIN.0, SERVER_MIN.1)]
    TooOld {
        /// What it says it is.
        found: String,
        /// Where.
        urls: String,
    },
    /// The server runs without JetStream.
    #[error("nats-server at {0} runs without JetStream; start it with -js")]
    NoJetStream(String),
}

/// The denials of each open connection.
///
/// The one static of the workspace beside the allocator. A question to JetStream that is denied gets no answer, only an error of the
/// connection, and whoever asks has a client, not the link. The client library has no place in a client for what belongs to its connection;
/// a wrapper of our own would have to stand in for the client in every signature from the command line to `api`, some forty files,
/// for the sake of a better error. What is here decides nothing: without it a denied question fails later, as unanswered. An entry
/// is found by the statistics, one object for each connection, and goes when its connection is gone.
static DENIALS: Mutex<Vec<(Weak<Statistics>, Denials)>> = Mutex::new(Vec::new());

/// What the server does not permit the connection of `client`; `None` for a client that no [`Link`] made.
pub(crate) fn denials_of(client: &Client) -> Option<Denials> {
    let statistics = Arc::downgrade(&client.statistics());
    let connections = DENIALS.lock().unwrap_or_else(PoisonError::into_inner);
    connections.iter().find(|(of, _)| of.ptr_eq(&statistics)).map(|(_, denials)| denials.clone())
}

/// What the server does not permit one connection.
#[derive(Clone, Debug)]
pub(crate) struct Denials {
    told: broadcast::Sender<Denied>,
    /// That answers to questions may not be heard. The client subscribes to them once, with its first question, so it is told once.
    deaf: watch::Sender<Option<Denied>>,
}

impl Denials {
    fn new() -> Self {
        Self { told: broadcast::Sender::new(DENIALS_AHEAD), deaf: watch::Sender::new(None) }
    }

    /// Those from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Denied> {
        self.told.subscribe()
    }

    /// Returns when answers may not be heard, at once if that is known.
    pub(crate) async fn deaf(&self) -> Denied {
        let mut deaf = self.deaf.subscribe();
        let denied = deaf.wait_for(Option::is_some).await.ok().and_then(|denied| denied.clone());
        match denied {
            Some(denied) => denied,
            // The sender is this very object's, so it is never gone.
            None => std::future::pending().await,
        }
    }

    fn tell(&self, denied: Denied) {
        if matches!(&denied, Denied::Subscribe { subject } if of_answers(subject)) {
            self.deaf.send_replace(Some(denied.clone()));
        }
        // Nobody may listen, which is no error.
        let _ = self.told.send(denied);
    }
}

/// Whether a subject is that on which a client hears the answers to all its questions.
fn of_answers(subject: &str) -> bool {
    subject.starts_with("_INBOX_") && subject.ends_with(".*")
}

/// A connected client that counts its reconnects.
#[derive(Clone, Debug)]
pub struct Link {
    /// The client.
    pub client: Client,
    /// How often the connection came back. Whatever was sent shortly before a change may be lost.
    pub reconnects: watch::Receiver<u64>,
    denials: Denials,
}

impl Link {
    /// Connects as `name` and checks the server.
    pub async fn connect(config: &LinkConfig, name: &str) -> Result<Self, LinkError> {
        let urls = config.shown();
        let read = |address: &Address| {
            address.url().parse::<ServerAddr>().map_err(|_| LinkError::Address(address.clone()))
        };
        let addresses: Vec<ServerAddr> = config.urls.iter().map(read).collect::<Result<_, _>>()?;
        let (tell, reconnects) = watch::channel(0u64);
        let denials = Denials::new();
        let deny = denials.clone();
        let mut options = ConnectOptions::new()
            .name(name)
            // The default prefix would let every client read every other's inbox under the permissions we document.
            .custom_inbox_prefix(format!("_INBOX_{}", inbox_token(name)))
            .client_capacity(CLIENT_CAPACITY)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                hear(&event, &tell, &deny);
                std::future::ready(())
            });
        options = match config.login()? {
            None => options,
            Some(Login::User { name, password }) => options.user_and_password(name.clone(), password.clone()),
            Some(Login::Token(token)) => options.token(token.clone()),
        };
        if let Some(path) = &config.credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|source| LinkError::Credentials { path: path.clone(), source })?;
        }
        if let Some(path) = &config.root_certificates {
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        let client = options
            .connect(addresses)
            .await
            .map_err(|source| LinkError::Connect { urls: urls.clone(), source })?;
        // The first connection is told of beside this call. Whoever listens for reconnects must not take it for one and send everything
        // again.
        let mut told = reconnects.clone();
        if timeout(TOLD_WITHIN, told.wait_for(|count| *count > 0)).await.is_err() {
            debug!("the client does not say that it is connected");
        }
        let server = client.server_info();
        if !new_enough(&server.version) {
            return Err(LinkError::TooOld { found: server.version, urls });
        }
        if !server.jetstream {
            return Err(LinkError::NoJetStream(urls));
        }
        let mut connections = DENIALS.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|(of, _)| of.strong_count() > 0);
        connections.push((Arc::downgrade(&client.statistics()), denials.clone()));
        drop(connections);
        Ok(Self { client, reconnects, denials })
    }

    /// What the server does not permit this connection, from now on.
    pub fn denials(&self) -> broadcast::Receiver<Denied> {
        self.denials.subscribe()
    }

    /// The server's version, as it says.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }
}

/// Whether a version text is at least [`SERVER_MIN`]. What does not read is too old.
pub fn new_enough(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|p| p.parse::<u64>().ok());
    matches!((parts.next().flatten(), parts.next().flatten()), (Some(a), Some(b)) if (a, b) >= SERVER_MIN)
}

fn inbox_token(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// Doubles from 20 ms to 2 s with full jitter, so that a thousand clients do not come back at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let ceiling = 20u64.saturating_mul(1 << attempts.min(10)).min(2_000);
    Duration::from_millis(rand::random_range(0..=ceiling))
}

fn hear(event: &Event, tell: &watch::Sender<u64>, denials: &Denials) {
    match event {
        // The first `Connected` counts too: nobody has sent anything before it.
        Event::Connected => {
            info!("connected to NATS");
            // The client subscribes again, and the server says again what it does not permit.
            denials.deaf.send_replace(None);
            tell.send_modify(|count| *count += 1);
        }
        Event::Disconnected => warn!("disconnected from NATS, reconnecting"),
        Event::SlowConsumer(subscription) => {
            warn!(subscription, "a subscription overflowed, messages were dropped");
        }
        // What is denied shows only here: the call itself gets no answer.
        Event::ServerError(server_error) => {
            let Some(denied) = Denied::read(&server_error.to_string()) else {
                warn!(error = %server_error, "NATS server refused something");
                return;
            };
            match &denied {
                Denied::Subscribe { .. } => error!("NATS does not permit this user to {denied}"),
                // Whoever publishes tells its caller.
                Denied::Publish { .. } => debug!("NATS does not permit this user to {denied}"),
            }
            denials.tell(denied);
        }
        Event::ClientError(error) => warn!(%error, "NATS client error"),
        Event::LameDuckMode | Event::Draining | Event::Closed => info!(%event, "NATS connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_schedules_is_too_old() {
        for (version, good) in [
            ("2.14.0", true),
            ("2.15.1", true),
            ("v3.0.0", true),
            ("2.9.10", false),
            ("2.13.9", false),
            ("x", false),
        ] {
            assert_eq!(new_enough(version), good, "{version}");
        }
    }
}
