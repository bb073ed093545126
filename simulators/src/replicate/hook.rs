//! The webhook that the creator of a prediction asks for: where to, and at which events. Nothing here awaits.

use axum::http::Uri;
use serde_json::Value;

use crate::errors::problem::Problem;

/// A webhook that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) url: Uri,
    pub(crate) start: bool,
    pub(crate) output: bool,
    pub(crate) completed: bool,
}

impl Hook {
    /// Reads `webhook` and `webhook_events_filter`.
    pub(crate) fn parse(url: &str, filter: Option<&Value>) -> Result<Self, Problem> {
        let parsed = url.parse::<Uri>().ok();
        let url =
            parsed.filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
        let url = url.ok_or_else(|| Problem::unprocessable("- webhook: Must be a URL"))?;
        let rule = "- webhook_events_filter: Must be a list of start, output, logs and completed";
        let events = match filter {
            None => vec!["start", "output", "logs", "completed"],
            Some(Value::Array(events)) => events
                .iter()
                .map(|event| event.as_str().filter(|event| EVENTS.contains(event)))
                .collect::<Option<_>>()
                .ok_or_else(|| Problem::unprocessable(rule))?,
            Some(_) => return Err(Problem::unprocessable(rule)),
        };
        // `logs` is never told: these models log nothing.
        let wants = |event| events.contains(&event);
        Ok(Self { url, start: wants("start"), output: wants("output"), completed: wants("completed") })
    }
}

const EVENTS: [&str; 4] = ["start", "output", "logs", "completed"];
