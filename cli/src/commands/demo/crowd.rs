//! The senders of the demo's jobs: a steady pace, and each sender waits for its own result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use producer::{JobRequest, Producer, WaitError, lines::Line, request::new_job_id};
use schemas::{JobId, Lane, Region, job::Message, reply::Status};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::local;
use crate::{args::Demo, report::Seen, session::Session};

/// A job that is not back by then is lost.
const LOST_AFTER: Duration = Duration::from_secs(120);
/// One of so many jobs goes to the real model, which does a few per second.
const REAL_EVERY: usize = 150;
/// However long the demo, a handful.
const REAL_MAX: usize = 24;
/// However short the demo, enough for the faults to find some.
const REAL_MIN: usize = 8;

/// The prompts in turn, over the regions in turn, with a few real ones in between.
pub(super) fn jobs(
    lines: &[Line],
    args: &Demo,
    regions: &[Region],
    real: bool,
) -> anyhow::Result<Vec<JobRequest>> {
    let all = usize::try_from(args.jobs)?;
    let real = if real { (all / REAL_EVERY).clamp(REAL_MIN, REAL_MAX).min(all) } else { 0 };
    let mut jobs: Vec<JobRequest> = (0..all - real)
        .map(|i| {
            // The prompts take the models in turn. One step more each round, or each model would know one region only.
            let region = &regions[(i + i / regions.len()) % regions.len()];
            lines[i % lines.len()].clone().request(new_job_id(), region.clone(), lane(i))
        })
        .collect();
    for i in 0..real {
        let at = (i * all / real).min(jobs.len());
        jobs.insert(at, real_job(i, new_job_id(), &regions[0])?);
    }
    Ok(jobs)
}

/// Mostly ordinary traffic, some at a screen, some overnight.
fn lane(i: usize) -> Lane {
    match i % 10 {
        0 => Lane::High,
        4 | 8 => Lane::Low,
        _ => Lane::Normal,
    }
}

fn real_job(i: usize, id: JobId, region: &Region) -> anyhow::Result<JobRequest> {
    let mut job = JobRequest::new(region.as_str(), local::MODEL)?;
    job.body.id = Some(id.to_string());
    job.body.messages =
        Some(vec![Message { role: "user".into(), content: local::PROMPTS[i % local::PROMPTS.len()].into() }]);
    job.body.params.max_tokens = Some(24);
    job.body.params.temperature = Some(0.0);
    Ok(job)
}

/// The senders and their progress bar.
pub(super) struct Crowd {
    producer: Arc<Producer>,
    pace: Duration,
    bar: ProgressBar,
}

impl Crowd {
    pub(super) fn new(session: &Session, producer: &Arc<Producer>, rate: u32) -> Self {
        let bar = session.screen.bars.add(ProgressBar::new(0));
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {pos}/{len} results {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self { producer: Arc::clone(producer), pace: Duration::from_secs(1) / rate, bar }
    }

    /// How long it takes to send so many jobs.
    pub(super) fn lasts(&self, jobs: usize) -> Duration {
        self.pace.saturating_mul(u32::try_from(jobs).unwrap_or(u32::MAX))
    }

    /// Sends all and waits for all. A job without a result in time is missing from what it gives.
    pub(super) async fn play(self, jobs: Vec<JobRequest>) -> anyhow::Result<Vec<Seen>> {
        self.bar.set_length(jobs.len() as u64);
        let mut seen = Vec::with_capacity(jobs.len());
        let mut waiting = JoinSet::new();
        let mut tick = interval(self.pace);
        // A pause is made up for: the whole takes as long as it should.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut jobs = jobs.into_iter();
        let mut next = jobs.next();
        while next.is_some() || !waiting.is_empty() {
            tokio::select! {
                _ = tick.tick(), if next.is_some() => {
                    if let Some(job) = std::mem::replace(&mut next, jobs.next()) {
                        waiting.spawn(send(Arc::clone(&self.producer), job));
                    }
                }
                Some(ended) = waiting.join_next() => {
                    seen.extend(ended??);
                    self.tell(&seen);
                }
            }
        }
        self.bar.finish_and_clear();
        Ok(seen)
    }

    fn tell(&self, seen: &[Seen]) {
        self.bar.inc(1);
        if let Some(last) = seen.last().filter(|last| last.result.status != Status::Succeeded) {
            let reason = last.result.error.as_ref().map_or("", |failure| failure.message.as_str());
            self.bar.set_message(format!("(last failure: {reason})"));
        }
    }
}

/// One job, from its submission to its result; `None` when none came.
async fn send(producer: Arc<Producer>, job: JobRequest) -> Result<Option<Seen>, WaitError> {
    let started = Instant::now();
    match producer.submit_and_wait(&job, LOST_AFTER).await {
        Ok(result) => Ok(Some(Seen { result, latency: started.elapsed() })),
        Err(WaitError::Timeout(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use producer::lines;

    use crate::config::Config;

    fn plan(count: u32, real: bool) -> Vec<JobRequest> {
        let config = Config::built_in().unwrap();
        let lines = lines::read(super::super::PROMPTS, "prompts", &config.topology.catalog).unwrap();
        let args = Demo { prompts: None, jobs: count, rate: 80, no_local: !real };
        jobs(&lines, &args, &config.topology.regions, real).unwrap()
    }

    #[test]
    fn every_model_visits_every_region_and_every_job_has_its_own_id() {
        let jobs = plan(720, false);
        let pairs: std::collections::BTreeSet<_> =
            jobs.iter().map(|job| (job.model.to_string(), job.region.to_string())).collect();
        let ids: std::collections::BTreeSet<_> = jobs.iter().map(|job| job.body.id.clone()).collect();
        assert_eq!((jobs.len(), pairs.len(), ids.len()), (720, 9, 720));
    }

    #[test]
    fn real_prompts_are_a_handful_spread_over_the_whole() {
        let jobs = plan(2_400, true);
        let real: Vec<usize> =
            (0..jobs.len()).filter(|&i| jobs[i].model.as_str() == "smollm2-135m").collect();
        assert_eq!((jobs.len(), real.len()), (2_400, 16));
        assert!(real[0] < 100 && real[15] > 2_000, "{real:?}");
        assert_eq!(plan(3, true).len(), 3);
    }
}
