//! Who a job is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Micros;

/// A job's id: a UUID, version 7 when a producer makes it, version 5 for a backfill line.
///
/// Written in the hyphenated lower-case form everywhere: body, `Nats-Msg-Id`, logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

/// Why a text is not a job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job id `{0}` must be a UUID")]
pub struct JobIdError(String);

impl JobId {
    /// Wraps an id made elsewhere.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The id of the stored result, for the server's dedupe: `<job>:result`.
    pub fn result_message(self) -> String {
        format!("{}:result", self.0)
    }

    /// The id of an attempt's cost event: `<job>:<attempt>:cost`.
    pub fn cost_message(self, attempt: u16) -> String {
        format!("{}:{attempt}:cost", self.0)
    }

    /// The id of a dead letter: `<job>:dead`.
    pub fn dead_message(self) -> String {
        format!("{}:dead", self.0)
    }

    /// Reads the job out of a result's message id; `None` for any other text.
    pub fn from_result_message(text: &str) -> Option<Self> {
        text.strip_suffix(":result")?.parse().ok()
    }

    /// When the id was made, where it says so (version 7).
    pub fn made_at(self) -> Option<Micros> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        Some(Micros::new(seconds.saturating_mul(1_000_000) + u64::from(nanos / 1_000)))
    }

    /// The raw UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = JobIdError;
    fn from_str(text: &str) -> Result<Self, JobIdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| JobIdError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;
    fn try_from(text: String) -> Result<Self, JobIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_lead_back_to_the_job() {
        let id: JobId = "0198c0de-0000-7000-8000-000000000001".parse().unwrap();
        assert_eq!(JobId::from_result_message(&id.result_message()), Some(id));
        assert_eq!(JobId::from_result_message(&id.cost_message(1)), None);
        assert_eq!(id.cost_message(2), "0198c0de-0000-7000-8000-000000000001:2:cost");
    }
}
