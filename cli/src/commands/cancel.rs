//! `beacon cancel`: takes jobs back, by id or by what they have in common.

use futures_util::{StreamExt as _, stream};
use producer::Producer;
use schemas::{
    JobId, Mailbox, Micros,
    cancel::{Filter, Order, Target},
    reply::{JobResult, Status},
};

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
        if args.wait { wait_for(&producer, &args, session.json).await } else { Ok(()) }
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

async fn wait_for(producer: &Producer, args: &Cancel, json: bool) -> anyhow::Result<()> {
    let mailbox = args.mailbox.clone().unwrap_or_default();
    let mut ends = stream::iter(&args.jobs)
        .map(async |job| producer.wait(*job, made_at(*job), args.timeout.get()).await)
        .buffer_unordered(AT_ONCE);
    let mut late = None;
    while let Some(end) = ends.next().await {
        match end {
            Ok(result) if json => output::json(&result)?,
            Ok(result) => output::line(line(&result))?,
            Err(error) => drop(late.get_or_insert_with(|| silent(&error, &mailbox))),
        }
    }
    late.map_or(Ok(()), |why| Err(Unsuccessful(why).into()))
}

fn silent(error: &producer::WaitError, mailbox: &Mailbox) -> String {
    format!("{error} (looked in mailbox `{mailbox}`; a job that waits for a pool ends when it is its turn)")
}

/// A job's id says when it was made, to the millisecond, if it is of version 7; else all that is stored is looked at.
fn made_at(job: JobId) -> Micros {
    let made = job.uuid().get_timestamp().map(|t| t.to_unix());
    made.map_or(Micros::default(), |(seconds, nanos)| {
        Micros::new(seconds.saturating_mul(1_000_000).saturating_add(u64::from(nanos) / 1_000))
    })
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
