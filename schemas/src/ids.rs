//! Who a job is, which attempt of it is meant, and the message ids that follow from both.
//!
//! Ids belong to a tenant: the server drops a message whose id it has seen in the stream before, whoever published that,
//! so every message id names the tenant too.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Micros, Tenant};

/// A job's id: a UUID, version 7 when a producer makes it, version 5 for a backfill line.
///
/// Written in the hyphenated lower-case form everywhere: body, message ids, logs.
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

    /// The id of the published job: `<job>:<tenant>`.
    pub fn job_message(self, tenant: &Tenant) -> String {
        format!("{}:{tenant}", self.0)
    }

    /// The id of the stored result: `<job>:<tenant>:result`.
    pub fn result_message(self, tenant: &Tenant) -> String {
        format!("{}:{tenant}:result", self.0)
    }

    /// The id of the result that tells a second job with this id, stored at `seq` of its stream, that the id was taken:
    /// `<job>:<tenant>:<seq>:result`.
    pub fn taken_message(self, tenant: &Tenant, seq: u64) -> String {
        format!("{}:{tenant}:{seq}:result", self.0)
    }

    /// The id of the cost event of an attempt that did not give the result: `<job>:<tenant>:<attempt>:<key>:cost`. Whoever
    /// books the attempt uses this id, so that it is booked once.
    pub fn cost_message(self, tenant: &Tenant, attempt: u16, key: AttemptKey) -> String {
        format!("{}:{tenant}:{attempt}:{key}:cost", self.0)
    }

    /// The id of the cost event of the attempt that gave the result: `<job>:<tenant>:useful:cost`. A job has one at most.
    pub fn useful_message(self, tenant: &Tenant) -> String {
        format!("{}:{tenant}:useful:cost", self.0)
    }

    /// The id of a dead letter: `<job>:<tenant>:dead`.
    pub fn dead_message(self, tenant: &Tenant) -> String {
        format!("{}:{tenant}:dead", self.0)
    }

    /// Reads the job out of a result's message id; `None` for any other text.
    pub fn from_result_message(text: &str) -> Option<Self> {
        text.strip_suffix(":result")?.split(':').next()?.parse().ok()
    }

    /// Reads the sequence out of the message id of a result that tells a second job that its id was taken; `None` for any other
    /// text, such as the id of the first job's result.
    pub fn taken_seq(text: &str) -> Option<u64> {
        let mut parts = text.strip_suffix(":result")?.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(_), Some(seq), None) => seq.parse().ok(),
            _ => None,
        }
    }

    /// The job's key in the bucket of journals: `<tenant>.<job>`.
    pub fn journal_key(self, tenant: &Tenant) -> String {
        format!("{tenant}.{}", self.0)
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

/// Names one attempt among all attempts of all jobs: which offer of which dispatcher it came of. Dispatcher, worker and
/// journal compute or carry the same key, so that whoever books the attempt names it alike. 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttemptKey(u64);

/// Why a text is not an attempt's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attempt key `{0}` must be 16 hexadecimal digits")]
pub struct AttemptKeyError(String);

impl AttemptKey {
    /// The key of offer number `offer` of the dispatcher that listens on `accept`, an inbox that no other dispatcher has and
    /// that a restarted one does not have again. A 64-bit FNV-1a hash: keys only need to differ within one job.
    pub fn of(accept: &str, offer: u64) -> Self {
        let bytes = accept.bytes().chain(offer.to_le_bytes());
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for AttemptKey {
    type Err = AttemptKeyError;
    fn from_str(text: &str) -> Result<Self, AttemptKeyError> {
        let refuse = || AttemptKeyError(text.chars().take(40).collect());
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| refuse())
    }
}

impl TryFrom<String> for AttemptKey {
    type Error = AttemptKeyError;
    fn try_from(text: String) -> Result<Self, AttemptKeyError> {
        text.parse()
    }
}

impl From<AttemptKey> for String {
    fn from(key: AttemptKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_lead_back_to_the_job() {
        let id: JobId = "0198c0de-0000-7000-8000-000000000001".parse().unwrap();
        let (acme, key) = ("acme".parse().unwrap(), AttemptKey::of("_INBOX.x", 7));
        assert_eq!(JobId::from_result_message(&id.result_message(&acme)), Some(id));
        assert_eq!(JobId::from_result_message(&id.taken_message(&acme, 9)), Some(id));
        assert_eq!(JobId::from_result_message(&id.cost_message(&acme, 1, key)), None);
        assert_eq!(JobId::taken_seq(&id.taken_message(&acme, 9)), Some(9));
        for other in [id.result_message(&acme), id.useful_message(&acme), id.cost_message(&acme, 1, key)] {
            assert_eq!(JobId::taken_seq(&other), None, "{other}");
        }
        let text = format!("0198c0de-0000-7000-8000-000000000001:acme:2:{key}:cost");
        assert_eq!(id.cost_message(&acme, 2, key), text);
    }

    #[test]
    fn an_attempt_key_survives_its_text_and_differs_by_dispatcher_and_offer() {
        let key = AttemptKey::of("_INBOX.a", 1);
        assert_eq!(key.to_string().parse::<AttemptKey>().unwrap(), key);
        assert_ne!(key, AttemptKey::of("_INBOX.a", 2));
        assert_ne!(key, AttemptKey::of("_INBOX.b", 1));
        assert!("+123456789abcdef".parse::<AttemptKey>().is_err());
    }
}
