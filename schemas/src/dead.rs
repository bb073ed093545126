//! A dead letter: a job that will not be tried again, with its journal and a reason.
//!
//! The body is the job's own bytes, so that a replay sends what the producer sent; what we add stands in the
//! `Beacon-Obituary` header as JSON, and in full.

use serde::{Deserialize, Serialize};

use crate::{JobId, Micros, failure::Failure, job::InputRef, journal::Journal};

/// What is known about a dead job, beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obituary {
    /// Whose, where that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The subject it was published on.
    pub subject: String,
    /// The stream it lay in.
    pub stream: String,
    /// Its place there.
    pub stream_seq: u64,
    /// How often it was delivered.
    pub delivered: u64,
    /// The last word.
    pub failure: Failure,
    /// All attempts.
    pub journal: Journal,
    /// Where the job's bytes lie, when they do not fit into a message beside this: in the object store `beacon-payloads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_ref: Option<InputRef>,
    /// When it was given up.
    pub at_us: Micros,
}
