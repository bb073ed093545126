//! The journal: what earlier attempts left behind, kept only for jobs that did not go smoothly.

use serde::{Deserialize, Serialize};

use crate::{AttemptKey, Micros, PoolId, UsdNanos, failure::Failure, line::CostLine, money};

/// Entries kept per job; of those that go first, [`Dropped`] keeps the sums.
pub const ENTRIES_MAX: usize = 32;

/// One attempt's trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which attempt, from 1. Two attempts at once, or a server that forgot a delivery, may share a number; never a key.
    pub attempt: u16,
    /// Names the attempt; missing in entries of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<AttemptKey>,
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
    /// Whether both are about one attempt: the same key, or the same number where one has no key.
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        match (self.key, other.key) {
            (Some(own), Some(other)) => own == other,
            (None, _) | (_, None) => self.attempt == other.attempt,
        }
    }

    /// Whether the attempt counts against the job's limit.
    fn counts(&self) -> bool {
        match &self.trace {
            Trace::Started { .. } | Trace::Running { .. } => true,
            Trace::Failed { failure, cost_usd } => {
                failure.class.remedy().counts || *cost_usd > UsdNanos::ZERO
            }
        }
    }

    /// What the attempt cost, where it has ended.
    fn cost(&self) -> UsdNanos {
        match &self.trace {
            Trace::Failed { cost_usd, .. } => *cost_usd,
            Trace::Started { .. } | Trace::Running { .. } => UsdNanos::ZERO,
        }
    }

    /// How much it says: that it began, as which run, how it ended.
    const fn rank(&self) -> u8 {
        match &self.trace {
            Trace::Started { .. } => 0,
            Trace::Running { .. } => 1,
            Trace::Failed { .. } => 2,
        }
    }

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

/// What entries that were dropped for lack of space add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Attempts that count against the job's limit.
    #[serde(default)]
    pub counted: u16,
    /// Attempts that do not.
    #[serde(default)]
    pub uncounted: u16,
    /// What they cost together.
    #[serde(default)]
    pub cost_usd: UsdNanos,
}

/// All that is known of a job's earlier attempts, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The attempts.
    #[serde(default)]
    pub entries: Vec<Entry>,
    /// The sums of attempts whose entries are gone.
    #[serde(default, skip_serializing_if = "Dropped::is_nothing")]
    pub dropped: Dropped,
}

impl Dropped {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Journal {
    /// The highest attempt number seen; 0 before the first.
    pub fn last_attempt(&self) -> u16 {
        self.entries.iter().map(|e| e.attempt).max().unwrap_or(0)
    }

    /// How many attempts count against the job's limit. An attempt nobody heard of again counts, and so does one that was
    /// billed, whatever it failed with.
    pub fn counted(&self) -> u16 {
        let kept = self.entries.iter().filter(|e| e.counts()).count();
        u16::try_from(kept).unwrap_or(u16::MAX).saturating_add(self.dropped.counted)
    }

    /// How many attempts failed without counting: rate limits, machines taken away.
    pub fn uncounted(&self) -> u16 {
        let kept = self.entries.iter().filter(|e| !e.counts()).count();
        u16::try_from(kept).unwrap_or(u16::MAX).saturating_add(self.dropped.uncounted)
    }

    /// What the failed attempts cost together; saturates.
    pub fn spent(&self) -> UsdNanos {
        self.entries.iter().map(Entry::cost).fold(self.dropped.cost_usd, UsdNanos::saturating_add)
    }

    /// The newest entry, if nobody knows how that attempt ended: its run is to be polled again, or looked for.
    pub fn unfinished(&self) -> Option<&Entry> {
        self.entries.last().filter(|e| e.expected().is_some())
    }

    /// Attempts other than the one that `own` names of which nobody knows how they ended. Their runs may have been billed.
    pub fn abandoned(&self, own: Option<AttemptKey>) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| (e.key.is_none() || e.key != own) && e.expected().is_some())
    }

    /// The failure the job ended with, if its newest entry is one.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.entries.iter().rev().find_map(|e| match &e.trace {
            Trace::Failed { failure, .. } => Some(failure),
            Trace::Started { .. } | Trace::Running { .. } => None,
        })
    }

    /// Writes what is known of an attempt, replacing what was written of the same attempt before. Of two words on one attempt
    /// the later holds, but that it failed is never taken back by that it began.
    pub fn record(&mut self, entry: Entry) {
        self.entries.retain(|e| !e.is_same_attempt(&entry));
        self.entries.push(entry);
        while self.entries.len() > ENTRIES_MAX {
            self.drop_one();
        }
    }

    /// Drops the entry that says least, and keeps what it adds to the sums.
    pub fn drop_one(&mut self) {
        // One that does not count goes first. The first entry that nobody knows the end of goes last.
        let ended = |e: &Entry| e.expected().is_none();
        let at = self.entries.iter().position(|e| !e.counts());
        let at = at.or_else(|| self.entries.iter().position(ended)).unwrap_or(0);
        if self.entries.is_empty() {
            return;
        }
        let gone = self.entries.remove(at);
        let count = if gone.counts() { &mut self.dropped.counted } else { &mut self.dropped.uncounted };
        *count = count.saturating_add(1);
        self.dropped.cost_usd = self.dropped.cost_usd.saturating_add(gone.cost());
    }

    /// Adds what another copy of this job's journal knows: attempts that run at once each write what they know. An end that
    /// either copy knows holds.
    pub fn merge(&mut self, other: &Self) {
        for entry in &other.entries {
            let known = self.entries.iter().find(|e| e.is_same_attempt(entry));
            if known.is_none_or(|known| known.rank() < entry.rank()) {
                self.record(entry.clone());
            }
        }
        if other.dropped.counted + other.dropped.uncounted > self.dropped.counted + self.dropped.uncounted {
            self.dropped = other.dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    fn entry(attempt: u16, trace: Trace) -> Entry {
        let key = Some(AttemptKey::of("test", attempt.into()));
        Entry { attempt, key, pool: "golem@us-east".parse().unwrap(), started_us: Micros::new(1), trace }
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
        let key = |n| Some(AttemptKey::of("test", n));
        assert_eq!((journal.abandoned(key(1)).count(), journal.abandoned(key(2)).count()), (0, 1));
        journal.record(entry(1, failed(FailureClass::Timeout)));
        assert_eq!((journal.entries.len(), journal.counted(), journal.spent()), (1, 1, UsdNanos::new(5)));
        assert!(journal.unfinished().is_none() && journal.abandoned(key(2)).next().is_none());
    }

    #[test]
    fn an_entry_of_an_older_version_reads_without_what_it_may_cost() {
        let text = r#"{"attempt":1,"pool":{"region":"us-east","provider":"golem"},"started_us":1,
            "trace":{"is":"running","run":"x"}}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!((entry.expected(), entry.expected_usd()), (Some(&[][..]), UsdNanos::ZERO));
    }

    #[test]
    fn rate_limits_are_dropped_before_attempts_that_count_and_their_sums_stay() {
        let mut journal = Journal::default();
        journal.record(entry(1, failed(FailureClass::ProviderDown)));
        let unbilled = |class| Trace::Failed { failure: Failure::new(class, "x"), cost_usd: UsdNanos::ZERO };
        for attempt in 2..100 {
            journal.record(entry(attempt, unbilled(FailureClass::RateLimited)));
        }
        assert_eq!((journal.entries.len(), journal.counted(), journal.last_attempt()), (ENTRIES_MAX, 1, 99));
        assert_eq!((journal.uncounted(), journal.spent()), (98, UsdNanos::new(5)));
        for attempt in 100..200 {
            journal.record(entry(attempt, failed(FailureClass::RateLimited)));
        }
        assert_eq!((journal.counted(), journal.uncounted()), (101, 98), "what was billed counts");
        assert_eq!(journal.spent(), UsdNanos::new(505));
    }

    #[test]
    fn two_copies_merge_and_an_end_holds() {
        let (mut one, mut two) = (Journal::default(), Journal::default());
        one.record(entry(1, failed(FailureClass::Timeout)));
        two.record(entry(1, Trace::Started { expected: Vec::new() }));
        two.record(entry(2, Trace::Running { run: "r".into(), expected: Vec::new() }));
        let (before_one, before_two) = (one.clone(), two.clone());
        one.merge(&before_two);
        two.merge(&before_one);
        for merged in [one, two] {
            assert_eq!(merged.entries.len(), 2);
            assert_eq!(merged.entries.iter().filter(|e| e.expected().is_some()).count(), 1);
            assert_eq!(merged.spent(), UsdNanos::new(5));
        }
    }
}
