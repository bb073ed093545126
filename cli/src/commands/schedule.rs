//! `beacon schedule`: jobs that come again and again, and all that waits for its time.

use schemas::{
    Mailbox, Micros, Region,
    job::{JobBody, Message},
    recurring::Recurring,
    subjects::JobSubject,
    time::Clock as _,
};
use serde_json::json;
use transport::SystemClock;

use crate::{
    args::{Schedule, ScheduleAdd, ScheduleList, ScheduleRemove},
    exit::{Unsuccessful, Usage},
    named, output,
    session::Session,
    table::table,
};

/// Runs shown of each timetable.
const NEXT_RUNS: usize = 3;
/// As much of a prompt as fits a line.
const SNIPPET: usize = 40;

/// Adds, lists or removes.
pub(crate) async fn run(args: Schedule, session: Session) -> anyhow::Result<()> {
    let work = async {
        match args {
            Schedule::Add(args) => add(*args, &session).await,
            Schedule::List(args) => list(args, &session).await,
            Schedule::Remove(args) => remove(args, &session).await,
        }
    };
    session.unless_interrupted(work).await
}

async fn add(args: ScheduleAdd, session: &Session) -> anyhow::Result<()> {
    let now = SystemClock.now();
    if args.prompt.trim().is_empty() {
        return Err(Usage("PROMPT must not be empty".into()).into());
    }
    let message = Message { role: "user".into(), content: args.prompt };
    let job = Recurring {
        name: args.name,
        cron: args.cron,
        zone: args.zone,
        missed: args.missed,
        start_within_us: args.start_within.map(|span| schemas::time::micros(span.get())),
        subject: JobSubject {
            region: named::region(args.place.region.as_ref(), &session.config.topology)?,
            model: named::model(args.place.model.as_deref(), &session.config.topology)?,
            lane: args.place.lane,
            tenant: args.place.tenant,
        },
        body: JobBody {
            messages: Some(vec![message]),
            mailbox: Some(args.place.mailbox.to_string()),
            ..JobBody::default()
        },
        since_us: now,
    };
    job.check().map_err(|error| Usage(error.to_string()))?;
    let producer = session.producer(job.tenant(), &Mailbox::default()).await?;
    if args.replace {
        producer.remove_recurring(&job.name).await?;
    }
    let added = producer.add_recurring(&job).await;
    producer.close().await;
    added?;
    let runs = next_runs(&job, now)?;
    if session.json {
        return output::json(&json!({ "recurring": job, "next_us": runs }));
    }
    output::line(format!("{} runs next at {}", job.name, texts(&runs)))
}

fn next_runs(job: &Recurring, now: Micros) -> anyhow::Result<Vec<Micros>> {
    Ok(job.timetable()?.after(now).take(NEXT_RUNS).collect())
}

fn texts(runs: &[Micros]) -> String {
    let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
    if runs.is_empty() { "-".to_owned() } else { runs.join(", ") }
}

async fn list(args: ScheduleList, session: &Session) -> anyhow::Result<()> {
    let producer = session.producer(&args.tenant, &Mailbox::default()).await?;
    let regions: Vec<Region> = match &args.region {
        Some(region) => vec![named::region(Some(region), &session.config.topology)?],
        None => session.config.topology.regions.clone(),
    };
    let recurring = producer.recurring().await?;
    let mut delayed = Vec::new();
    for region in &regions {
        delayed.extend(producer.delayed(region).await?);
    }
    producer.close().await;
    let now = SystemClock.now();
    if session.json {
        for job in &recurring {
            output::json(&json!({ "recurring": job, "next_us": next_runs(job, now)? }))?;
        }
        for job in &delayed {
            output::json(&json!({
                "job": job.job, "subject": job.subject, "due_us": job.at, "stored_us": job.stored,
            }))?;
        }
        return Ok(());
    }
    let rows: Vec<[String; 5]> = recurring
        .iter()
        .map(|job| {
            Ok([
                job.name.to_string(),
                format!("{} ({})", job.cron, job.zone),
                job.missed.to_string(),
                texts(&next_runs(job, now)?),
                snippet(&job.body),
            ])
        })
        .collect::<anyhow::Result<_>>()?;
    if !rows.is_empty() {
        output::line(table(["recurring", "when", "missed", "next runs", "prompt"], &[], &rows).to_string())?;
    }
    delayed.sort_by_key(|job| job.at);
    let rows: Vec<[String; 3]> = delayed
        .iter()
        .map(|job| [job.job.to_string(), job.at.to_string(), job.subject.to_string()])
        .collect();
    if !rows.is_empty() {
        output::line(table(["waits", "until", "subject"], &[], &rows).to_string())?;
    }
    if recurring.is_empty() && delayed.is_empty() {
        session.say("nothing waits for its time");
    }
    Ok(())
}

fn snippet(body: &JobBody) -> String {
    let messages = body.messages.iter().flatten().map(|m| m.content.as_str());
    let text = messages.chain(body.prompt.as_deref()).collect::<Vec<_>>().join(" ");
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > SNIPPET {
        line = line.chars().take(SNIPPET).collect();
        line.push('…');
    }
    line
}

async fn remove(args: ScheduleRemove, session: &Session) -> anyhow::Result<()> {
    let producer = session.producer(&args.tenant, &Mailbox::default()).await?;
    let removed = producer.remove_recurring(&args.name).await;
    producer.close().await;
    if removed? {
        session.say(format!("{} does not come again", args.name));
        Ok(())
    } else {
        Err(Unsuccessful(format!("there is no recurring job `{}` of tenant `{}`", args.name, args.tenant))
            .into())
    }
}
