//! A dead letter: a job that will not be tried again, with its journal and a reason.
//!
//! The body is the job's own bytes, so that a replay sends what the producer sent; what we add stands in the
//! `Beacon-Obituary` header as JSON. The server takes headers of 64 KiB at most, so a very long story is told shorter.

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Micros,
    failure::Failure,
    headers,
    job::InputRef,
    journal::{Journal, Trace},
};

/// How much of each failure's message is told, in characters, where all of it is too much.
const MESSAGES: [usize; 3] = [100, 30, 0];

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

impl Obituary {
    /// The header's text, of at most `most` bytes: where it would be longer, messages are cut; where that does not do, attempts are
    /// left out, the least telling first, and only their sums stay.
    pub fn header(&self, most: usize) -> String {
        let mut told = self.clone();
        let mut text = headers::json(&told);
        for keep in MESSAGES {
            if text.len() <= most {
                return text;
            }
            told.cut_messages(keep);
            text = headers::json(&told);
        }
        while text.len() > most && !told.journal.entries.is_empty() {
            told.journal.drop_one();
            text = headers::json(&told);
        }
        text
    }

    /// Cuts the messages of all attempts to so many characters. The last word stays: it says why.
    fn cut_messages(&mut self, keep: usize) {
        for entry in &mut self.journal.entries {
            match &mut entry.trace {
                Trace::Failed { failure, .. } => cut(&mut failure.message, keep),
                Trace::Started { .. } | Trace::Running { .. } => {}
            }
        }
    }
}

fn cut(text: &mut String, keep: usize) {
    if let Some((at, _)) = text.char_indices().nth(keep) {
        text.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AttemptKey, UsdNanos,
        failure::{FailureClass, MESSAGE_MAX},
        journal::{ENTRIES_MAX, Entry},
    };

    fn letter(message: &str) -> Obituary {
        let failure = Failure::new(FailureClass::ProviderDown, message);
        let entry = |attempt: u16| Entry {
            attempt,
            key: Some(AttemptKey::of("test", attempt.into())),
            pool: "golem@us-east".parse().unwrap(),
            started_us: Micros::new(1),
            trace: Trace::Failed { failure: failure.clone(), cost_usd: UsdNanos::new(5) },
        };
        let entries = (1..=u16::try_from(ENTRIES_MAX).unwrap()).map(entry).collect();
        Obituary {
            job: None,
            subject: "beacon.jobs.us-east.llama-3-2-1b.normal.acme".into(),
            stream: "JOBS_us-east".into(),
            stream_seq: 7,
            delivered: 9,
            failure,
            journal: Journal { entries, ..Journal::default() },
            body_ref: None,
            at_us: Micros::new(1),
        }
    }

    #[test]
    fn a_letter_fits_into_a_header_whatever_its_attempts_said() {
        let long = letter(&"\u{1f600}".repeat(MESSAGE_MAX));
        for most in [60_000, 20_000, 6_000] {
            let text = long.header(most);
            assert!(text.len() <= most && text.is_ascii(), "{} of {most}", text.len());
            let told: Obituary = serde_json::from_str(&text).unwrap();
            assert_eq!(told.failure, long.failure, "the last word stays whole");
            let gone = usize::from(told.journal.dropped.counted);
            assert_eq!(
                (told.journal.entries.len() + gone, told.journal.spent()),
                (ENTRIES_MAX, long.journal.spent())
            );
            assert_eq!(gone > 0, most == 6_000);
        }
        let short = letter("gone");
        assert_eq!(serde_json::from_str::<Obituary>(&short.header(60_000)).unwrap(), short);
    }
}
