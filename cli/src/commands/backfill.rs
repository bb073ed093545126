//! `beacon backfill`: runs a file of jobs to its end, and looks after it from another terminal.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use producer::{
    Producer,
    backfill::{self, BackfillError, Checkpoint, Control, Ending, Estimate, Manifest, Options, Snapshot},
    lines::Defaults,
};
use schemas::{Mailbox, Tenant, UsdNanos};
use serde_json::json;

use crate::{
    args::{Backfill, BackfillOf, BackfillRun},
    exit::{Unsuccessful, Usage},
    named, output,
    session::Session,
};

/// Heartbeats come each second: so long, and every pool was heard.
const LISTEN: Duration = Duration::from_millis(1_500);

/// Lines named in a message.
const LOST_SHOWN: usize = 20;

/// Runs one, or asks something of one.
pub(crate) async fn run(args: Backfill, session: Session) -> anyhow::Result<()> {
    match args {
        Backfill::Run(args) => run_file(*args, &session).await,
        Backfill::Pause(of) => ask(&of, Control::Pause, &session).await,
        Backfill::Resume(of) => ask(&of, Control::Run, &session).await,
        Backfill::Cancel(of) => ask(&of, Control::Cancel, &session).await,
        Backfill::Status(of) => status(&of, &session),
    }
}

async fn run_file(args: BackfillRun, session: &Session) -> anyhow::Result<()> {
    let options = options(&args, session)?;
    if args.dry_run {
        return dry_run(&options, session).await;
    }
    let (tenant, folder) = (options.tenant.clone(), options.folder.clone());
    let mut backfill = backfill::Backfill::open(options).map_err(as_usage)?;
    // A pause ends with the process; a cancellation does not.
    if backfill.folder().asked() == Control::Pause {
        backfill::ask(&folder, Control::Run)?;
    }
    let producer = connect(session, &tenant).await?;
    let bar = bar(session, &backfill.snapshot());
    let mut tell = |snapshot: &Snapshot| {
        show(&bar, snapshot);
        if session.json {
            // A reader that went away must not stop the work.
            let _ = output::json(&json!({ "progress": snapshot }));
        }
    };
    let outcome = backfill.run(&producer, session.signals.shutdown(), &mut tell).await;
    bar.finish_and_clear();
    producer.close().await;
    conclude(outcome?, &backfill, session)
}

fn options(args: &BackfillRun, session: &Session) -> anyhow::Result<Options> {
    let topology = &session.config.topology;
    let about = std::fs::metadata(&args.file)
        .map_err(|error| Usage(format!("FILE {}: {error}", args.file.display())))?;
    if !about.is_file() {
        return Err(Usage(format!("FILE {} is no file", args.file.display())).into());
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    if name.is_empty() || name.len() > schemas::job::LABEL_LENGTH_MAX {
        let most = schemas::job::LABEL_LENGTH_MAX;
        return Err(Usage(format!("--name `{name}` must have 1 to {most} bytes")).into());
    }
    Ok(Options {
        folder: args.state.clone().unwrap_or_else(|| folder_of(&args.file)),
        file: args.file.clone(),
        name,
        tenant: args.tenant.clone(),
        region: named::region(args.region.as_ref(), &session.config.topology)?,
        model: args
            .model
            .as_deref()
            .map(|name| named::model(Some(name), &session.config.topology))
            .transpose()?,
        lane: args.lane,
        catalog: topology.catalog.clone(),
        regions: topology.regions.clone(),
        outstanding: args.outstanding as usize,
        max_cost: args.max_cost,
        listen: LISTEN,
    })
}

/// `prompts.jsonl` has its state in `prompts.jsonl.beacon`; a folder is itself.
fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".beacon");
    name.into()
}

/// What a person can set right by saying something else.
fn as_usage(error: BackfillError) -> anyhow::Error {
    match error {
        refused @ (BackfillError::Changed(_) | BackfillError::Foreign { .. } | BackfillError::Busy(_)) => {
            Usage(refused.to_string()).into()
        }
        other => other.into(),
    }
}

async fn connect(session: &Session, tenant: &Tenant) -> anyhow::Result<Producer> {
    // Its own results are read from the stream; what comes to this mailbox is nothing.
    session.producer(tenant, &Mailbox::try_from("bf-none")?).await
}

async fn dry_run(options: &Options, session: &Session) -> anyhow::Result<()> {
    let scratch = tempfile::NamedTempFile::new()?;
    let defaults =
        Defaults { catalog: &options.catalog, regions: &options.regions, model: options.model.clone() };
    let survey = backfill::survey(&options.file, scratch.path(), &defaults)
        .map_err(|error| Usage(format!("FILE {}: {error}", options.file.display())))?;
    let producer = connect(session, &options.tenant).await?;
    let quote = backfill::quote(&producer, options.listen).await;
    producer.close().await;
    let estimate = quote?.estimate(&survey);
    let bad = survey.bad + survey.doubles.len() as u64;
    if session.json {
        return output::json(&json!({ "estimate": estimate, "bad_lines": bad, "models": survey.models }));
    }
    let Estimate { jobs, from_usd, to_usd, hours, unserved } = estimate;
    output::line(format!("jobs      {jobs}"))?;
    output::line(format!("bad lines {bad}"))?;
    output::line(format!("dollars   {from_usd} to {to_usd}, at what pools expect now"))?;
    output::line(format!("hours     {hours:.2}, if nobody else uses the pools"))?;
    if !unserved.is_empty() {
        output::line(format!("no pool serves {} now: those jobs would wait", unserved.join(", ")))?;
    }
    Ok(())
}

fn bar(session: &Session, snapshot: &Snapshot) -> ProgressBar {
    if session.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = session.screen.bars.add(ProgressBar::new(snapshot.jobs).with_style(style));
    show(&bar, snapshot);
    bar
}

fn show(bar: &ProgressBar, snapshot: &Snapshot) {
    bar.set_position(snapshot.succeeded + snapshot.failed);
    let asked = match snapshot.asked {
        Control::Run => "",
        Control::Pause => "paused, ",
        Control::Cancel => "cancelling, ",
    };
    let to_go = snapshot.to_go_usd.map_or(String::new(), |usd| format!(" + {} to go", dollars(usd)));
    let left = snapshot.to_go_s.map_or(String::new(), |s| format!(", {} left", clock(s)));
    bar.set_message(format!(
        "{asked}{} running, {} failed, {}{to_go}{left}",
        snapshot.running,
        snapshot.failed,
        dollars(snapshot.spent_usd)
    ));
}

/// Dollars as far as a person cares while they run by.
fn dollars(amount: UsdNanos) -> String {
    format!("${:.4}", amount.get() as f64 / 1e9)
}

fn clock(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{:02}", seconds % 60)
    } else {
        format!("{minutes}:{:02}", seconds % 60)
    }
}

fn conclude(ending: Ending, backfill: &backfill::Backfill, session: &Session) -> anyhow::Result<()> {
    let (snapshot, folder) = (backfill.snapshot(), backfill.folder().path().display());
    let Snapshot { succeeded, failed, running, spent_usd, .. } = snapshot;
    if session.json {
        output::json(
            &json!({ "ending": format!("{ending:?}").to_lowercase(), "summary": snapshot, "folder": folder.to_string() }),
        )?;
    }
    let summary = format!("{succeeded} succeeded, {failed} failed, ${spent_usd}");
    match ending {
        Ending::Finished => {
            session.say(format!("{summary}; {folder}/results.jsonl"));
            if failed == 0 {
                return Ok(());
            }
            let mut text = format!(
                "{failed} lines failed; they are in {folder}/errors.jsonl and can be run again as they are"
            );
            if !backfill.lost().is_empty() {
                let shown: Vec<String> =
                    backfill.lost().iter().take(LOST_SHOWN).map(ToString::to_string).collect();
                let more = if backfill.lost().len() > LOST_SHOWN { ", …" } else { "" };
                text = format!(
                    "{text}; {} of them (lines {}{more}) ended, but REPLIES holds their results no more: they stand there as \
                     result_lost; run that file under another --name to get them",
                    backfill.lost().len(),
                    shown.join(", "),
                );
            }
            Err(Unsuccessful(text).into())
        }
        Ending::Stopped => {
            session.say(format!("{summary}, {running} still running; run it again to go on"));
            Err(session.signals.interrupted())
        }
        Ending::CostLimit => Err(Unsuccessful(format!(
            "the next job could take it past --max-cost ({summary}); run it again with more to go on"
        ))
        .into()),
        Ending::Cancelled => Err(Unsuccessful(format!("it was cancelled: {summary}; {folder}")).into()),
    }
}

fn known(of: &BackfillOf) -> anyhow::Result<(PathBuf, Manifest, Checkpoint, bool)> {
    let folder = folder_of(&of.path);
    let found = if folder.is_dir() { backfill::look(&folder)? } else { None };
    let (manifest, checkpoint, busy) =
        found.ok_or_else(|| Usage(format!("{} holds no backfill", folder.display())))?;
    Ok((folder, manifest, checkpoint, busy))
}

async fn ask(of: &BackfillOf, control: Control, session: &Session) -> anyhow::Result<()> {
    let (folder, manifest, checkpoint, busy) = known(of)?;
    if checkpoint.finished {
        return Err(Usage(format!("backfill `{}` has ended", manifest.name)).into());
    }
    backfill::ask(&folder, control)?;
    if control == Control::Cancel && !busy {
        let producer = connect(session, &manifest.tenant).await?;
        let given = backfill::cancel(&producer, &manifest.tenant, &manifest.name).await;
        producer.close().await;
        given?;
    }
    let again = format!("beacon backfill run {}", manifest.file.display());
    session.say(match (control, busy) {
        (Control::Pause, true) => "it submits no more; `beacon backfill resume` goes on".to_owned(),
        (Control::Pause, false) => format!("no process runs it; `{again}` goes on"),
        (Control::Run, true) => "it goes on".to_owned(),
        (Control::Run, false) => format!("no process runs it; go on with `{again}`"),
        (Control::Cancel, true) => "it submits no more, and what is out is taken back".to_owned(),
        (Control::Cancel, false) => format!("what is out is taken back; `{again}` collects how it ended"),
    });
    Ok(())
}

fn status(of: &BackfillOf, session: &Session) -> anyhow::Result<()> {
    let (folder, manifest, checkpoint, busy) = known(of)?;
    let asked = backfill::folder::asked(&folder);
    let state = match (checkpoint.finished, checkpoint.cancelled, busy, asked) {
        (true, true, ..) => "cancelled",
        (true, false, ..) => "finished",
        (false, _, true, Control::Run) => "running",
        (false, _, true, Control::Pause) => "paused",
        (false, _, true, Control::Cancel) => "being cancelled",
        (false, _, false, _) => "stopped",
    };
    if session.json {
        return output::json(&json!({ "state": state, "manifest": manifest, "checkpoint": checkpoint }));
    }
    let jobs: u64 = manifest.survey.models.values().sum();
    output::line(format!("backfill  {} of tenant {}: {state}", manifest.name, manifest.tenant))?;
    output::line(format!("jobs      {jobs}, {} bad lines", manifest.survey.bad))?;
    output::line(format!("succeeded {}", checkpoint.succeeded))?;
    output::line(format!("failed    {}", checkpoint.failed))?;
    output::line(format!("spent     ${}", checkpoint.spent_usd))
}
