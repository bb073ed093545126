//! The journal: what earlier attempts left behind, kept only for jobs that did not go smoothly.

use serde::{Deserialize, Serialize};

use crate::{Micros, PoolId, UsdNanos, failure::Failure};

/// Entries kept per job. Attempts that do not count (rate limits) are unbounded; the oldest of them go first.
pub const ENTRIES_MAX: usize = 32;

/// One attempt's trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which attempt, from 1.
    pub attempt: u16,
    /// Where it ran.
    pub pool: PoolId,
    /// When the provider was called.
    pub started_us: Micros,
    /// What is known of it.
    pub trace: Trace,
}

/// What is known of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Trace {
    /// It was about to call the provider; nothing more is known.
    Started,
    /// It runs at the provider under this id and can be polled again.
    Running {
        /// The provider's own id of the run.
        run: String,
    },
    /// It ended badly.
    Failed {
        /// How.
        failure: Failure,
        /// What it cost all the same.
        cost_usd: UsdNanos,
    },
}

/// All that is known of a job's earlier attempts, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The attempts.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

impl Journal {
    /// The highest attempt number seen; 0 before the first.
    pub fn last_attempt(&self) -> u16 {
        self.entries.iter().map(|e| e.attempt).max().unwrap_or(0)
    }

    /// How many attempts count against the job's limit. An attempt nobody heard of again counts.
    pub fn counted(&self) -> u16 {
        let counts = |e: &&Entry| match &e.trace {
            Trace::Started | Trace::Running { .. } => true,
            Trace::Failed { failure, .. } => failure.class.remedy().counts,
        };
        u16::try_from(self.entries.iter().filter(counts).count()).unwrap_or(u16::MAX)
    }

    /// What the failed attempts cost together; saturates.
    pub fn spent(&self) -> UsdNanos {
        let sum = self.entries.iter().fold(0u64, |sum, e| match &e.trace {
            Trace::Failed { cost_usd, .. } => sum.saturating_add(cost_usd.get()),
            Trace::Started | Trace::Running { .. } => sum,
        });
        UsdNanos::new(sum)
    }

    /// The run to poll again, if the newest entry left one.
    pub fn running(&self) -> Option<(&Entry, &str)> {
        match self.entries.last() {
            Some(entry @ Entry { trace: Trace::Running { run }, .. }) => Some((entry, run)),
            _ => None,
        }
    }

    /// The failure the job ended with, if its newest entry is one.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.entries.iter().rev().find_map(|e| match &e.trace {
            Trace::Failed { failure, .. } => Some(failure),
            Trace::Started | Trace::Running { .. } => None,
        })
    }

    /// Writes what is known of an attempt, replacing what was written of the same attempt before.
    pub fn record(&mut self, entry: Entry) {
        self.entries.retain(|e| e.attempt != entry.attempt);
        self.entries.push(entry);
        while self.entries.len() > ENTRIES_MAX {
            // One that does not count goes first, so that `counted` stays true as long as it can.
            let at = self.entries.iter().position(
                |e| matches!(&e.trace, Trace::Failed { failure, .. } if !failure.class.remedy().counts),
            );
            self.entries.remove(at.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    fn entry(attempt: u16, trace: Trace) -> Entry {
        Entry { attempt, pool: "golem@us-east".parse().unwrap(), started_us: Micros::new(1), trace }
    }

    fn failed(class: FailureClass) -> Trace {
        Trace::Failed { failure: Failure::new(class, "x"), cost_usd: UsdNanos::new(5) }
    }

    #[test]
    fn a_later_word_on_an_attempt_replaces_the_earlier() {
        let mut journal = Journal::default();
        journal.record(entry(1, Trace::Running { run: "fc-1".into() }));
        assert_eq!(journal.running().map(|(_, run)| run), Some("fc-1"));
        journal.record(entry(1, failed(FailureClass::Timeout)));
        assert_eq!((journal.entries.len(), journal.counted(), journal.spent()), (1, 1, UsdNanos::new(5)));
        assert!(journal.running().is_none());
    }

    #[test]
    fn rate_limits_are_forgotten_before_attempts_that_count() {
        let mut journal = Journal::default();
        journal.record(entry(1, failed(FailureClass::ProviderDown)));
        for attempt in 2..100 {
            journal.record(entry(attempt, failed(FailureClass::RateLimited)));
        }
        assert_eq!((journal.entries.len(), journal.counted(), journal.last_attempt()), (ENTRIES_MAX, 1, 99));
    }
}
