//! `beacon dead`: jobs that will not be tried again, grouped by their failure.

use producer::{
    Producer,
    log::{self, Entry},
    replay::{Selection, Source, fingerprint, group},
};
use schemas::{Mailbox, Tenant, journal::Trace, topology::DEAD};
use serde_json::json;

use crate::{
    args::{Dead, DeadList, DeadPurge, DeadShow},
    confirm::confirm,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
    table::table,
};

/// As much of a message as fits a line.
const SNIPPET: usize = 70;

/// Lists, shows or purges.
pub(crate) async fn run(args: Dead, session: Session) -> anyhow::Result<()> {
    let producer = session.producer(&Tenant::default(), &Mailbox::try_from("dead-none")?).await?;
    let work = async {
        match args {
            Dead::List(args) => list(&args, &producer, &session).await,
            Dead::Show(args) => show(&args, &producer, &session).await,
            Dead::Purge(args) => purge(&args, &producer, &session).await,
        }
    };
    let outcome = session.unless_interrupted(work).await;
    producer.close().await;
    outcome
}

/// The letters that are meant; without their bodies unless `whole`.
async fn letters(producer: &Producer, selection: &Selection, whole: bool) -> anyhow::Result<Vec<Entry>> {
    let mut found = Vec::new();
    log::read(producer.client(), Source::Dead, (DEAD, None), selection, |mut entry| {
        if selection.matches(&entry) {
            if !whole {
                entry.payload = entry.payload.slice(..0);
            }
            found.push(entry);
        }
        true
    })
    .await?;
    Ok(found)
}

async fn list(args: &DeadList, producer: &Producer, session: &Session) -> anyhow::Result<()> {
    let found = letters(producer, &args.selecting.selection(&[], &session.config.topology)?, false).await?;
    if args.each {
        for entry in &found {
            line(entry, session)?;
        }
        return Ok(());
    }
    let groups = group(&found);
    if session.json {
        return groups.iter().try_for_each(output::json);
    }
    if groups.is_empty() {
        session.say("no dead letters");
        return Ok(());
    }
    let rows: Vec<[String; 6]> = groups
        .iter()
        .map(|g| {
            [
                g.fingerprint.clone(),
                g.count.to_string(),
                g.class.to_string(),
                g.provider.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                format!("{} to {}", g.first_us, g.last_us),
                snippet(&g.message),
            ]
        })
        .collect();
    let header = ["group", "count", "class", "provider", "first to last", "newest message"];
    output::line(table(header, &[1], &rows).to_string())
}

fn snippet(text: &str) -> String {
    let mut short: String = text.chars().take(SNIPPET).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn line(entry: &Entry, session: &Session) -> anyhow::Result<()> {
    let Some(letter) = &entry.obituary else { return Ok(()) };
    let group = fingerprint(letter);
    if session.json {
        return output::json(&json!({ "seq": entry.seq, "fingerprint": group, "letter": letter }));
    }
    let job = entry.job.map_or_else(|| "-".to_owned(), |job| job.to_string());
    output::line(format!(
        "{}  {group}  {job}  {}  {}",
        letter.at_us,
        letter.failure.class,
        snippet(&letter.failure.message)
    ))
}

async fn show(args: &DeadShow, producer: &Producer, session: &Session) -> anyhow::Result<()> {
    let selection = match args.what.parse() {
        Ok(job) => Selection { jobs: [job].into(), ..Selection::default() },
        Err(_) => Selection { fingerprint: Some(args.what.clone()), ..Selection::default() },
    };
    let found = letters(producer, &selection, args.body).await?;
    if found.is_empty() {
        return Err(Unsuccessful(format!("no dead letter is job or group `{}`", args.what)).into());
    }
    for entry in found.iter().rev().take(args.most as usize) {
        if session.json {
            output::json(&json!({
                "seq": entry.seq, "stored_us": entry.at, "letter": entry.obituary,
                "body": args.body.then(|| String::from_utf8_lossy(&entry.payload).into_owned()),
            }))?;
        } else {
            whole(entry, args.body)?;
        }
    }
    if found.len() > args.most as usize {
        session.say(format!("the newest {} of {}; --most shows more", args.most, found.len()));
    }
    Ok(())
}

fn whole(entry: &Entry, body: bool) -> anyhow::Result<()> {
    let Some(letter) = &entry.obituary else { return Ok(()) };
    let job = entry.job.map_or_else(|| "no id".to_owned(), |job| job.to_string());
    output::line(format!("{job}  (group {}, sequence {})", fingerprint(letter), entry.seq))?;
    output::line(format!(
        "  published on  {}, {} sequence {}",
        letter.subject, letter.stream, letter.stream_seq
    ))?;
    output::line(format!("  given up      {}, delivered {} times", letter.at_us, letter.delivered))?;
    output::line(format!("  because       {}: {}", letter.failure.class, letter.failure.message))?;
    for attempt in &letter.journal.entries {
        let what = match &attempt.trace {
            Trace::Started { .. } => "began; nothing more is known".to_owned(),
            Trace::Running { run, .. } => format!("run {run}; its end is not known"),
            Trace::Failed { failure, cost_usd } => {
                format!("{}: {}, ${cost_usd}", failure.class, failure.message)
            }
        };
        output::line(format!(
            "  attempt {:<5} {} at {}  {what}",
            attempt.attempt, attempt.pool, attempt.started_us
        ))?;
    }
    if body {
        output::line(format!("  body          {}", String::from_utf8_lossy(&entry.payload)))?;
    }
    Ok(())
}

async fn purge(args: &DeadPurge, producer: &Producer, session: &Session) -> anyhow::Result<()> {
    let selection = args.selecting.selection(&args.jobs, &session.config.topology)?;
    if selection.is_empty() && !args.all {
        return Err(Usage("nothing says which letters: give ids, a filter, or --all".into()).into());
    }
    let found = letters(producer, &selection, false).await?;
    if found.is_empty() {
        session.say("no dead letter is meant");
        return Ok(());
    }
    confirm(&format!("delete {} dead letters for good", found.len()), args.yes)?;
    for entry in &found {
        log::delete_letter(producer.client(), entry.seq).await?;
    }
    if session.json {
        return output::json(&json!({ "purged": found.len() }));
    }
    output::line(format!("{} dead letters deleted", found.len()))
}
