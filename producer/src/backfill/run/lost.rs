//! Results that `REPLIES` does not hold any more: it keeps them for three days, and may be purged or deleted. A line whose job has
//! ended and whose result is gone would be waited for in vain, and so would one whose result does not read: each ends like a job that
//! failed, with the reason, and with the cost that the ledger knows.

use std::collections::HashMap;

use schemas::{JobId, Micros, UsdNanos, time::Clock as _};
use serde_json::json;
use tokio::time::Instant;
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
    /// Compares `REPLIES` with what the checkpoint counts, before anything is read. Another stream has other sequences: it is read from
    /// its start.
    pub(super) async fn begin_with(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let now = nats::extent(producer.client()).await?.ok_or(BackfillError::NoReplies)?;
        // Written down with the next checkpoint: one made here would say that an earlier run's jobs had been looked for.
        self.is_another(&now);
        Ok(())
    }

    /// Looks whether `REPLIES` may have dropped results that are not in the output yet, and if so writes down which lines will never have
    /// one. Call it only when everything that is stored was taken in.
    pub(super) async fn look_for_lost(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let replies = nats::extent(producer.client()).await?.ok_or(BackfillError::NoReplies)?;
        if self.is_another(&replies) {
            self.keep()?;
            // What is being read is the stream that is gone.
            return Err(BackfillError::RepliesAnew);
        }
        self.doubts.forget(|line| self.folder.is_done(line));
        if self.running == 0 || !self.doubts.call_for_look(&replies, self.taken, Instant::now()) {
            return Ok(());
        }
        let missing = self.missing()?;
        let lost = self.lost_of(producer, &missing).await?;
        let waiting =
            missing.iter().filter(|(job, _)| !lost.contains_key(job)).map(|(_, line)| *line).collect();
        self.doubts.looked(&replies, waiting, !lost.is_empty(), Instant::now());
        let ids = lost.keys().copied().collect();
        let costs =
            nats::costs_of(producer.client(), &self.options.tenant, &self.options.mailbox(), &ids).await?;
        let mut lost: Vec<(JobId, u64)> = lost.into_iter().collect();
        lost.sort_unstable_by_key(|(_, line)| *line);
        for (job, line) in lost {
            let cost = costs.get(&job).copied().unwrap_or_default();
            let why = json!({
                "class": "result_lost", "job": job, "cost_usd": cost, "noticed": SystemClock.now().to_datetime(),
                "message": format!(
                    "line {line}: its job has ended, and REPLIES holds its result no more (results are kept for three days, unless \
                     the stream is purged or deleted); to run the line again, run errors.jsonl under another --name"
                ),
            });
            self.give_up(line, cost, &why)?;
            self.lost.push(line);
        }
        Ok(())
    }

    /// Ends the lines of results that do not read. Call it only when everything that is stored was taken in.
    pub(super) async fn end_unread(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let now = Instant::now();
        if self.unreads.ripe(now).next().is_none() {
            return Ok(());
        }
        // Before the look: a line is acknowledged or read later, and a job that is of no line by then never is.
        let all_out = self.unacknowledged.is_empty()
            && self.window.is_empty()
            && self.input.number >= self.folder.manifest.survey.lines;
        let missing = self.missing()?;
        let mut found: Vec<(u64, JobId)> =
            self.unreads.ripe(now).filter_map(|job| Some((*missing.get(&job)?, job))).collect();
        found.sort_unstable();
        if all_out {
            self.unreads.forget(|job| !missing.contains_key(&job));
        }
        let ids = found.iter().map(|(_, job)| *job).collect();
        let costs =
            nats::costs_of(producer.client(), &self.options.tenant, &self.options.mailbox(), &ids).await?;
        for (line, job) in found {
            let Some(unread) = self.unreads.remove(job) else { continue };
            let cost = costs.get(&job).copied().unwrap_or_default();
            let why = json!({
                "class": "result_unreadable", "job": job, "cost_usd": cost, "replies_seq": unread.seq,
                "noticed": SystemClock.now().to_datetime(),
                "message": format!(
                    "line {line}: its job has ended, and this version cannot read its result ({}); a later version reads it with \
                     `beacon results --tenant {} --mailbox {}` for three days",
                    unread.why, self.options.tenant, self.options.mailbox()
                ),
            });
            self.give_up(line, cost, &why)?;
        }
        Ok(())
    }

    /// Whether a stream is not the one whose results the checkpoint counts; if so, it counts none from now on.
    fn is_another(&mut self, now: &Extent) -> bool {
        let checkpoint = &mut self.folder.checkpoint;
        let then = checkpoint.replies_created_us;
        checkpoint.replies_created_us = now.created;
        // Nothing is known of the stream of an older version's checkpoint.
        let another =
            (then != Micros::default() && then != now.created) || now.last_seq < checkpoint.replies_seq;
        if another {
            checkpoint.replies_seq = 0;
            self.taken = 0;
            self.unreads = super::unread::Unreads::default();
        }
        another
    }

    /// Lines that were accepted and are not in the output, by job.
    pub(super) fn missing(&self) -> Result<HashMap<JobId, u64>, BackfillError> {
        let mut missing = HashMap::new();
        let open = |line: &u64| {
            !self.folder.is_done(*line) && !self.unacknowledged.contains(line) && !self.window.holds(*line)
        };
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
    ) -> Result<HashMap<JobId, u64>, BackfillError> {
        let (client, options) = (producer.client(), &self.options);
        let mut lost = missing.clone();
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

    /// Ends a line whose job has ended and whose result nobody will read.
    pub(super) fn give_up(
        &mut self,
        line: u64,
        cost: UsdNanos,
        why: &serde_json::Value,
    ) -> Result<(), BackfillError> {
        let text = self.input.line(line)?;
        self.texts.remove(&line);
        self.window.ended(line);
        self.folder.failed(line, &output::error(&text, line, why))?;
        self.running = self.running.saturating_sub(1);
        let checkpoint = &mut self.folder.checkpoint;
        checkpoint.spent_usd = checkpoint.spent_usd.checked_add(cost).unwrap_or(UsdNanos::new(u64::MAX));
        Ok(())
    }
}
