//! `beacon cancel`: takes jobs back, by id or by what they have in common.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt as _, stream};
use producer::{
    Producer, log,
    replay::{Selection, Source},
};
use schemas::{
    JobId, Mailbox, Micros, Region,
    cancel::{Filter, Order, Target},
    reply::{JobResult, Status},
    time::Clock as _,
};
use transport::{SystemClock, delayed};

use crate::{
    args::Cancel,
    exit::{Unsuccessful, Usage},
    named, output,
    session::Session,
};

/// Orders on their way, and jobs waited for, at a time.
const AT_ONCE: usize = 256;

/// Gives the orders, and waits for results if asked to.
pub(crate) async fn run(args: Cancel, session: Session) -> anyhow::Result<()> {
    let targets = targets(&args, &session)?;
    let producer = session.producer(&args.tenant, &args.mailbox.clone().unwrap_or_default()).await?;
    let work = async {
        let mut orders = stream::iter(targets)
            .map(async |target| take_back(&producer, &session, target, &args.reason).await)
            .buffered(AT_ONCE);
        while let Some(order) = orders.next().await {
            let order = order?;
            if !args.wait {
                tell(&order, session.json)?;
            }
        }
        if args.wait { wait_for(&producer, &args, &session).await } else { Ok(()) }
    };
    let outcome = session.unless_interrupted(work).await;
    producer.close().await;
    outcome
}

/// A job that waits for its time ends now; the filter's ones when theirs comes.
async fn take_back(
    producer: &Producer,
    session: &Session,
    target: Target,
    reason: &str,
) -> anyhow::Result<Order> {
    let regions = &session.config.topology.regions;
    match target {
        Target::Job(job) => Ok(producer.cancel_delayed(regions, job, reason).await?),
        filter @ Target::Matching(_) => Ok(producer.cancel(filter, reason).await?),
    }
}

/// What is meant; a filter that says nothing is refused.
fn targets(args: &Cancel, session: &Session) -> anyhow::Result<Vec<Target>> {
    let model = args
        .which
        .model
        .as_deref()
        .map(|name| named::model(Some(name), &session.config.topology))
        .transpose()?;
    let filter = Filter {
        tenant: None,
        region: args.which.region.clone(),
        model,
        lane: args.which.lane,
        mailbox: args.mailbox.clone(),
        labels: args.which.labels.iter().cloned().collect(),
    };
    if !args.jobs.is_empty() {
        let others = Filter { mailbox: None, ..filter };
        if !others.is_empty() {
            return Err(Usage("give either ids of jobs or a filter, not both".into()).into());
        }
        return Ok(args.jobs.iter().map(|job| Target::Job(*job)).collect());
    }
    if filter.is_empty() && !args.all {
        let text = "nothing says which jobs: give ids, a filter (--region, --model, --lane, --mailbox, --label), or --all";
        return Err(Usage(text.into()).into());
    }
    Ok(vec![Target::Matching(Filter { tenant: Some(args.tenant.clone()), ..filter })])
}

fn tell(order: &Order, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(order);
    }
    match &order.target {
        Target::Job(job) => output::line(format!("{job} is taken back")),
        Target::Matching(_) => output::line(format!(
            "every job that matches and was accepted before {} is taken back",
            order.at_us
        )),
    }
}

/// Waits for the result of each job. What has ended, or was never accepted, is not waited for: a look at the stored results and the job
/// log goes on beside the waiting, and says so.
async fn wait_for(producer: &Producer, args: &Cancel, session: &Session) -> anyhow::Result<()> {
    let mailbox = args.mailbox.clone().unwrap_or_default();
    let mut ends = stream::iter(&args.jobs)
        .map(async |job| (*job, producer.wait(*job, made_at(*job), args.timeout.get()).await))
        .buffer_unordered(AT_ONCE);
    let mut open: BTreeSet<JobId> = args.jobs.iter().copied().collect();
    let mut look = std::pin::pin!(look_for(producer, &session.config.topology.regions, open.clone()));
    let (mut looking, mut trouble) = (true, None);
    while !open.is_empty() {
        tokio::select! {
            found = &mut look, if looking => {
                looking = false;
                let Looked { ended, unknown } = found?;
                for result in ended.into_values().filter(|result| open.remove(&result.job)) {
                    tell_end(&result, session.json)?;
                }
                for job in unknown.into_iter().filter(|job| open.remove(job)) {
                    trouble.get_or_insert_with(|| format!(
                        "job {job} is in no stream: it was never accepted, or it ended longer ago than results are kept"
                    ));
                }
            }
            Some((job, end)) = ends.next() => {
                if !open.remove(&job) {
                    continue;
                }
                match end {
                    Ok(result) => tell_end(&result, session.json)?,
                    Err(error) => drop(trouble.get_or_insert_with(|| silent(&error, &mailbox))),
                }
            }
        }
    }
    trouble.map_or(Ok(()), |why| Err(Unsuccessful(why).into()))
}

/// What is known of jobs, whatever mailbox their replies go to and whatever time their ids say.
struct Looked {
    ended: HashMap<JobId, JobResult>,
    unknown: BTreeSet<JobId>,
}

async fn look_for(producer: &Producer, regions: &[Region], jobs: BTreeSet<JobId>) -> anyhow::Result<Looked> {
    let client = producer.client();
    let ended = log::results_of(client, &jobs, None).await?;
    let mut unknown: BTreeSet<JobId> = jobs.into_iter().filter(|job| !ended.contains_key(job)).collect();
    for region in regions {
        for job in unknown.clone() {
            if delayed::find(client, region, job).await?.is_some() {
                unknown.remove(&job);
            }
        }
        if unknown.is_empty() {
            break;
        }
        for (stream, region) in log::streams(Source::Jobs, std::slice::from_ref(region)) {
            let selection = Selection { jobs: unknown.clone(), ..Selection::default() };
            log::read(client, Source::Jobs, (&stream, region.as_ref()), &selection, |entry| {
                if let Some(job) = entry.job {
                    unknown.remove(&job);
                }
                !unknown.is_empty()
            })
            .await?;
        }
    }
    // It may have ended, and its job been trimmed, between the two looks.
    let late = log::results_of(client, &unknown, None).await?;
    unknown.retain(|job| !late.contains_key(job));
    Ok(Looked { ended: ended.into_iter().chain(late).collect(), unknown })
}

fn tell_end(result: &JobResult, json: bool) -> anyhow::Result<()> {
    if json { output::json(result) } else { output::line(line(result)) }
}

fn silent(error: &producer::WaitError, mailbox: &Mailbox) -> String {
    format!(
        "{error}; it has not ended yet (looked in mailbox `{mailbox}`; a job that waits for a pool ends when it is its turn)"
    )
}

/// Results are looked for from here on: a job's id says when it was made, if it is of version 7.
fn made_at(job: JobId) -> Micros {
    job.made_at().map_or(Micros::default(), |made| made.min(SystemClock.now()))
}

fn line(result: &JobResult) -> String {
    let cost = format!("cost ${}", result.cost_usd);
    match result.status {
        Status::Cancelled => format!("{} cancelled, {cost}", result.job),
        Status::Succeeded | Status::Failed | Status::Expired => {
            format!("{} had ended: {}, {cost}", result.job, result.status.as_str())
        }
    }
}
