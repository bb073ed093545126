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
    chat::{self, Evidence, OUTPUT_MAX, Transcript},
    dialect::Dialect,
    http, refusal,
    sse::{Event, Reader},
    values::Values,
};
use crate::provider::{Call, Progress, Success};

/// One event of a stream. A chunk with a token is a few hundred bytes; a whole answer in one chunk fits as well.
const EVENT_MAX: usize = OUTPUT_MAX;

/// A whole answer: the output, and as much again for its JSON.
const BODY_MAX: usize = 2 * OUTPUT_MAX;

/// More blanks than this before an answer are not kept, to find out what it is.
const BLANKS_MAX: usize = 64 * 1024;

/// A byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

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
    pub(super) evidence: &'a Evidence,
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
        // Some gateways say Created, or that they have changed something on the way.
        if !matches!(status, 200 | 201 | 203) {
            let wait = http::retry_after(response.headers());
            let body = timeout_at(deadline, http::error_body(response)).await.unwrap_or_default();
            let failure = refusal::refused(status, &body, wait, self.dialect);
            return refused(Reached::Refusal(status), failure);
        }
        let mut reading = Reading {
            transcript: Transcript::with(self.dialect, self.evidence.clone()),
            sent,
            deadline,
            // An answer in one piece may come at the end of the generation, though its head came at once.
            next_by: if self.stream && !says_json(&response) {
                sent + self.first_byte_timeout
            } else {
                deadline
            },
            idle: if self.stream { self.idle_timeout } else { call.timeout },
            over_by: None,
            first_token: None,
            progress,
        };
        reading.read(response).await;
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
}

/// Whether an answer says that it is in one piece. Servers say so of streams too, and the other way round, so this decides only how
/// long its beginning is waited for.
fn says_json(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| text.contains("json") && !text.contains("ndjson"))
}

/// What a body is, by its first byte that is no blank: whatever its content type says.
enum Form {
    /// Only blanks came.
    Unknown(Vec<u8>),
    /// Server-sent events.
    Events(Reader),
    /// A whole answer, or one object to a line.
    Values(Values),
}

impl Form {
    /// Takes the next bytes; appends what they complete.
    fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), String> {
        if let Self::Unknown(begin) = self {
            begin.extend_from_slice(bytes);
            let blank = |byte: &u8| byte.is_ascii_whitespace() || BOM.contains(byte);
            let form = match begin.iter().find(|byte| !blank(byte)) {
                None if begin.len() <= BLANKS_MAX => return Ok(()),
                Some(b'{' | b'[') => Self::Values(Values::new(BODY_MAX)),
                Some(_) | None => Self::Events(Reader::new(EVENT_MAX)),
            };
            let Self::Unknown(begin) = std::mem::replace(self, form) else { unreachable!("looked at above") };
            return self.push(&begin, events);
        }
        match self {
            Self::Unknown(_) => Ok(()),
            Self::Events(reader) => reader.push(bytes, events).map_err(|error| error.to_string()),
            Self::Values(values) => {
                let mut found = Vec::new();
                let read = values.push(bytes, &mut found);
                events.extend(found.into_iter().map(Event::Data));
                read.map_err(|error| error.to_string())
            }
        }
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
    async fn read(&mut self, mut response: Response) {
        let (mut form, mut events) = (Form::Unknown(Vec::new()), Vec::new());
        let mut began = false;
        loop {
            let limit = self.over_by.unwrap_or(self.next_by).min(self.deadline);
            match timeout_at(limit, response.chunk()).await {
                // Any bytes are a sign of life, a comment included.
                Ok(Ok(Some(bytes))) => {
                    began = true;
                    self.next_by = Instant::now() + self.idle;
                    if let Err(message) = form.push(&bytes, &mut events) {
                        self.transcript.broke(Failure::new(FailureClass::ProviderDown, message));
                        return;
                    }
                    self.take(&mut events, &form);
                    self.note_the_end();
                }
                Ok(Ok(None)) => return self.end(form),
                Ok(Err(error)) => {
                    self.transcript.broke(http::broken(error));
                    return;
                }
                Err(_) => {
                    self.transcript.broke(timeout(if limit == self.deadline {
                        "the answer did not end within the time limit of the call"
                    } else if began {
                        "the answer stopped for longer than idle_timeout"
                    } else {
                        "admitted, but nothing was generated within first_byte_timeout"
                    }));
                    return;
                }
            }
        }
    }

    fn take(&mut self, events: &mut Vec<Event>, form: &Form) {
        for event in events.drain(..) {
            if let Some(text) = self.transcript.event(event) {
                if let Form::Events(_) = form {
                    self.first_token.get_or_insert_with(|| self.sent.elapsed());
                }
                self.progress.token(&text);
                // It had not said all when it said why it ends.
                self.over_by = None;
            }
        }
    }

    /// The body ended as it should.
    fn end(&mut self, mut form: Form) {
        self.transcript.ends();
        let mut events = Vec::new();
        let page = match &mut form {
            Form::Unknown(_) => return,
            Form::Events(reader) => {
                reader.finish(&mut events);
                true
            }
            Form::Values(values) if values.is_open() => {
                // Of a stream in lines the rest is missing; an answer in one piece was sent as it is.
                let class = if self.transcript.is_heard() {
                    FailureClass::Connection
                } else {
                    FailureClass::ProviderDown
                };
                self.transcript.broke(Failure::new(class, "unreadable JSON: the answer was cut off"));
                false
            }
            Form::Values(_) => {
                self.transcript.is_in_one_piece();
                false
            }
        };
        self.take(&mut events, &form);
        if page && !self.transcript.is_heard() {
            let message = "a page came, neither JSON nor a stream of events";
            self.transcript.broke(Failure::new(FailureClass::ProviderDown, message));
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
