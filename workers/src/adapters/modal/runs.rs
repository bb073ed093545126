//! Runs that have an id: started, journalled, followed to their end, and stopped when they take too long.
//!
//! ```text
//!  wait ── POST /v1/run ──┬── 200 ───────────────────────────────────────────▶ over
//!                         └── 303: id ─▶ journal ─▶ GET result URL ⟲ ────────▶ over
//!  spawn ─ POST /v1/jobs ───── id ─────▶ journal ─▶ GET /v1/jobs/{id} ⟲ pause ▶ over
//!                                                     └─ too long ─▶ DELETE ─▶ GET: its bill
//! ```
//!
//! A run with an id does not fail because a poll does: it is asked again, some times. Dropping the future leaves the
//! run alone, so that another worker can go on with it.

use std::{future::Future, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{CONTENT_TYPE, LOCATION},
};
use schemas::failure::{Failure, FailureClass};
use tokio::time::{self, Instant, timeout_at};

use super::{
    Modal, ModalMode,
    app::{self, ANSWER_MAX, Finished, Report},
    died, measured,
};
use crate::{
    adapters::{http, openai, openai::Dialect, refusal},
    provider::{Call, Ended, Progress},
};

/// Submitting again is harmless in `spawn` mode, where the app knows the id; more tries only delay the failover.
const SUBMITS_MAX: u32 = 3;

/// Polls that may fail in a row. With the default pauses that is a few seconds, in which an edge recovers or not.
const POLL_FAILURES_MAX: u32 = 5;

/// Modal holds a request for 150 s; longer than this and it is not going to answer.
const HOLD_MAX: Duration = Duration::from_secs(170);

/// What is kept of a call's time for stopping a run and reading its bill: a tenth, and at most this.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The query parameter that makes a result URL.
const CALL_ID: &str = "__modal_function_call_id";

/// One call and its run.
pub(super) struct Runs<'a> {
    modal: &'a Modal,
    call: &'a Call,
    progress: &'a dyn Progress,
    began: Instant,
    /// Nobody waits for the run any longer.
    give_up: Instant,
    /// The call is over.
    end: Instant,
    /// For the pauses between polls. From the job's id, so that a test replays and jobs do not poll in step.
    rng: StdRng,
}

/// What came of one request about a run.
enum Asked {
    /// The run goes on; ask again after a pause.
    Pending,
    /// The run goes on and the request was held as long as Modal does; ask again at once.
    Held(Url),
    /// The run is over.
    Over(Finished),
    /// Refused, with this status.
    Refused(u16, Failure),
    /// It could not be asked, or the answer not be read.
    Broken { failure: Failure, connected: bool },
}

/// What came of a submission that was answered.
enum Answer {
    Started(String),
    Refused(Failure),
}

impl<'a> Runs<'a> {
    pub(super) fn new(modal: &'a Modal, call: &'a Call, progress: &'a dyn Progress) -> Self {
        let began = Instant::now();
        let end = began + call.timeout;
        let seed = call.job.uuid().as_u64_pair().1 ^ u64::from(call.attempt);
        let give_up = end - (call.timeout / 10).min(SETTLE_MAX);
        Self { modal, call, progress, began, give_up, end, rng: StdRng::seed_from_u64(seed) }
    }

    /// `wait` mode.
    pub(super) async fn wait(mut self) -> Ended {
        let request = self.submission("/v1/run");
        match self.ask(request, self.give_up).await {
            Asked::Over(finished) => self.finish(finished),
            Asked::Held(url) => {
                let Some(run) = run_of(&url) else {
                    return self.lost("a redirect without the id of the run");
                };
                self.progress.started(&run).await;
                self.follow(&run, url).await.unwrap_or_else(|| self.lost("the run is unknown to its own app"))
            }
            Asked::Pending => self.lost("a status that no held request has"),
            Asked::Refused(status, failure) => {
                // A redirect, even one that cannot be followed, is the answer of a run.
                let began = died(status) || (300..400).contains(&status);
                if began { self.estimated(failure) } else { self.failed(failure) }
            }
            // From inside the first 150 s nobody knows whether it began; only a failed connection says that it did not.
            Asked::Broken { failure, connected: true } => self.estimated(failure),
            Asked::Broken { failure, connected: false } => self.failed(failure),
        }
    }

    /// `spawn` mode.
    pub(super) async fn spawn(mut self) -> Ended {
        let run = match self.submit().await {
            Ok(run) => run,
            Err(failure) => return self.failed(failure),
        };
        self.progress.started(&run).await;
        let url = self.modal.job_url(&run);
        self.follow(&run, url).await.unwrap_or_else(|| self.lost("the run is unknown to its own app"))
    }

    /// Goes on with a run of an earlier attempt; `None` when Modal knows it no more.
    pub(super) async fn reattach(mut self, run: &str) -> Option<Ended> {
        let url = match self.modal.config.mode {
            ModalMode::Wait => self.modal.result_url(run),
            ModalMode::OpenAi | ModalMode::Spawn => self.modal.job_url(run),
        };
        self.follow(run, url).await
    }

    /// Submits until an id is known. Only what leaves open whether the job arrived is tried again.
    async fn submit(&mut self) -> Result<String, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.submission("/v1/jobs");
            let limit = self.give_up.min(Instant::now() + self.modal.config.request_timeout);
            let failure = match timeout_at(limit, submitted(request)).await {
                Ok(Ok(Answer::Started(run))) => return Ok(run),
                Ok(Ok(Answer::Refused(failure))) => return Err(failure),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::new(FailureClass::Timeout, "the submission was not answered in time"),
            };
            if tries == SUBMITS_MAX || Instant::now() >= self.give_up {
                return Err(failure);
            }
            self.pause(tries, None).await;
        }
    }

    /// Asks until the run is over, or takes too long. `None` when the run is unknown or its result has expired.
    async fn follow(&mut self, run: &str, mut url: Url) -> Option<Ended> {
        let (mut polls, mut failures) = (0, 0);
        loop {
            let hold = match self.modal.config.mode {
                ModalMode::Wait => HOLD_MAX,
                ModalMode::OpenAi | ModalMode::Spawn => self.modal.config.request_timeout,
            };
            let request = self.modal.request(Method::GET, url.clone());
            let failure = match self.ask(request, self.give_up.min(Instant::now() + hold)).await {
                Asked::Over(finished) => return Some(self.finish(finished)),
                Asked::Pending => {
                    failures = 0;
                    polls += 1;
                    self.pause(polls, None).await;
                    None
                }
                Asked::Held(next) => {
                    failures = 0;
                    // Another run's id would be another job's result.
                    if run_of(&next).as_deref() != Some(run) {
                        return Some(self.lost("a redirect to another run"));
                    }
                    url = next;
                    None
                }
                Asked::Refused(404 | 410, _) => return None,
                Asked::Refused(_, failure) => Some((failure, false)),
                Asked::Broken { failure, .. } => Some((failure, true)),
            };
            if let Some((failure, unsure)) = failure {
                failures += 1;
                let hopeless = !unsure && !passes(failure.class);
                if hopeless || failures == POLL_FAILURES_MAX {
                    return Some(self.abandon(run, failure).await);
                }
                self.pause(failures, failure.retry_after_us.map(Duration::from_micros)).await;
            }
            if Instant::now() >= self.give_up {
                let message = "the run did not end within the time limit of the call";
                return Some(self.abandon(run, Failure::new(FailureClass::Timeout, message)).await);
            }
        }
    }

    /// Stops a run and reads its bill. A run that was over in the meantime is taken as it is.
    async fn abandon(&mut self, run: &str, failure: Failure) -> Ended {
        let modal = self.modal;
        // Half of what is left at most, so that the bill can still be read.
        let now = Instant::now();
        let stop_by = now + (self.end - now) / 2;
        // A run that cannot be stopped ends at its own `timeout_s`.
        let _ = timeout_at(stop_by, modal.cancel_run(run)).await;
        for poll in 1.. {
            let request = modal.request(Method::GET, modal.job_url(run));
            match self.ask(request, self.end).await {
                Asked::Over(Finished { outcome: Ok(success), billing }) => {
                    return self.finish(Finished { outcome: Ok(success), billing });
                }
                Asked::Over(Finished { outcome: Err(_), billing }) => {
                    return self.finish(Finished { outcome: Err(failure), billing });
                }
                Asked::Pending | Asked::Held(_) if poll < POLL_FAILURES_MAX => {
                    self.rest(poll, self.end).await;
                }
                Asked::Pending | Asked::Held(_) | Asked::Refused(..) | Asked::Broken { .. } => break,
            }
        }
        self.estimated(failure)
    }

    async fn ask(&self, request: RequestBuilder, limit: Instant) -> Asked {
        let asked = async {
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => return connection(error),
            };
            match response.status().as_u16() {
                202 => Asked::Pending,
                200 => match http::whole_body(response, ANSWER_MAX).await.and_then(|body| app::report(&body))
                {
                    Ok(Report::Pending) => Asked::Pending,
                    Ok(Report::Over(finished)) => Asked::Over(finished),
                    Err(failure) => Asked::Broken { failure, connected: true },
                },
                301..=303 | 307 | 308 => self.modal.redirect(&response),
                _ => {
                    let (status, failure) = refused(response).await;
                    Asked::Refused(status, failure)
                }
            }
        };
        let late = |_| {
            let failure = Failure::new(FailureClass::Timeout, "no answer within the time limit of the call");
            Asked::Broken { failure, connected: true }
        };
        timeout_at(limit, asked).await.unwrap_or_else(late)
    }

    fn submission(&self, path: &str) -> RequestBuilder {
        let limit = self.give_up.saturating_duration_since(Instant::now());
        let headers = openai::headers_of(&self.modal.headers, self.call);
        let request = self.modal.client.post(self.modal.base.join(path)).headers(headers);
        request.header(CONTENT_TYPE, "application/json").body(app::job(self.call, limit))
    }

    /// Before the next poll: grows by half each time, a fifth more or less by chance.
    async fn pause(&mut self, nth: u32, asked_for: Option<Duration>) {
        self.rest_at_least(nth, asked_for.unwrap_or_default(), self.give_up).await;
    }

    async fn rest(&mut self, nth: u32, until: Instant) {
        self.rest_at_least(nth, Duration::ZERO, until).await;
    }

    async fn rest_at_least(&mut self, nth: u32, least: Duration, until: Instant) {
        let (min, max) = (self.modal.config.poll_min, self.modal.config.poll_max);
        // Thirty-two steps take any sensible minimum past any sensible maximum.
        let steps = i32::try_from(nth.saturating_sub(1).min(32)).unwrap_or(32);
        let grown = min.as_secs_f64() * 1.5_f64.powi(steps);
        let pause = Duration::try_from_secs_f64(grown).unwrap_or(max).min(max);
        let pause = pause.mul_f64(self.rng.random_range(0.8..1.2)).max(least);
        time::sleep_until((Instant::now() + pause).min(until)).await;
    }

    fn finish(&self, finished: Finished) -> Ended {
        let Finished { outcome, billing } = finished;
        let outcome = outcome.map_err(|failure| self.modal.clean(failure, self.call));
        if let Ok(success) = &outcome {
            self.progress.token(&success.output.text);
        }
        let (used, estimated, cold_start) = match &billing {
            Some(billing) => (billing.used(), false, billing.cold_start()),
            None => (self.measured(), true, Duration::ZERO),
        };
        Ended { outcome, used, estimated, cold_start, first_token: Duration::ZERO }
    }

    /// A failure before anything ran.
    fn failed(&self, failure: Failure) -> Ended {
        Ended::unbilled(self.modal.clean(failure, self.call))
    }

    /// A failure after something may have run, and nobody says how long.
    fn estimated(&self, failure: Failure) -> Ended {
        Ended { used: self.measured(), estimated: true, ..self.failed(failure) }
    }

    /// The app does not keep to its contract.
    fn lost(&self, why: &str) -> Ended {
        self.estimated(Failure::new(FailureClass::ProviderDown, why))
    }

    fn measured(&self) -> Vec<crate::provider::UsedItem> {
        measured(self.call, "execution", self.began.elapsed())
    }
}

impl Modal {
    /// Asks the app to stop a run. One that is unknown or expired does not run.
    pub(super) fn cancel_run(&self, run: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        let request = self.request(Method::DELETE, self.job_url(run));
        let limit = Instant::now() + self.config.request_timeout;
        async move {
            let late = |_| Failure::new(FailureClass::Timeout, "the cancellation was not answered in time");
            let response = timeout_at(limit, request.send()).await.map_err(late)?.map_err(http::broken)?;
            match response.status().as_u16() {
                200..=299 | 404 | 410 => Ok(()),
                _ => Err(refused(response).await.1),
            }
        }
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url).headers(self.headers.clone())
    }

    fn job_url(&self, run: &str) -> Url {
        let mut url = self.base.join("/v1/jobs");
        // As one segment: an id with a slash in it names no other route.
        url.path_segments_mut().expect("a base URL is http or https").push(run);
        url
    }

    fn result_url(&self, run: &str) -> Url {
        let mut url = self.base.join("/v1/run");
        url.query_pairs_mut().append_pair(CALL_ID, run);
        url
    }

    fn redirect(&self, response: &Response) -> Asked {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(url) = location.and_then(|location| self.base.resolve(location)) else {
            let message = "a redirect that leads nowhere, or to another host";
            let failure = Failure::new(FailureClass::Misconfigured, message);
            return Asked::Refused(response.status().as_u16(), failure);
        };
        Asked::Held(url)
    }
}

/// The error is of the connection, or of an answer that broke off: the job may have arrived.
async fn submitted(request: RequestBuilder) -> Result<Answer, Failure> {
    let response = request.send().await.map_err(http::broken)?;
    if !matches!(response.status().as_u16(), 200 | 202) {
        return Ok(Answer::Refused(refused(response).await.1));
    }
    let body = http::whole_body(response, ANSWER_MAX).await?;
    let unreadable =
        |_| Failure::new(FailureClass::ProviderDown, "unreadable JSON in the answer to a submission");
    let app::Submitted { call_id } = serde_json::from_slice(&body).map_err(unreadable)?;
    Ok(Answer::Started(call_id))
}

async fn refused(response: Response) -> (u16, Failure) {
    let status = response.status().as_u16();
    let wait = http::retry_after(response.headers());
    let body = http::error_body(response).await;
    (status, refusal::refused(status, &body, wait, Dialect::Vllm))
}

/// Whether an error of the edge may pass while the run goes on.
fn passes(class: FailureClass) -> bool {
    use FailureClass as C;
    matches!(class, C::RateLimited | C::Capacity | C::ProviderDown | C::Connection | C::Timeout)
}

fn connection(error: reqwest::Error) -> Asked {
    let connected = !error.is_connect();
    Asked::Broken { failure: http::broken(error), connected }
}

fn run_of(url: &Url) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == CALL_ID)
        .map(|(_, id)| id.into_owned())
        .filter(|id| !id.is_empty())
}
