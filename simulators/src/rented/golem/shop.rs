//! The daemon as its routes see it: state, time, long polls, and the errors that they give.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::Query,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tracing::warn;

use super::{
    clockwork,
    config::GolemConfig,
    state::{State, micros_of},
};
use crate::rented::{account::Account, machine};

/// How often providers look at the clock.
const TICK: Duration = Duration::from_millis(2);

/// A query.
pub(super) type Asked = Query<HashMap<String, String>>;

#[derive(Debug)]
pub(super) struct Shop {
    pub(super) account: Arc<Account>,
    pub(super) config: GolemConfig,
    state: Mutex<State>,
    pub(super) moved: Notify,
}

impl Shop {
    pub(super) fn new(account: Arc<Account>, config: GolemConfig) -> Self {
        let mut state = State::default();
        state.sockets = account.shutdown.child_token();
        Self { account, config, state: Mutex::new(state), moved: Notify::new() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Providers go on until the shutdown.
    pub(super) async fn run(self: Arc<Self>) {
        let mut tick = time::interval(TICK);
        loop {
            tokio::select! {
                () = self.account.shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let to_serve = {
                let mut state = self.state();
                if clockwork::tick(&mut state, &self.config, self.account.now_us()) {
                    self.moved.notify_waiters();
                }
                std::mem::take(&mut state.to_serve)
            };
            for (activity, key) in to_serve {
                let shutdown = self.account.shutdown.child_token();
                let address = (std::net::Ipv4Addr::LOCALHOST, 0).into();
                match machine::serve(address, key, &self.config.life, shutdown).await {
                    Ok(running) => {
                        let mut state = self.state();
                        let lives = state.activities.get_mut(&activity).filter(|one| one.ended_us.is_none());
                        match lives {
                            // A second server on a port that is taken.
                            Some(one) if one.server.is_some() => running.shutdown.cancel(),
                            Some(one) => one.server = Some(running),
                            None => running.shutdown.cancel(),
                        }
                    }
                    Err(error) => warn!(activity, %error, "a simulated machine does not serve"),
                }
            }
        }
    }

    /// Holds a call until `look` finds something, for the `timeout` that it asks for.
    pub(super) async fn hold<T>(
        &self,
        asked: &Asked,
        look: impl Fn(&mut State, u64) -> Option<T>,
    ) -> Option<T> {
        let span = asked.get("timeout").and_then(|text| text.parse().ok()).unwrap_or(5.0);
        let deadline = Instant::now() + Duration::try_from_secs_f64(span).unwrap_or_default();
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Before the look, so that nothing falls in between.
            moved.as_mut().enable();
            if let Some(found) = look(&mut self.state(), self.account.now_us()) {
                return Some(found);
            }
            tokio::select! {
                () = moved => {}
                () = time::sleep_until(deadline) => return None,
            }
        }
    }

    /// The status of something that was made: pages and implementation differ.
    pub(super) fn made(&self) -> StatusCode {
        if self.config.by_the_pages { StatusCode::CREATED } else { StatusCode::OK }
    }

    pub(super) fn break_rule(&self, rule: &str) {
        self.state().broken_rules.push(rule.to_owned());
    }
}

/// An error as most of the API gives it.
pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

/// An error as the payment API gives it, too.
pub(super) fn problem(kind: &str, more: &Value) -> Response {
    let mut body = json!({ "type": format!("/payment/{kind}"), "title": kind, "status": 400 });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    let content = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::BAD_REQUEST, content, body.to_string()).into_response()
}

/// Events after a time, of one session: the events of `agreement_events` and of notes have one shape.
pub(super) fn page(events: Vec<(u64, Option<String>, Value)>, asked: &Asked) -> Option<Vec<Value>> {
    let after = asked.get("afterTimestamp").and_then(|text| micros_of(text)).unwrap_or(0);
    let most = asked.get("maxEvents").and_then(|text| text.parse().ok()).unwrap_or(10);
    let wanted = asked.get("appSessionId");
    let fits = |(at, session, _): &(u64, Option<String>, Value)| {
        *at > after && wanted.is_none_or(|wanted| session.as_ref() == Some(wanted))
    };
    let found: Vec<Value> = events.into_iter().filter(fits).map(|(_, _, event)| event).take(most).collect();
    (!found.is_empty()).then_some(found)
}
