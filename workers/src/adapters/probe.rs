//! The requests of a check: each reads, each is bounded, and none starts anything. What comes back is sorted by what a person does.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Url, header::HeaderMap};
use schemas::check::{Aspect, Finding, round_trip};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::{http, secret::Secret};

/// A request of a check that takes longer is given up: a check is read by a person who waits.
const WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read: a catalogue, or a thousand machines.
const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// Small requests whose median is the round trip, on the connection that one more has opened.
const SAMPLES: usize = 5;
/// Letters of an error page that are shown.
const SHOWN: usize = 160;

/// What came of a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// 200.
    Good(Bytes),
    /// 401, 403: what the provider says.
    Refused(String),
    /// 404: what the provider says.
    Missing(String),
    /// 429, and for how long.
    Busy(Option<Duration>),
    /// Another status, or a body that does not read: what it is.
    Odd(String),
    /// No answer.
    Silent(String),
}

/// The line to a provider.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    client: &'a Client,
    headers: &'a HeaderMap,
    secrets: &'a [&'a Secret],
}

impl<'a> Probe<'a> {
    pub(super) fn new(client: &'a Client, headers: &'a HeaderMap, secrets: &'a [&'a Secret]) -> Self {
        Self { client, headers, secrets }
    }

    /// A GET, read whole.
    pub(super) async fn get(&self, url: Url) -> Reply {
        let exchange = async {
            let response =
                self.client.get(url).headers(self.headers.clone()).send().await.map_err(http::broken)?;
            let (status, wait) = (response.status().as_u16(), http::retry_after(response.headers()));
            Ok((status, wait, http::whole_body(response, ANSWER_MAX).await?))
        };
        match timeout(WITHIN, exchange).await {
            Ok(Ok((status, wait, body))) => self.sort(status, wait, body),
            Ok(Err(failure)) => {
                let failure: schemas::failure::Failure = failure;
                Reply::Silent(self.scrub(&failure.message))
            }
            Err(_) => Reply::Silent(format!("no answer within {} s", WITHIN.as_secs())),
        }
    }

    fn sort(&self, status: u16, wait: Option<Duration>, body: Bytes) -> Reply {
        let shown = || {
            let text = String::from_utf8_lossy(&body);
            let line: String =
                text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
            self.scrub(&format!("status {status}{}{line}", if line.is_empty() { "" } else { ": " }))
        };
        match status {
            200 => Reply::Good(body),
            401 | 403 => Reply::Refused(shown()),
            404 => Reply::Missing(shown()),
            429 => Reply::Busy(wait),
            _ => Reply::Odd(shown()),
        }
    }

    fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| secret.scrub(&text))
    }

    /// How long small requests take on an open connection. Any answer counts: the way is what is measured.
    pub(super) async fn round_trip(&self, url: &Url) -> Finding {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut samples = Vec::with_capacity(SAMPLES);
        // The first opens the connection.
        for sample in 0..=SAMPLES {
            match self.sample(url.clone()).await {
                Some(took) if sample > 0 => samples.push(took),
                Some(_) => {}
                None => break,
            }
        }
        round_trip(samples, &host)
    }

    /// One request and its answer.
    async fn sample(&self, url: Url) -> Option<Duration> {
        let began = Instant::now();
        match self.get(url).await {
            Reply::Silent(_) => None,
            Reply::Good(_) | Reply::Refused(_) | Reply::Missing(_) | Reply::Busy(_) | Reply::Odd(_) => {
                Some(began.elapsed())
            }
        }
    }

    /// The way there and back on an open connection, once: the first request opens it.
    pub(super) async fn way(&self, url: &Url) -> Option<Duration> {
        self.sample(url.clone()).await?;
        self.sample(url.clone()).await
    }
}

impl Reply {
    /// The JSON of a good answer.
    pub(super) fn json<T: DeserializeOwned>(self, whose: &str) -> Result<T, Self> {
        match self {
            Self::Good(body) => serde_json::from_slice(&body).map_err(|error| {
                Self::Odd(format!("status 200, and {whose} does not read (column {})", error.column()))
            }),
            other => Err(other),
        }
    }

    /// What came, for a person.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Good(_) => "status 200".into(),
            Self::Refused(text) | Self::Missing(text) | Self::Odd(text) | Self::Silent(text) => text.clone(),
            Self::Busy(None) => "status 429: too many requests".into(),
            Self::Busy(Some(wait)) => format!("status 429: too many requests, wait {} s", wait.as_secs()),
        }
    }

    /// The finding about something that could not be read this time.
    pub(super) fn unread(&self, aspect: Aspect, what: &str) -> Finding {
        let todo = match self {
            Self::Refused(_) => "allow the key to read it, or look by hand",
            Self::Busy(_) => "check again later",
            Self::Good(_) | Self::Missing(_) | Self::Odd(_) | Self::Silent(_) => {
                "check again, or look by hand"
            }
        };
        Finding::unknown(aspect, format!("{what} is not told: {}", self.told()), todo)
    }

    /// What an authenticated call says of the key. `give` says how a key is given.
    pub(super) fn key(&self, configured: bool, give: &str) -> Finding {
        match self {
            Self::Good(_) if configured => Finding::ok(Aspect::Key, "the provider takes the key"),
            Self::Good(_) => Finding::ok(Aspect::Key, "no key is configured, and none is asked for"),
            Self::Refused(text) if configured => {
                Finding::wrong(Aspect::Key, format!("the provider refuses the key ({text})"), give)
            }
            Self::Refused(text) => {
                Finding::wrong(Aspect::Key, format!("the provider asks for a key ({text})"), give)
            }
            Self::Missing(_) | Self::Busy(_) | Self::Odd(_) | Self::Silent(_) => {
                self.unread(Aspect::Key, "whether the key is valid")
            }
        }
    }
}

/// The findings of questions that make no sense any more, since an earlier one failed.
pub(super) fn not_asked(aspects: &[Aspect], because: &str) -> Vec<Finding> {
    let one =
        |aspect: &Aspect| Finding::unknown(*aspect, format!("not asked: {because}"), "see to that first");
    aspects.iter().map(one).collect()
}
