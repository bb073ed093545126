//! `beacon replay`: jobs of the past run again, counted and priced before anything is sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    time::Duration,
};

use producer::{
    Producer,
    backfill::{Survey, quote},
    log,
    replay::{Destination, Means, Plan, Replay, Sent, plan},
};
use schemas::{
    JobId, Mailbox, Tenant,
    reply::{JobResult, Output},
    time::Clock as _,
};
use serde_json::json;
use similar::TextDiff;
use tokio::time::{Instant, sleep};
use transport::SystemClock;

use crate::{args::ReplayArgs, confirm::confirm, exit::Usage, named, output, session::Session};

/// Heartbeats come each second: so long, and every pool was heard.
const LISTEN: Duration = Duration::from_millis(1_500);
/// Jobs whose outputs are compared side by side. Larger comparisons need a file and a tool of their own.
const DIFF_MAX: usize = 10_000;
/// Clocks differ: how much further back each look goes than the one before.
const MARGIN: Duration = Duration::from_secs(30);
/// How often new results are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Plans, asks, sends, compares.
pub(crate) async fn run(args: ReplayArgs, session: Session) -> anyhow::Result<()> {
    let selection = args.selecting.selection(&args.jobs, &session.config.topology)?;
    if selection.is_empty() && !args.all {
        let text =
            "nothing says which jobs: give ids, a filter (see --help), or --all for everything the log holds";
        return Err(Usage(text.into()).into());
    }
    let replay = Replay {
        source: args.from,
        selection,
        to: Destination {
            provider: args.to_provider.clone(),
            region: args
                .to_region
                .as_ref()
                .map(|region| named::region(Some(region), &session.config.topology))
                .transpose()?,
            model: args
                .to_model
                .as_deref()
                .map(|name| named::model(Some(name), &session.config.topology))
                .transpose()?,
            mailbox: args.mailbox.clone(),
        },
        unfinished: args.unfinished,
        again: args.again,
    };
    let producer = session.producer(&Tenant::default(), &Mailbox::try_from("replay-none")?).await?;
    let outcome = session.unless_interrupted(go(&args, &replay, &producer, &session)).await;
    producer.close().await;
    outcome
}

async fn go(
    args: &ReplayArgs,
    replay: &Replay,
    producer: &Producer,
    session: &Session,
) -> anyhow::Result<()> {
    let regions = &session.config.topology.regions;
    let plan = plan(producer, replay, regions).await?;
    tell_plan(&plan, producer, session).await?;
    if args.dry_run || plan.is_empty() {
        return Ok(());
    }
    if args.diff && plan.len() > DIFF_MAX {
        return Err(
            Usage(format!("--diff compares at most {DIFF_MAX} jobs; {} are meant", plan.len())).into()
        );
    }
    confirm(&format!("replay {} jobs", plan.len()), args.yes)?;
    let folder = args.state.clone().unwrap_or_else(|| PathBuf::from(".beacon/replays"));
    let means = Means { producer, regions, rate: args.rate, folder: &folder };
    let mut tell = |sent: &Sent| {
        if session.json {
            // A reader that went away must not stop the work.
            let _ = output::json(&json!({ "progress": sent }));
        }
    };
    let sent = replay.send(means, &plan, session.signals.shutdown(), &mut tell).await?;
    let Sent { sent: count, before, gone, finished } = sent;
    if !finished {
        session.say(format!("{count} replayed; run it again to go on"));
        return Err(session.signals.interrupted());
    }
    if session.json {
        output::json(&json!({ "replay": replay.key(), "sent": sent }))?;
    } else {
        let mut parts = vec![format!("{count} replayed")];
        if before > 0 {
            parts.push(format!("{before} had been replayed before (--again 1 does it once more)"));
        }
        if gone > 0 {
            parts.push(format!("{gone} are no longer in the log"));
        }
        output::line(parts.join(", "))?;
    }
    if args.diff { compare(&plan, producer, args, session).await } else { Ok(()) }
}

/// The number of jobs, the most that they may cost, and the jobs that are left out.
async fn tell_plan(plan: &Plan, producer: &Producer, session: &Session) -> anyhow::Result<()> {
    let survey = Survey { models: plan.models.clone(), ..Survey::default() };
    let estimate =
        if plan.is_empty() { None } else { Some(quote(producer, LISTEN).await?.estimate(&survey)) };
    if session.json {
        return output::json(&json!({ "jobs": plan.len(), "estimate": estimate, "skipped": plan.skipped }));
    }
    let mut parts = vec![format!("{} jobs", plan.len())];
    if let Some(estimate) = &estimate {
        parts.push(format!("${} to ${}", estimate.from_usd, estimate.to_usd));
        if !estimate.unserved.is_empty() {
            parts.push(format!("no pool serves {} now", estimate.unserved.join(", ")));
        }
    }
    output::line(parts.join(", "))?;
    for (why, count) in &plan.skipped {
        output::line(format!("{count} left out: {why}"))?;
    }
    Ok(())
}

/// Waits for the new results and compares each with the old one.
async fn compare(
    plan: &Plan,
    producer: &Producer,
    args: &ReplayArgs,
    session: &Session,
) -> anyhow::Result<()> {
    let pairs: Vec<(JobId, JobId)> = plan.picked.values().flatten().map(|p| (p.job, p.new)).collect();
    let old: BTreeSet<JobId> = pairs.iter().map(|(old, _)| *old).collect();
    let new: BTreeSet<JobId> = pairs.iter().map(|(_, new)| *new).collect();
    let old = with_outputs(producer, log::results_of(producer.client(), None, &old, None).await?).await;
    let end = Instant::now() + args.timeout.get();
    let mut missing = new;
    let mut new = HashMap::new();
    // Results of an earlier call of this replay may be older than this call; after them, only new results are read.
    let mut since = None;
    loop {
        let looked = SystemClock.now();
        let found = log::results_of(producer.client(), None, &missing, since).await?;
        new.extend(with_outputs(producer, found).await);
        missing.retain(|job| !new.contains_key(job));
        if missing.is_empty() || Instant::now() >= end {
            break;
        }
        since = Some(looked - MARGIN);
        sleep(LOOK_EVERY).await;
    }
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (of, by) in &pairs {
        let outcome = outcome(old.get(of), new.get(by));
        *counts.entry(outcome).or_default() += 1;
        if session.json {
            output::json(
                &json!({ "job": of, "replay": by, "verdict": outcome, "old": old.get(of), "new": new.get(by) }),
            )?;
        } else if outcome != "same" {
            output::line(difference(*of, *by, old.get(of), new.get(by)))?;
        }
    }
    let summary: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    session.say(summary.join(", "));
    Ok(())
}

/// The same results with the outputs that lie in the object store. One whose output is gone says so in its place.
async fn with_outputs(producer: &Producer, results: HashMap<JobId, JobResult>) -> HashMap<JobId, JobResult> {
    let mut found = HashMap::with_capacity(results.len());
    for (job, result) in results {
        let result = match producer::nats::with_output(producer.client(), result).await {
            Ok(result) => result,
            Err(lost) => {
                let text = format!("[output not kept: {}]", lost.source);
                let output = Output { text, finish_reason: String::new() };
                JobResult { output: Some(output), ..lost.result }
            }
        };
        found.insert(job, result);
    }
    found
}

/// The outcome of a comparison, in words.
fn outcome(old: Option<&JobResult>, new: Option<&JobResult>) -> &'static str {
    match (old, new) {
        (_, None) => "not ended",
        (None, Some(_)) => "old result no longer kept",
        (Some(old), Some(new)) if old.status == new.status && text(old) == text(new) => "same",
        (Some(old), Some(new)) if old.status == new.status => "different output",
        (Some(_), Some(_)) => "different status",
    }
}

/// The side of a comparison: the output, or the reason why there is none.
fn text(result: &JobResult) -> String {
    match (&result.output, &result.error) {
        (Some(output), _) => output.text.clone(),
        (None, Some(failure)) => format!("{}: {}", failure.class, failure.message),
        (None, None) => String::new(),
    }
}

fn difference(of: JobId, by: JobId, old: Option<&JobResult>, new: Option<&JobResult>) -> String {
    let about = |result: Option<&JobResult>| match result {
        Some(r) => {
            let provider = r.provider.as_ref().map_or("-", |p| p.as_str());
            format!("{} at {provider}, ${}, {} ms", r.status.as_str(), r.cost_usd, r.timings.total_us / 1_000)
        }
        None => "no result".to_owned(),
    };
    let (before, after) = (old.map(text).unwrap_or_default(), new.map(text).unwrap_or_default());
    let (left, right) = (format!("{of} {}", about(old)), format!("{by} {}", about(new)));
    let diff = TextDiff::from_lines(&before, &after).unified_diff().header(&left, &right).to_string();
    diff.trim_end().to_owned()
}
