//! Results that `REPLIES` does not hold any more: it keeps them for three days, and may be purged or deleted. A line whose job has
//! ended and whose result is gone would be waited for in vain.

use std::collections::{BTreeMap, HashMap};

use schemas::{JobId, UsdNanos, time::Clock as _};
use serde_json::json;
use transport::SystemClock;

use super::{Backfill, defaults};
use crate::{
    Producer,
    backfill::{BackfillError, output},
    lines::parse_line,
    log,
    nats::{self, Extent},
};

impl Backfill {
    /// Looks whether `REPLIES` may have dropped results that are not in the output yet, and if so writes down which lines will never have
    /// one. Call it only when everything that is stored was taken in.
    pub(super) async fn look_for_lost(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let Some(now) = nats::extent(producer.client()).await? else { return Err(BackfillError::NoReplies) };
        let checkpoint = &mut self.folder.checkpoint;
        if !made_at(checkpoint.replies_created_us, &now) || now.last_seq < checkpoint.replies_seq {
            checkpoint.replies_seq = 0;
            checkpoint.replies_created_us = now.created;
            self.suspicious_of = Some(0);
            self.keep()?;
            return Err(BackfillError::RepliesAnew);
        }
        checkpoint.replies_created_us = now.created;
        // What was dropped since the last look, and lies behind what was taken in.
        let news = now.first_seq > checkpoint.replies_seq + 1
            && self.suspicious_of.is_none_or(|then| now.first_seq > then);
        if !(news || self.doubtful > 0) || self.running == 0 {
            return Ok(());
        }
        let missing = self.missing()?;
        let lost = self.lost_of(producer, &missing).await?;
        self.doubtful = missing.len() - lost.len();
        self.suspicious_of = Some(now.first_seq);
        let ids = lost.keys().copied().collect();
        let costs =
            nats::costs_of(producer.client(), &self.options.tenant, &self.options.mailbox(), &ids).await?;
        for (job, line) in lost {
            let cost = costs.get(&job).copied().unwrap_or_default();
            self.give_up(job, line, cost)?;
        }
        Ok(())
    }

    /// Lines that were accepted and are not in the output, by job.
    fn missing(&self) -> Result<HashMap<JobId, u64>, BackfillError> {
        let mut missing = HashMap::new();
        let open = |line: &u64| !self.folder.is_done(*line) && !self.unacknowledged.contains(line);
        for line in (1..=self.input.number).filter(open) {
            let text = self.input.line(line)?;
            if let Ok(job) = parse_line(&text, line, &defaults(&self.options)) {
                missing.insert(self.options.job(&job.custom_id), line);
            }
        }
        Ok(missing)
    }

    /// Those of them whose jobs have ended and whose results are not stored.
    async fn lost_of(
        &self,
        producer: &Producer,
        missing: &HashMap<JobId, u64>,
    ) -> Result<BTreeMap<JobId, u64>, BackfillError> {
        let (client, options) = (producer.client(), &self.options);
        let mut lost: BTreeMap<JobId, u64> = missing.iter().map(|(job, line)| (*job, *line)).collect();
        for region in &options.regions {
            // First up to where jobs have ended, then what lies behind: a job that ends in between counts as one that has not.
            let floors = log::floors(client, region).await.map_err(nats::stream_error)?;
            nats::each_job(client, region, &options.tenant, |job, subject, seq| {
                let floor =
                    floors.get(&schemas::subjects::job_filter(&subject.region, &subject.model, subject.lane));
                if floor.is_none_or(|floor| seq > *floor) {
                    lost.remove(&job);
                }
            })
            .await?;
        }
        // A result is stored before its job has ended: what is not there by now is gone.
        let stored = nats::results_in(client, &options.tenant, &options.mailbox()).await?;
        lost.retain(|job, _| !stored.contains(job));
        Ok(lost)
    }

    fn give_up(&mut self, job: JobId, line: u64, cost: UsdNanos) -> Result<(), BackfillError> {
        if self.folder.is_done(line) {
            return Ok(());
        }
        let text = self.input.line(line)?;
        let why = json!({
            "class": "result_lost", "job": job, "cost_usd": cost, "noticed": SystemClock.now().to_datetime(),
            "message": format!(
                "line {line}: its job has ended, and REPLIES holds its result no more (results are kept for three days, unless the \
                 stream is purged or deleted); to run the line again, run errors.jsonl under another --name"
            ),
        });
        self.texts.remove(&line);
        self.folder.failed(line, &output::error(&text, &why))?;
        self.running = self.running.saturating_sub(1);
        self.lost.push(line);
        let checkpoint = &mut self.folder.checkpoint;
        checkpoint.spent_usd = checkpoint.spent_usd.checked_add(cost).unwrap_or(UsdNanos::new(u64::MAX));
        Ok(())
    }
}

/// Whether a stream is the one that was made then; nothing is known of an older checkpoint's.
fn made_at(then: schemas::Micros, now: &Extent) -> bool {
    then == schemas::Micros::default() || then == now.created
}
