//! The journal: what earlier attempts left behind, kept only for jobs that did not go smoothly.

use serde::{Deserialize, Serialize};

use crate::{Micros, PoolId, UsdNanos, cost::CostLine, failure::Failure, money};

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
    Started {
        /// What it is expected to cost: what is booked, as possibly wasted, when nobody can ever tell.
        #[serde(default)]
        expected: Vec<CostLine>,
    },
    /// It runs at the provider under this id and can be polled again.
    Running {
        /// The provider's own id of the run.
        run: String,
        /// As above.
        #[serde(default)]
        expected: Vec<CostLine>,
    },
    /// It ended badly.
    Failed {
        /// How.
        failure: Failure,
        /// What it cost all the same.
        cost_usd: UsdNanos,
    },
}

impl Entry {
    /// What the attempt is expected to cost, as long as nobody knows how it ended.
    pub fn expected(&self) -> Option<&[CostLine]> {
        match &self.trace {
            Trace::Started { expected } | Trace::Running { expected, .. } => Some(expected),
            Trace::Failed { .. } => None,
        }
    }

    /// The sum of what it is expected to cost; saturates.
    pub fn expected_usd(&self) -> UsdNanos {
        let lines = self.expected().unwrap_or_default();
        money::total(lines.iter().map(|line| line.amount_usd)).unwrap_or(UsdNanos::new(u64::MAX))
    }
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
            Trace::Started { .. } | Trace::Running { .. } => true,
            Trace::Failed { failure, .. } => failure.class.remedy().counts,
        };
        u16::try_from(self.entries.iter().filter(counts).count()).unwrap_or(u16::MAX)
    }

    /// What the failed attempts cost together; saturates.
    pub fn spent(&self) -> UsdNanos {
        let sum = self.entries.iter().fold(0u64, |sum, e| match &e.trace {
            Trace::Failed { cost_usd, .. } => sum.saturating_add(cost_usd.get()),
            Trace::Started { .. } | Trace::Running { .. } => sum,
        });
        UsdNanos::new(sum)
    }

    /// The newest entry, if nobody knows how that attempt ended: its run is to be polled again, or looked for.
    pub fn unfinished(&self) -> Option<&Entry> {
        self.entries.last().filter(|e| e.expected().is_some())
    }

    /// Attempts other than `attempt` of which nobody knows how they ended. Their runs may have been billed.
    pub fn abandoned(&self, attempt: u16) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.attempt != attempt && e.expected().is_some())
    }

    /// The failure the job ended with, if its newest entry is one.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.entries.iter().rev().find_map(|e| match &e.trace {
            Trace::Failed { failure, .. } => Some(failure),
            Trace::Started { .. } | Trace::Running { .. } => None,
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
        journal.record(entry(1, Trace::Started { expected: Vec::new() }));
        journal.record(entry(1, Trace::Running { run: "fc-1".into(), expected: Vec::new() }));
        assert_eq!(journal.unfinished().map(|e| e.attempt), Some(1));
        assert_eq!((journal.abandoned(1).count(), journal.abandoned(2).count()), (0, 1));
        journal.record(entry(1, failed(FailureClass::Timeout)));
        assert_eq!((journal.entries.len(), journal.counted(), journal.spent()), (1, 1, UsdNanos::new(5)));
        assert!(journal.unfinished().is_none() && journal.abandoned(2).next().is_none());
    }

    #[test]
    fn an_entry_of_an_older_version_reads_without_what_it_may_cost() {
        let text = r#"{"attempt":1,"pool":{"region":"us-east","provider":"golem"},"started_us":1,
            "trace":{"is":"running","run":"x"}}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!((entry.expected(), entry.expected_usd()), (Some(&[][..]), UsdNanos::ZERO));
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
