//! `beacon cancel`: takes jobs back, by id or by what they have in common.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt as _, stream};
use producer::{
    Producer,
    cancel::TakenBack,
    log,
    replay::{Selection, Source},
};
use schemas::{
    JobId, Mailbox, Micros, Region, Tenant,
    cancel::{Filter, Target},
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
    let work = async {
        let whose = whose(&args, &session).await?;
        let tenant = whose.of_wait(args.wait)?.unwrap_or_default();
        let producer = session.producer(&tenant, &args.mailbox.clone().unwrap_or_default()).await?;
        let outcome = cancel(&args, targets, &whose, &session, &producer).await;
        producer.close().await;
        outcome
    };
    session.unless_interrupted(work).await
}

async fn cancel(
    args: &Cancel,
    targets: Vec<Target>,
    whose: &Whose,
    session: &Session,
    producer: &Producer,
) -> anyhow::Result<()> {
    let regions = &session.config.topology.regions;
    let mut orders = stream::iter(targets)
        .map(async |target| match target {
            Target::Job(job) => {
                let order = producer.cancel_of(whose.tenant(job), regions, job, &args.reason).await?;
                anyhow::Ok(TakenBack { order, delayed: 0 })
            }
            Target::Matching(filter) => Ok(producer.cancel_matching(regions, filter, &args.reason).await?),
        })
        .buffered(AT_ONCE);
    while let Some(order) = orders.next().await {
        let taken = order?;
        if !args.wait {
            tell(&taken, session.json)?;
        }
    }
    drop(orders);
    if args.wait { wait_for(producer, args, whose.of_wait(true)?, session).await } else { Ok(()) }
}

/// Whose the named jobs are.
enum Whose {
    /// All of this tenant, as the caller says.
    Said(Tenant),
    /// As the streams say. Jobs that are in none of them are missing.
    Found(HashMap<JobId, Tenant>),
}

impl Whose {
    fn tenant(&self, job: JobId) -> Option<&Tenant> {
        match self {
            Self::Said(tenant) => Some(tenant),
            Self::Found(tenants) => tenants.get(&job),
        }
    }

    /// The one tenant whose results are waited for, as far as it is known.
    fn of_wait(&self, wait: bool) -> Result<Option<Tenant>, Usage> {
        let tenants = match self {
            Self::Said(tenant) => return Ok(Some(tenant.clone())),
            Self::Found(tenants) => tenants.values().collect::<BTreeSet<_>>(),
        };
        if wait && tenants.len() > 1 {
            let names: Vec<&str> = tenants.into_iter().map(Tenant::as_str).collect();
            let names = names.join(", ");
            return Err(Usage(format!(
                "the jobs are of tenants {names}: wait for one tenant's (--tenant) at a time"
            )));
        }
        Ok(tenants.into_iter().next().cloned())
    }
}

/// Finds out whose the named jobs are, where the caller does not say. An id that several tenants use is refused.
async fn whose(args: &Cancel, session: &Session) -> anyhow::Result<Whose> {
    match &args.tenant {
        Some(tenant) => return Ok(Whose::Said(tenant.clone())),
        None if args.jobs.is_empty() => return Ok(Whose::Said(Tenant::default())),
        None => {}
    }
    let producer = session.producer(&Tenant::default(), &Mailbox::default()).await?;
    let jobs = args.jobs.iter().copied().collect();
    let owners = producer.owners(&session.config.topology.regions, &jobs).await;
    producer.close().await;
    let mut found = HashMap::new();
    for (job, tenants) in owners? {
        if tenants.len() > 1 {
            let names = tenants.iter().map(Tenant::as_str).collect::<Vec<_>>().join(", ");
            let text = format!(
                "job {job}: tenants {names} each have a job of that id; say whose is meant (--tenant)"
            );
            return Err(Usage(text).into());
        }
        found.extend(tenants.into_iter().next().map(|tenant| (job, tenant)));
    }
    Ok(Whose::Found(found))
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
    let tenant = Some(args.tenant.clone().unwrap_or_default());
    Ok(vec![Target::Matching(Filter { tenant, ..filter })])
}

fn tell(TakenBack { order, delayed }: &TakenBack, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(order);
    }
    match &order.target {
        Target::Job(job) => output::line(format!("{job} is taken back")),
        Target::Matching(_) => output::line(format!(
            "every job that matches and was accepted before {} is taken back, {delayed} of them before their time",
            order.at_us
        )),
    }
}

/// Waits for the result of each job. What has ended, or was never accepted, is not waited for: a look at the stored results and the job
/// log goes on beside the waiting, and says so.
async fn wait_for(
    producer: &Producer,
    args: &Cancel,
    tenant: Option<Tenant>,
    session: &Session,
) -> anyhow::Result<()> {
    let mailbox = args.mailbox.clone().unwrap_or_default();
    let mut ends = stream::iter(&args.jobs)
        .map(async |job| (*job, producer.wait(*job, made_at(*job), args.timeout.get()).await))
        .buffer_unordered(AT_ONCE);
    let mut open: BTreeSet<JobId> = args.jobs.iter().copied().collect();
    let regions = &session.config.topology.regions;
    let mut look = std::pin::pin!(look_for(producer, regions, tenant.as_ref(), open.clone()));
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

async fn look_for(
    producer: &Producer,
    regions: &[Region],
    tenant: Option<&Tenant>,
    jobs: BTreeSet<JobId>,
) -> anyhow::Result<Looked> {
    let client = producer.client();
    let ended = log::results_of(client, tenant, &jobs, None).await?;
    let mut unknown: BTreeSet<JobId> = jobs.into_iter().filter(|job| !ended.contains_key(job)).collect();
    for region in regions {
        for job in unknown.clone() {
            if !delayed::find(client, region, (job, tenant)).await?.is_empty() {
                unknown.remove(&job);
            }
        }
        if unknown.is_empty() {
            break;
        }
        for (stream, region) in log::streams(Source::Jobs, std::slice::from_ref(region)) {
            let selection =
                Selection { jobs: unknown.clone(), tenant: tenant.cloned(), ..Selection::default() };
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
    let late = log::results_of(client, tenant, &unknown, None).await?;
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
