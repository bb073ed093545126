//! Results that do not read: a later version wrote them, most likely. Whose they are stands in their message ids, so each ends its line
//! like a job that failed, with the reason, and with the cost that the ledger knows.

use std::{collections::HashMap, time::Duration};

use schemas::{JobId, time::Clock as _};
use serde_json::json;
use tokio::time::Instant;
use transport::SystemClock;

use super::Backfill;
use crate::{
    Producer,
    backfill::BackfillError,
    nats::{self, Unread},
};

/// The cost event follows the result: how long it is waited for.
const COST_AFTER: Duration = Duration::from_secs(2);

/// Results that do not read and whose lines are not in the output yet, with when each came.
#[derive(Debug, Default)]
pub(super) struct Unreads(HashMap<JobId, (Unread, Instant)>);

impl Unreads {
    pub(super) fn add(&mut self, job: JobId, unread: Unread, now: Instant) {
        self.0.entry(job).or_insert((unread, now));
    }

    /// Those that came so long ago that their cost is booked.
    fn ripe(&self, now: Instant) -> impl Iterator<Item = JobId> {
        self.0.iter().filter(move |(_, (_, came))| *came + COST_AFTER <= now).map(|(job, _)| *job)
    }

    /// The sequence of the first of them: a later run must read `REPLIES` from there on.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.0.values().map(|(unread, _)| unread.seq).min()
    }
}

impl Backfill {
    /// Ends the lines of results that do not read. Call it only when everything that is stored was taken in.
    pub(super) async fn end_unread(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let now = Instant::now();
        if self.unreads.ripe(now).next().is_none() {
            return Ok(());
        }
        // Before the look: a line is acknowledged or read later, and a job that is of no line by then never is.
        let all_out =
            self.unacknowledged.is_empty() && self.input.number >= self.folder.manifest.survey.lines;
        let missing = self.missing()?;
        let mut found: Vec<(u64, JobId)> =
            self.unreads.ripe(now).filter_map(|job| Some((*missing.get(&job)?, job))).collect();
        found.sort_unstable();
        if all_out {
            self.unreads.0.retain(|job, _| missing.contains_key(job));
        }
        let ids = found.iter().map(|(_, job)| *job).collect();
        let costs =
            nats::costs_of(producer.client(), &self.options.tenant, &self.options.mailbox(), &ids).await?;
        for (line, job) in found {
            let Some((unread, _)) = self.unreads.0.remove(&job) else { continue };
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
}
