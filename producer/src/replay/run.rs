//! Plans a replay, and sends it: so many jobs a second, each once, from where it was interrupted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use schemas::{JobId, Micros, Region, time::Clock as _, topology::jobs_stream};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use transport::SystemClock;
use uuid::Uuid;

use super::{
    Destination, ReplayError, Selection, Source,
    rewrite::{new_id, rewrite},
};
use crate::{Producer, log, nats};

/// Bursts a second: jobs leave in so many, and how far it is is written down after each.
const BURSTS: u32 = 10;
/// Clocks differ: how much before the last note the jobs that may have been sent after it are looked for.
const MARGIN: Duration = Duration::from_secs(30);

/// What a person may say about a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// What makes it this replay and no other: sixteen hex digits.
    pub fn key(&self) -> String {
        let text = serde_json::to_string(self).expect("a replay has only string keys and no failing parts");
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
        log::read(client, *source, (&stream, region.as_ref()), selection, false, |entry| {
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
    let results = log::results_of(producer.client(), &jobs, replay.selection.since).await?;
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

/// How far a replay is, as it is written down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// Everything up to here is sent, by stream.
    done: BTreeMap<String, u64>,
    /// When this was written.
    at_us: Micros,
    finished: bool,
}

/// What came of sending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Jobs sent now.
    pub sent: u64,
    /// Jobs that an earlier run of the same replay had sent.
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
    /// Where is written down how far it is.
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
        let path = folder.join(format!("{}.json", self.key()));
        let (mut note, known) = self.begun(producer, regions, &path).await?;
        let mut sent = Sent::default();
        let burst = (rate / BURSTS).max(1) as usize;
        let mut tick = interval(Duration::from_secs(1) * u32::try_from(burst).unwrap_or(1) / rate.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for (stream, picked) in &plan.picked {
            let done = note.done.get(stream).copied().unwrap_or(0);
            let (before, left): (Vec<_>, Vec<_>) =
                picked.iter().partition(|p| p.seq <= done || known.contains(&p.new));
            sent.before += before.len() as u64;
            for chunk in left.chunks(burst) {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(sent),
                    _ = tick.tick() => {}
                }
                self.send_chunk(producer, (stream, chunk), &mut sent).await?;
                if let Some(last) = chunk.last() {
                    note.done.insert(stream.clone(), last.seq);
                }
                note.at_us = SystemClock.now();
                write(&path, &note)?;
                tell(&sent);
            }
        }
        (note.finished, note.at_us) = (true, SystemClock.now());
        write(&path, &note)?;
        sent.finished = true;
        Ok(sent)
    }

    /// How far an earlier run came, and which jobs it may have sent after it last said so.
    async fn begun(
        &self,
        producer: &Producer,
        regions: &[Region],
        path: &Path,
    ) -> Result<(Note, HashSet<JobId>), ReplayError> {
        let note: Option<Note> = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(ReplayError::State { path: path.to_owned(), source }),
        };
        let mut known = HashSet::new();
        if note.as_ref().is_some_and(|note| note.finished) {
            return Ok((note.unwrap_or_default(), known));
        }
        // Without a note the whole log is looked through: its folder may be gone.
        let since = note.as_ref().map(|note| note.at_us - MARGIN);
        for region in regions {
            known.extend(nats::jobs_since(producer.client(), region, None, since).await?);
        }
        Ok((note.unwrap_or_default(), known))
    }

    async fn send_chunk(
        &self,
        producer: &Producer,
        (stream, chunk): (&str, &[&Picked]),
        sent: &mut Sent,
    ) -> Result<(), ReplayError> {
        let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else { return Ok(()) };
        let mut wanted: HashMap<u64, &Picked> = chunk.iter().map(|p| (p.seq, *p)).collect();
        let selection =
            Selection { first_seq: Some(first.seq), last_seq: Some(last.seq), ..self.selection.clone() };
        let region = self.region_of(stream);
        let (now, mut requests) = (SystemClock.now(), Vec::with_capacity(chunk.len()));
        let client = producer.client();
        log::read(client, self.source, (stream, region.as_ref()), &selection, false, |entry| {
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

    fn region_of(&self, stream: &str) -> Option<Region> {
        match self.source {
            Source::Dead => None,
            Source::Jobs => {
                let region = stream.strip_prefix("JOBS_").and_then(|name| name.parse().ok());
                region.filter(|region| jobs_stream(region) == stream)
            }
        }
    }
}

fn write(path: &Path, note: &Note) -> Result<(), ReplayError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReplayError::State { path, source }
    };
    let scratch: PathBuf = path.with_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    let bytes = serde_json::to_vec(note).expect("a note has only string keys and no failing parts");
    fs::write(&scratch, bytes).map_err(failed(&scratch))?;
    fs::rename(&scratch, path).map_err(failed(path))
}
