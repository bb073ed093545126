//! `beacon submit`: one job, or a file of OpenAI batch lines; with `--wait` their results.

use std::{io::Read as _, path::Path, time::Duration};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use producer::{
    JobRequest, Producer, Ticket, Unique,
    lines::{self, CUSTOM_ID},
    request::new_job_id,
};
use schemas::{
    Codec, Micros, ModelToken, Region,
    job::{JobBody, Message},
    reply::{JobResult, Status},
    time::Clock as _,
};
use serde_json::json;
use transport::SystemClock;

use crate::{
    args::Submit,
    exit::{Unsuccessful, Usage},
    named, output,
    session::Session,
};

/// Jobs on their way at a time: enough to hide the round trip, and few enough that a refusal stops us early.
const SUBMITTING: usize = 256;
/// Jobs waited for at a time. Each holds one entry in memory; the rest of the file waits its turn.
const WAITING: usize = 4_096;

/// A job with the name its person gave it.
struct Named {
    custom_id: Option<String>,
    request: JobRequest,
}

/// Submits, and waits if asked to.
pub(crate) async fn run(args: Submit, session: Session) -> anyhow::Result<()> {
    let mut jobs = jobs(&args, &session)?;
    set_times(&mut jobs, &args)?;
    let producer = session.producer(&args.place.tenant, &args.place.mailbox).await?;
    let work = async {
        if let (Some(key), Some(job)) = (&args.unique_key, jobs.first()) {
            let unique = Unique { key: key.clone(), period: args.unique_for.get() };
            let ticket = producer.submit_unique(&unique, &job.request).await?;
            return print_ticket(&ticket, None, session.json);
        }
        if args.wait {
            wait_for_all(&producer, jobs, args.timeout.get(), session.json).await
        } else {
            submit_all(&producer, jobs, session.json).await
        }
    };
    let outcome = session.unless_interrupted(work).await;
    producer.close().await;
    outcome
}

/// Everything that was asked for, checked, before anything is sent.
fn jobs(args: &Submit, session: &Session) -> anyhow::Result<Vec<Named>> {
    let topology = &session.config.topology;
    let region = named::region(args.place.region.as_ref(), topology)?;
    let Some(file) = &args.file else {
        let token = named::model(args.place.model.as_deref(), topology)?;
        let prompt = args.prompt.clone().unwrap_or_default();
        if prompt.trim().is_empty() {
            return Err(Usage("PROMPT must not be empty".into()).into());
        }
        return Ok(vec![one(prompt, token, region, args)]);
    };
    let (text, name) = read(file)?;
    let lines = lines::read(&text, &name, &topology.catalog).map_err(|error| Usage(error.to_string()))?;
    let named = lines.into_iter().map(|line| Named {
        custom_id: Some(line.custom_id.clone()),
        request: line.request(new_job_id(), region.clone(), args.place.lane),
    });
    Ok(named.collect())
}

/// When each is to run, and by when it must have started.
fn set_times(jobs: &mut [Named], args: &Submit) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let at = match (args.delay, args.at) {
        (Some(delay), _) => Some(now + delay.get()),
        (None, Some(at)) if Micros::from(at.to_utc()) <= now => {
            return Err(Usage(format!("--at {at} has passed")).into());
        }
        (None, at) => at.map(|at| Micros::from(at.to_utc())),
    };
    let deadline = args.deadline.map(|span| (at.unwrap_or(now) + span.get()).to_datetime());
    for job in jobs {
        job.request.body.run_at = at.map(Micros::to_datetime);
        job.request.body.deadline = deadline;
    }
    Ok(())
}

fn one(prompt: String, model: ModelToken, region: Region, args: &Submit) -> Named {
    let message = Message { role: "user".into(), content: prompt };
    let body =
        JobBody { id: Some(new_job_id().to_string()), messages: Some(vec![message]), ..JobBody::default() };
    let request =
        JobRequest { region, model, lane: args.place.lane, codec: Codec::Json, traceparent: None, body };
    Named { custom_id: None, request }
}

fn read(file: &Path) -> anyhow::Result<(String, String)> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok((text, "standard input".into()));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| Usage(format!("--file {}: {error}", file.display())))?;
    Ok((text, file.display().to_string()))
}

fn print_ticket(ticket: &Ticket, custom_id: Option<&str>, json: bool) -> anyhow::Result<()> {
    if !json {
        return output::line(ticket.job.to_string());
    }
    output::json(&json!({
        "job": ticket.job, "custom_id": custom_id, "seq": ticket.seq, "due_us": ticket.due,
        "duplicate": ticket.duplicate,
    }))
}

/// Prints each job's id as it is accepted, in the order of the file.
async fn submit_all(producer: &Producer, jobs: Vec<Named>, json: bool) -> anyhow::Result<()> {
    let all = jobs.len();
    let mut accepted = stream::iter(jobs)
        .map(async |job| (producer.submit(&job.request).await, job.custom_id))
        .buffered(SUBMITTING);
    let mut count = 0;
    while let Some((ticket, custom_id)) = accepted.next().await {
        let ticket =
            ticket.with_context(|| format!("{count} of {all} jobs were accepted; the next was not"))?;
        count += 1;
        print_ticket(&ticket, custom_id.as_deref(), json)?;
    }
    Ok(())
}

/// Prints each result as it comes.
async fn wait_for_all(
    producer: &Producer,
    jobs: Vec<Named>,
    timeout: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let (all, alone) = (jobs.len(), jobs.iter().all(|job| job.custom_id.is_none()));
    let mut results = stream::iter(jobs)
        .map(async |job| producer.submit_and_wait(&job.request, timeout).await)
        .buffer_unordered(WAITING);
    let (mut good, mut trouble) = (0, None);
    while let Some(result) = results.next().await {
        match result {
            Ok(result) => {
                if result.status == Status::Succeeded {
                    good += 1;
                } else {
                    trouble.get_or_insert_with(|| why(&result));
                }
                print(&result, alone, json)?;
            }
            Err(error) => {
                trouble.get_or_insert_with(|| error.to_string());
            }
        }
    }
    match trouble {
        None => Ok(()),
        Some(why) if alone => Err(Unsuccessful(why).into()),
        Some(why) => {
            Err(Unsuccessful(format!("{good} of {all} jobs succeeded; the first that did not: {why}")).into())
        }
    }
}

fn print(result: &JobResult, alone: bool, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(result);
    }
    let text = result.output.as_ref().map(|output| output.text.as_str());
    match (alone, text) {
        (true, Some(text)) => output::line(text),
        // The error line says it.
        (true, None) => Ok(()),
        (false, text) => {
            let id = result.labels.get(CUSTOM_ID).cloned().unwrap_or_else(|| result.job.to_string());
            let text = text.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            output::line(format!("{id}\t{}\t{text}", result.status.as_str()))
        }
    }
}

/// Why a job did not succeed, with its name.
fn why(result: &JobResult) -> String {
    let cause = match &result.error {
        Some(failure) => format!("{}: {}", failure.class, failure.message),
        None => "no reason was given".to_owned(),
    };
    format!("job {} {} after {} attempts: {cause}", result.job, result.status.as_str(), result.attempts)
}
