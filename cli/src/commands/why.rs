//! `beacon why`: where a job is, and which gate keeps it from each pool.

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt as _;
use producer::{
    Producer, log,
    replay::{Selection, Source},
};
use schemas::{
    JobId, Mailbox, Micros, Region, Tenant,
    reply::JobResult,
    subjects,
    time::Clock as _,
    why::{Gate, Place, WhyAnswer, WhyAsk},
};
use serde::Serialize;
use transport::{SystemClock, delayed};

use crate::{
    args::Why,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
    shown::span,
    table::table,
};

/// How long dispatchers may take to answer; there is no telling how many there are.
const ANSWERS_WITHIN: Duration = Duration::from_millis(700);

/// An id may be made by a host whose clock is ahead.
const CLOCKS_DIFFER: Duration = Duration::from_secs(600);

/// All that was found.
#[derive(Debug, Serialize)]
struct Found {
    job: JobId,
    state: State,
    /// One per dispatcher of the region that answered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dispatchers: Vec<WhyAnswer>,
}

/// Where the job is, by all that is known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It has ended.
    Ended(Box<JobResult>),
    /// It waits for its time.
    Delayed { until: Micros },
    /// A dispatcher has it.
    Held,
    /// It waits in its stream, behind others.
    Queued { stream: String, seq: u64, stored: Micros, behind: u64 },
    /// It was delivered, and nobody says that they have it: its holder works on it, or died and it comes again.
    Out { stream: String, seq: u64, stored: Micros },
}

/// Looks in the log, the replies and the delayed jobs, and asks the dispatchers.
pub(crate) async fn run(args: Why, session: Session) -> anyhow::Result<()> {
    let producer = session.producer(&Tenant::default(), &Mailbox::default()).await?;
    let work = async {
        let found = explain(&args, &session, &producer).await?;
        if session.json {
            return output::json(&found);
        }
        lines(&found, SystemClock.now()).into_iter().try_for_each(output::line)
    };
    let outcome = session.unless_interrupted(work).await;
    producer.close().await;
    outcome
}

async fn explain(args: &Why, session: &Session, producer: &Producer) -> anyhow::Result<Found> {
    let job = args.job;
    let tenant = match &args.tenant {
        Some(tenant) => Some(tenant.clone()),
        None => owner(job, session, producer).await?,
    };
    // What is not found since then is looked for in everything.
    for since in made_at(job).map(Some).into_iter().chain([None]) {
        if let Some(found) = find((job, tenant.as_ref()), since, session, producer).await? {
            return Ok(found);
        }
    }
    let whose = args.tenant.as_ref().map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
    Err(Unsuccessful(format!(
        "job {job}{whose} is in no stream: it was never accepted, or it ended longer ago than results and logs are kept"
    ))
    .into())
}

/// Whose the job is, as far as the streams say. An id that several tenants use is refused.
async fn owner(job: JobId, session: &Session, producer: &Producer) -> anyhow::Result<Option<Tenant>> {
    let jobs = BTreeSet::from([job]);
    let owners = producer.owners(&session.config.topology.regions, &jobs).await?;
    let mut tenants = owners.into_values().next().unwrap_or_default();
    // The job log may hold one of them no more.
    tenants.extend(log::owners_of_results(producer.client(), job, made_at(job)).await?);
    if tenants.len() > 1 {
        let names = tenants.iter().map(Tenant::as_str).collect::<Vec<_>>().join(", ");
        let text =
            format!("job {job}: tenants {names} each have a job of that id; say whose is meant (--tenant)");
        return Err(Usage(text).into());
    }
    Ok(tenants.into_iter().next())
}

/// Nothing of a job is older than its id, if the clock of whoever made that was right.
fn made_at(job: JobId) -> Option<Micros> {
    job.made_at().map(|at| at.min(SystemClock.now()) - CLOCKS_DIFFER)
}

/// Looks for a job in everything that was stored since then.
async fn find(
    (job, tenant): (JobId, Option<&Tenant>),
    since: Option<Micros>,
    session: &Session,
    producer: &Producer,
) -> anyhow::Result<Option<Found>> {
    let client = producer.client();
    let ended = log::results_of(client, tenant, &BTreeSet::from([job]), since).await?.remove(&job);
    if let Some(result) = ended {
        return Ok(Some(Found { job, state: State::Ended(Box::new(result)), dispatchers: Vec::new() }));
    }
    for region in &session.config.topology.regions {
        if let Some(delayed) = delayed::find(client, region, (job, tenant)).await?.first() {
            let state = State::Delayed { until: delayed.at };
            return Ok(Some(Found { job, state, dispatchers: Vec::new() }));
        }
        let Some(entry) = in_log(client, region, (job, tenant), since).await? else { continue };
        let Some(subject) = entry.subject.clone() else { continue };
        let body = entry.body().unwrap_or_default();
        let ask = WhyAsk {
            job,
            subject: subject.clone(),
            routing: body.routing,
            deadline_us: body.deadline.map(Micros::from),
            max_cost_usd: body.max_cost_usd,
        };
        let dispatchers = ask_all(client, region, &ask).await?;
        let held = dispatchers.iter().any(|answer| !matches!(answer.place, Place::Elsewhere { .. }));
        let delivered = log::delivered(client, &subject).await?;
        let (stream, seq, stored) = (entry.stream, entry.seq, entry.at);
        let state = if held {
            State::Held
        } else if seq > delivered {
            let behind = log::between(client, &subject, delivered, seq).await?;
            State::Queued { stream, seq, stored, behind }
        } else {
            State::Out { stream, seq, stored }
        };
        return Ok(Some(Found { job, state, dispatchers }));
    }
    Ok(None)
}

/// Finds the job's message. Its id is no subject, so the log is read; that is as fast as the server delivers.
async fn in_log(
    client: &async_nats::Client,
    region: &Region,
    (job, tenant): (JobId, Option<&Tenant>),
    since: Option<Micros>,
) -> anyhow::Result<Option<log::Entry>> {
    let selection =
        Selection { jobs: BTreeSet::from([job]), tenant: tenant.cloned(), since, ..Selection::default() };
    let mut found = None;
    for (stream, region) in log::streams(Source::Jobs, std::slice::from_ref(region)) {
        log::read(client, Source::Jobs, (&stream, region.as_ref()), &selection, |entry| {
            if entry.job == Some(job) {
                found = Some(entry);
            }
            found.is_none()
        })
        .await?;
    }
    Ok(found)
}

async fn ask_all(
    client: &async_nats::Client,
    region: &Region,
    ask: &WhyAsk,
) -> anyhow::Result<Vec<WhyAnswer>> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(subjects::why(region), inbox, serde_json::to_vec(ask)?.into()).await?;
    let mut found: Vec<WhyAnswer> = Vec::new();
    let gather = async {
        while let Some(message) = answers.next().await {
            // Nobody listens: the server says so at once.
            if message.status.is_some() {
                break;
            }
            if let Ok(answer) = serde_json::from_slice::<WhyAnswer>(&message.payload) {
                found.push(answer);
            }
        }
    };
    // Time up is how this ends while there are dispatchers.
    let _ = tokio::time::timeout(ANSWERS_WITHIN, gather).await;
    found.sort_by(|a, b| a.dispatcher.cmp(&b.dispatcher));
    Ok(found)
}

fn lines(found: &Found, now: Micros) -> Vec<String> {
    let job = found.job;
    let mut lines = Vec::new();
    let ago = |at: Micros| span(now.since(at));
    match &found.state {
        State::Ended(result) => {
            let why = result.error.as_ref().map_or_else(String::new, |f| format!(": {} ({})", f.message, f.class));
            lines.push(format!("job {job} ended {} {} ago{why}", result.status.as_str(), ago(result.finished_us)));
        }
        State::Delayed { until } => {
            lines.push(format!("job {job} waits for its time, {until}, in {}", span(until.since(now))));
        }
        State::Held => {}
        State::Queued { stream, seq, stored, behind } => lines.push(format!(
            "job {job} waits in {stream} (number {seq}, stored {} ago) behind {behind} of its model and lane",
            ago(*stored)
        )),
        State::Out { stream, seq, stored } => lines.push(format!(
            "job {job} was taken from {stream} (number {seq}, stored {} ago) and no dispatcher that answers has it: its \
             worker is at it, or has died and it is delivered again after lease.ack_wait",
            ago(*stored)
        )),
    }
    let mut gates: &[Gate] = &[];
    for answer in &found.dispatchers {
        let text = place(&answer.place, now);
        if !text.is_empty() {
            lines.push(format!("job {job} {text} (dispatcher {})", answer.dispatcher));
        }
        if gates.is_empty() || !matches!(answer.place, Place::Elsewhere { .. }) {
            gates = &answer.gates;
        }
    }
    let running = found.dispatchers.iter().any(|a| matches!(a.place, Place::Running { .. }));
    if matches!(found.state, State::Held | State::Queued { .. } | State::Out { .. }) && !running {
        if found.dispatchers.is_empty() {
            lines.push("no dispatcher of its region answers; start one, or look at the log of the one there should be".into());
        } else if gates.is_empty() {
            lines.push("no pool that was ever heard of serves its model; start a worker".into());
        } else {
            lines.push(gate_table(gates, now));
        }
    }
    lines
}

fn place(place: &Place, now: Micros) -> String {
    match place {
        Place::Elsewhere { .. } => String::new(),
        Place::Waiting { since_us, others, own, wait_us, rests_us, retry_budget, attempts } => {
            let mut text = format!("waits for {}", span(now.since(*since_us)));
            if *others > 0 {
                text = format!("{text}, with {others} others in its line, {own} of them its own tenant's");
            }
            if let Some(wait) = wait_us.filter(|_| *others > 0) {
                text = format!("{text}; the line takes about {}", span(Duration::from_micros(wait)));
            }
            if let Some(rests) = rests_us.filter(|rests| *rests > 0) {
                text = format!(
                    "{text}; rests for {} before it goes back to a pool that failed it",
                    span(Duration::from_micros(rests))
                );
            }
            if *retry_budget {
                text += "; the retry budget of its region is used up, so that failures do not multiply load";
            }
            if *attempts > 0 {
                text = format!("{text}; {attempts} attempts were made");
            }
            text
        }
        Place::Offered { pool } => format!("is offered to {pool}"),
        Place::Running { pool, worker, since_us, usual_us, hedged } => format!(
            "runs at {pool} (worker {worker}) for {}, where 95 of 100 take at most {}{}",
            span(now.since(*since_us)),
            span(Duration::from_micros(*usual_us)),
            if *hedged { "; a second attempt runs beside it" } else { "" }
        ),
        Place::LookedUp => "was delivered again; its result or journal is being looked for".into(),
    }
}

fn gate_table(gates: &[Gate], now: Micros) -> String {
    let rows: Vec<[String; 5]> = gates
        .iter()
        .map(|gate| {
            let opens = gate.until_us.map_or_else(String::new, |at| format!("in {}", span(at.since(now))));
            let word = gate.refused.map_or("open", schemas::decision::Refusal::as_str);
            [gate.pool.to_string(), word.to_owned(), gate.value.clone(), gate.limit.clone(), opens]
        })
        .collect();
    table(["pool", "gate", "now", "limit", "opens"], &[], &rows).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_held_by_a_budget_says_so() {
        let now = Micros::new(1_795_000_000_000_000);
        let answer: WhyAnswer = serde_json::from_value(serde_json::json!({
            "dispatcher": "d1",
            "place": {"waiting": {"since_us": 1_794_999_990_000_000_u64, "others": 0, "own": 0, "attempts": 0}},
            "gates": [{
                "pool": {"region": "us-east", "provider": "modal"}, "refused": "budget",
                "value": "$25 taken, $0.0003 needed", "limit": "$25 per day for tenant acme",
                "until_us": 1_795_003_600_000_000_u64
            }]
        }))
        .unwrap();
        let job = "0198c0de-0000-7000-8000-000000000001".parse().unwrap();
        let text = lines(&Found { job, state: State::Held, dispatchers: vec![answer] }, now).join("\n");
        for part in
            ["waits for 10.0 s", "modal@us-east", "budget", "$25 taken", "tenant acme", "in 1 h 0 min"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
