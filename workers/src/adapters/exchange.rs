//! One request of the OpenAI API and its answer, streamed or whole, with every wait bounded.
//!
//! ```text
//!  sent ──▶ head 200 ──▶ first event ──▶ … ──▶ finish_reason ──▶ usage, bill, [DONE] ──▶ end
//!   └─ first_byte_timeout ──┘   └─ idle_timeout ─┘   └──────── TAIL ────────┘
//!   └────────────────────────────── call.timeout ──────────────────────────────┘
//! ```
//!
//! Dropping the future closes the connection, which tells these servers to stop. A head with status 200
//! means that the server admitted the request: from then on the request may be billed, however it ends.

use std::time::Duration;

use reqwest::{
    Client, Response, Url,
    header::{CONTENT_TYPE, HeaderMap},
};
use schemas::{
    failure::{Failure, FailureClass},
    reply::Usage,
};
use tokio::time::{Instant, timeout_at};

use super::{
    chat::{self, OUTPUT_MAX, Transcript},
    dialect::Dialect,
    http, refusal,
    sse::Reader,
};
use crate::provider::{Call, Progress, Success};

/// One event of a stream. A chunk with a token is a few hundred bytes; a whole answer in one chunk fits as well.
const EVENT_MAX: usize = OUTPUT_MAX;

/// A whole answer: the output, and as much again for its JSON.
const BODY_MAX: usize = 2 * OUTPUT_MAX;

/// Once the outcome is known, counts and bill follow at once or not at all.
const TAIL: Duration = Duration::from_secs(1);

/// After `[DONE]` only the end of the body is missing. Once it is read, the connection can serve the next call.
const END: Duration = Duration::from_millis(20);

/// A request, and how long to wait for each part of its answer.
pub(super) struct Exchange<'a> {
    pub(super) client: &'a Client,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) dialect: Dialect,
    pub(super) stream: bool,
    pub(super) first_byte_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The connection failed.
    Nobody,
    /// The request was sent, and no answer came in time.
    Silence,
    /// The server refused the request with this status.
    Refusal(u16),
    /// The server admitted the request.
    Admission,
}

/// The end of an exchange.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) outcome: Result<Success, Failure>,
    pub(super) reached: Reached,
    /// From sending to the last byte.
    pub(super) took: Duration,
    /// From sending to the first piece of output; zero where it does not stream.
    pub(super) first_token: Duration,
    /// Tokens of an answer that may have failed.
    pub(super) usage: Option<Usage>,
    /// Modal's bill, as it came.
    pub(super) billing: Option<String>,
}

impl Exchange<'_> {
    /// Runs the exchange to its end. Never longer than `call.timeout`.
    pub(super) async fn run(&self, call: &Call, progress: &dyn Progress) -> Answered {
        let sent = Instant::now();
        let deadline = sent + call.timeout;
        let refused = |reached, failure| Answered {
            outcome: Err(refusal::without_input(failure, &call.input)),
            reached,
            took: sent.elapsed(),
            first_token: Duration::ZERO,
            usage: None,
            billing: None,
        };
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(chat::request(call, self.dialect, self.stream));
        // A server that answers in one piece sends its head only at the end.
        let head_by = if self.stream { deadline.min(sent + self.first_byte_timeout) } else { deadline };
        let response = match timeout_at(head_by, request.send()).await {
            Err(_) if head_by < deadline => {
                let message = "no answer within first_byte_timeout; most likely still starting";
                return refused(Reached::Silence, Failure::new(FailureClass::Capacity, message));
            }
            Err(_) => {
                let message = "no answer within the time limit of the call";
                return refused(Reached::Silence, Failure::new(FailureClass::Timeout, message));
            }
            Ok(Err(error)) => return refused(Reached::Nobody, http::broken(error)),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        if status != 200 {
            let wait = http::retry_after(response.headers());
            let body = timeout_at(deadline, http::error_body(response)).await.unwrap_or_default();
            let failure = refusal::refused(status, &body, wait, self.dialect);
            return refused(Reached::Refusal(status), failure);
        }
        let mut reading = Reading {
            transcript: Transcript::new(self.dialect),
            sent,
            deadline,
            next_by: sent + self.first_byte_timeout,
            idle: self.idle_timeout,
            over_by: None,
            first_token: None,
            progress,
        };
        if self.is_stream(&response) {
            reading.stream(response).await;
        } else {
            reading.whole(response).await;
        }
        let Reading { transcript, first_token, .. } = reading;
        Answered {
            reached: Reached::Admission,
            took: sent.elapsed(),
            first_token: first_token.filter(|_| self.stream).unwrap_or_default(),
            usage: transcript.usage(&call.input),
            billing: transcript.billing().map(str::to_owned),
            outcome: transcript.outcome(&call.input).map_err(|f| refusal::without_input(f, &call.input)),
        }
    }

    /// True for a stream. A server may answer in one piece although a stream was asked for; its content type says so.
    fn is_stream(&self, response: &Response) -> bool {
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        self.stream && !content_type.is_some_and(|text| text.contains("json") && !text.contains("ndjson"))
    }
}

/// An answer that is coming in.
struct Reading<'a> {
    transcript: Transcript,
    sent: Instant,
    deadline: Instant,
    /// The next bytes must come before this.
    next_by: Instant,
    idle: Duration,
    /// Once the outcome is known: when to stop reading.
    over_by: Option<Instant>,
    first_token: Option<Duration>,
    progress: &'a dyn Progress,
}

impl Reading<'_> {
    async fn whole(&mut self, response: Response) {
        match timeout_at(self.deadline, http::whole_body(response, BODY_MAX)).await {
            Ok(Ok(body)) => {
                if let Some(text) = self.transcript.chunk(&body) {
                    self.progress.token(text);
                }
            }
            Ok(Err(failure)) => self.transcript.fail(failure),
            Err(_) => {
                self.transcript.fail(timeout("the answer did not end within the time limit of the call"));
            }
        }
    }

    async fn stream(&mut self, mut response: Response) {
        let (mut reader, mut events) = (Reader::new(EVENT_MAX), Vec::new());
        let mut began = false;
        loop {
            let limit = self.over_by.unwrap_or(self.next_by).min(self.deadline);
            let ended = match timeout_at(limit, response.chunk()).await {
                // Any bytes are a sign of life, a comment included.
                Ok(Ok(Some(bytes))) => {
                    began = true;
                    self.next_by = Instant::now() + self.idle;
                    match reader.push(&bytes, &mut events) {
                        Ok(()) => false,
                        Err(error) => {
                            let failure = Failure::new(FailureClass::ProviderDown, error.to_string());
                            self.transcript.broke(failure);
                            return;
                        }
                    }
                }
                Ok(Ok(None)) => {
                    reader.finish(&mut events);
                    true
                }
                Ok(Err(error)) => {
                    self.transcript.broke(http::broken(error));
                    true
                }
                Err(_) => {
                    self.transcript.broke(timeout(if limit == self.deadline {
                        "the answer did not end within the time limit of the call"
                    } else if began {
                        "the answer stopped for longer than idle_timeout"
                    } else {
                        "admitted, but nothing was generated within first_byte_timeout"
                    }));
                    true
                }
            };
            for event in events.drain(..) {
                if let Some(text) = self.transcript.event(event) {
                    self.first_token.get_or_insert_with(|| self.sent.elapsed());
                    self.progress.token(text);
                }
            }
            if ended {
                return;
            }
            self.note_the_end();
        }
    }

    /// Sets the end of the reading once the outcome is known, and only ever makes it sooner: a server that never
    /// stops sending is not read for ever.
    fn note_the_end(&mut self) {
        let rest = match (self.transcript.is_done(), self.transcript.is_decided()) {
            (true, _) => END,
            (false, true) => TAIL,
            (false, false) => return,
        };
        let by = Instant::now() + rest;
        self.over_by = Some(self.over_by.map_or(by, |earlier| earlier.min(by)));
    }
}

fn timeout(message: &str) -> Failure {
    Failure::new(FailureClass::Timeout, message)
}
