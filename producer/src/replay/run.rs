//! Plans a replay, and sends it: so many jobs a second, each once, from where it was interrupted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use schemas::{JobId, Region, time::Clock as _};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use transport::SystemClock;
use uuid::Uuid;

use super::{
    Destination, ReplayError, Selection, Source,
    rewrite::{new_id, rewrite},
    sent::SentLog,
};
use crate::{Producer, log, nats};

/// Bursts a second: jobs leave in so many, and what was sent is written down after each.
const BURSTS: u32 = 10;
/// Clocks differ: how much before the last note the jobs that may have been sent after it are looked for.
const MARGIN: Duration = Duration::from_secs(30);

/// What a person may say about a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// From which log.
    pub source: Source,
    /// Which entries.
    pub selection: Selection,
    /// Where to.
    pub to: Destination,
    /// Whether jobs that have not ended are meant, too.
    pub unfinished: bool,
    /// The same replay once more has another number.
    pub again: u32,
}

impl Replay {
    /// What an entry's replay is the same for, whichever entries are asked for together with it, and when: where it comes
    /// from, where it goes, and which time it is. Sixteen hex digits.
    pub fn key(&self) -> String {
        let text = serde_json::to_string(&(self.source, &self.to, self.again));
        let text = text.expect("a destination has only string keys and no failing parts");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()[..16].to_owned()
    }
}

/// An entry that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its sequence.
    pub seq: u64,
    /// Its job.
    pub job: JobId,
    /// What replays it.
    pub new: JobId,
}

/// What a replay would send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The entries by stream, in its order.
    pub picked: BTreeMap<String, Vec<Picked>>,
    /// How many for each model they would go to.
    pub models: BTreeMap<String, u64>,
    /// Entries that are meant and are not replayed, by the reason.
    pub skipped: BTreeMap<String, u64>,
}

impl Plan {
    /// How many jobs.
    pub fn len(&self) -> usize {
        self.picked.values().map(Vec::len).sum()
    }

    /// Whether nothing is meant.
    pub fn is_empty(&self) -> bool {
        self.picked.is_empty()
    }
}

/// Finds out what a replay means now. Nothing is sent.
pub async fn plan(producer: &Producer, replay: &Replay, regions: &[Region]) -> Result<Plan, ReplayError> {
    let (client, now, key) = (producer.client(), SystemClock.now(), replay.key());
    let Replay { source, selection, to, .. } = replay;
    let mut plan = Plan::default();
    for (stream, region) in log::streams(*source, regions) {
        let skip_region = |r: &Region| selection.region.as_ref().is_some_and(|wanted| wanted != r);
        if region.as_ref().is_some_and(skip_region) {
            continue;
        }
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        log::read(client, *source, (&stream, region.as_ref()), selection, |entry| {
            if selection.matches(&entry) {
                let new = new_id(&key, &entry);
                match (entry.job, rewrite(&entry, new, to, now)) {
                    (Some(job), Ok((_, request))) => {
                        let filter = entry.subject.as_ref().map(|subject| {
                            schemas::subjects::job_filter(&subject.region, &subject.model, subject.lane)
                        });
                        found.push((Picked { seq: entry.seq, job, new }, request.model, filter));
                    }
                    (_, Err(why)) => skipped.push(why.to_string()),
                    (None, Ok(_)) => skipped.push("it has no id".to_owned()),
                }
            }
            true
        })
        .await?;
        if let Some(region) = &region {
            keep_ended(producer, replay, region, &mut found, &mut skipped).await?;
        }
        for why in skipped {
            *plan.skipped.entry(why).or_default() += 1;
        }
        for (_, model, _) in &found {
            *plan.models.entry(model.to_string()).or_default() += 1;
        }
        if !found.is_empty() {
            plan.picked.insert(stream, found.into_iter().map(|(picked, ..)| picked).collect());
        }
    }
    Ok(plan)
}

type Found = (Picked, schemas::ModelToken, Option<String>);

/// Leaves out jobs of the log that have not ended, and those whose result is not as asked.
async fn keep_ended(
    producer: &Producer,
    replay: &Replay,
    region: &Region,
    found: &mut Vec<Found>,
    skipped: &mut Vec<String>,
) -> Result<(), ReplayError> {
    let needs = replay.selection.needs_result(replay.source);
    if found.is_empty() || (replay.unfinished && !needs) {
        return Ok(());
    }
    let jobs: BTreeSet<JobId> = found.iter().map(|(picked, ..)| picked.job).collect();
    let results = log::results_of(producer.client(), None, &jobs, replay.selection.since).await?;
    let floors = log::floors(producer.client(), region).await?;
    found.retain(|(picked, _, filter)| match results.get(&picked.job) {
        Some(result) => !needs || replay.selection.matches_result(result),
        None if needs => {
            skipped.push("its result is no longer kept, or has not come".to_owned());
            false
        }
        None => {
            let floor = filter.as_ref().and_then(|filter| floors.get(filter)).copied().unwrap_or(0);
            let ended = replay.unfinished || picked.seq <= floor;
            if !ended {
                skipped.push("it has not ended".to_owned());
            }
            ended
        }
    });
    Ok(())
}

/// What came of sending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Jobs sent now.
    pub sent: u64,
    /// Jobs that were sent there before.
    pub before: u64,
    /// Entries that went away since they were counted: the log was trimmed, or purged.
    pub gone: u64,
    /// Whether everything is sent.
    pub finished: bool,
}

/// What sending takes.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Who sends.
    pub producer: &'a Producer,
    /// The regions there are.
    pub regions: &'a [Region],
    /// Jobs a second.
    pub rate: u32,
    /// Where is written down what was sent.
    pub folder: &'a Path,
}

impl Replay {
    /// Sends what was planned until done or `shutdown`; `tell` hears of every burst.
    pub async fn send(
        &self,
        means: Means<'_>,
        plan: &Plan,
        shutdown: &CancellationToken,
        tell: &mut (dyn FnMut(&Sent) + Send),
    ) -> Result<Sent, ReplayError> {
        let Means { producer, regions, rate, folder } = means;
        let mut log = SentLog::open(folder, &self.key())?;
        // What may have been sent after the last note; without one the whole log is looked through: its folder may be gone.
        let since = log.last().map(|at| at - MARGIN);
        for region in regions {
            log.known.extend(nats::jobs_since(producer.client(), region, None, since).await?);
        }
        let mut sent = Sent::default();
        let burst = (rate / BURSTS).max(1) as usize;
        let mut tick = interval(Duration::from_secs(1) * u32::try_from(burst).unwrap_or(1) / rate.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for (stream, region) in log::streams(self.source, regions) {
            let picked = plan.picked.get(&stream).map_or(&[][..], Vec::as_slice);
            let (before, left): (Vec<_>, Vec<_>) = picked.iter().partition(|p| log.known.contains(&p.new));
            sent.before += before.len() as u64;
            for chunk in left.chunks(burst) {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(sent),
                    _ = tick.tick() => {}
                }
                self.send_chunk(producer, (&stream, region.as_ref()), chunk, &mut sent).await?;
                log.add(chunk.iter().map(|picked| picked.new), SystemClock.now())?;
                tell(&sent);
            }
        }
        sent.finished = true;
        Ok(sent)
    }

    async fn send_chunk(
        &self,
        producer: &Producer,
        place: (&str, Option<&Region>),
        chunk: &[&Picked],
        sent: &mut Sent,
    ) -> Result<(), ReplayError> {
        let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else { return Ok(()) };
        let mut wanted: HashMap<u64, &Picked> = chunk.iter().map(|p| (p.seq, *p)).collect();
        let selection =
            Selection { first_seq: Some(first.seq), last_seq: Some(last.seq), ..self.selection.clone() };
        let (now, mut requests) = (SystemClock.now(), Vec::with_capacity(chunk.len()));
        log::read(producer.client(), self.source, place, &selection, |entry| {
            if let Some(picked) = wanted.remove(&entry.seq)
                && let Ok((tenant, request)) = rewrite(&entry, picked.new, &self.to, now)
            {
                requests.push((picked, tenant, request));
            }
            !wanted.is_empty()
        })
        .await?;
        sent.gone += wanted.len() as u64;
        let submitted = join_all(requests.iter().map(async |(picked, tenant, request)| {
            (picked, producer.submit_for(tenant, picked.new, request).await)
        }))
        .await;
        for (picked, outcome) in submitted {
            outcome.map_err(|source| ReplayError::Submit { of: picked.job, source })?;
            sent.sent += 1;
        }
        Ok(())
    }
}
