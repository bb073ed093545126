//! How far a backfill is, what it has cost, and what is to go.

use std::time::Duration;

use schemas::UsdNanos;

use super::{Backfill, Snapshot};

impl Backfill {
    /// How far it is.
    pub fn snapshot(&self) -> Snapshot {
        let (checkpoint, survey) = (&self.folder.checkpoint, &self.folder.manifest.survey);
        let jobs = survey.models.values().sum::<u64>();
        let ended = checkpoint.succeeded + checkpoint.failed;
        let left = (survey.lines - survey.blank).saturating_sub(ended);
        let pace = self.began.and_then(|(began, before)| {
            let since = ended.saturating_sub(before);
            (since > 0).then(|| began.elapsed().as_secs_f64() / since as f64)
        });
        Snapshot {
            jobs,
            succeeded: checkpoint.succeeded,
            failed: checkpoint.failed,
            running: self.running,
            spent_usd: self.spent(),
            to_go_usd: (ended > 0).then(|| {
                let sum = u128::from(checkpoint.spent_usd.get()) * u128::from(left) / u128::from(ended);
                UsdNanos::new(u64::try_from(sum).unwrap_or(u64::MAX))
            }),
            to_go_s: pace
                .and_then(|pace| Duration::try_from_secs_f64(pace * left as f64).ok())
                .map(|span| span.as_secs()),
            asked: self.asked,
        }
    }
}
