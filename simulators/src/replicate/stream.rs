//! Server-sent events of one prediction: its output piece by piece, and how it ended.
//!
//! A reader that comes late gets the pieces from the start, as far as the buffer reaches.

use std::{convert::Infallible, fmt::Write as _, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{sync::watch, time::Instant};

use super::{
    platform::Platform,
    prediction::{Outcome, Prediction, Stage},
};
use crate::errors::problem::Problem;

/// Cog keeps so many events; of more, a late reader gets the newest.
const BUFFER: usize = 1_024;

/// `GET /v1/streams/{id}`, where `urls.stream` points to.
pub(crate) async fn stream(
    State(platform): State<Arc<Platform>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(prediction) = platform.archive.get(&id) else {
        return Problem::not_found().into_response();
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<usize>().ok());
    let listener = Listener {
        stage: prediction.watch(),
        removed: prediction.data_removed(&platform.service, Instant::now()),
        prediction,
        next: last.map_or(0, |last| last.saturating_add(1)),
        told: Told::Output,
        left: platform.service.config.replicate.stream_cut_after,
    };
    let body = Body::from_stream(stream::unfold(listener, Listener::next));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// One reader.
struct Listener {
    prediction: Arc<Prediction>,
    stage: watch::Receiver<Stage>,
    removed: bool,
    /// The next piece to tell.
    next: usize,
    told: Told,
    /// Events until the stream is cut.
    left: Option<u32>,
}

/// The last event that a reader has received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Output,
    Error,
    Done,
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.told == Told::Done || self.left == Some(0) {
            return None;
        }
        self.left = self.left.map(|left| left - 1);
        loop {
            let stage = self.stage.borrow_and_update().clone();
            if let Some(event) = self.event(&stage) {
                return Some((Ok(Bytes::from(event)), self));
            }
            self.stage.changed().await.ok()?;
        }
    }

    /// The next event, if there is something to tell.
    fn event(&mut self, stage: &Stage) -> Option<String> {
        let pieces = stage.work().map_or(0, |work| work.pieces);
        self.next = self.next.max(pieces.saturating_sub(BUFFER));
        if self.next < pieces && !self.removed {
            let number = self.next;
            self.next += 1;
            return Some(event("output", number, &self.prediction.pieces[number]));
        }
        let Stage::Over(end) = stage else {
            return None;
        };
        if let Outcome::Failed(failure) = end.outcome
            && self.told == Told::Output
        {
            self.told = Told::Error;
            let detail = serde_json::json!({ "detail": failure.as_str() });
            return Some(event("error", pieces, &detail.to_string()));
        }
        self.told = Told::Done;
        let data = match end.outcome {
            Outcome::Succeeded => "{}",
            Outcome::Canceled | Outcome::Aborted => r#"{"reason":"canceled"}"#,
            Outcome::Failed(_) => r#"{"reason":"error"}"#,
        };
        Some(event("done", pieces + 1, data))
    }
}

/// One server-sent event. Each line of the data is a line of its own.
fn event(name: &str, id: usize, data: &str) -> String {
    let mut text = format!("event: {name}\nid: {id}\n");
    for line in data.split('\n') {
        writeln!(text, "data: {line}").expect("a string takes all that is written");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_in_a_piece_becomes_a_line_of_data() {
        assert_eq!(event("output", 3, " a\nb"), "event: output\nid: 3\ndata:  a\ndata: b\n\n");
        assert_eq!(event("output", 0, ""), "event: output\nid: 0\ndata: \n\n");
    }
}
