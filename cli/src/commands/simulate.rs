//! `beacon simulate`: plays scenarios under every policy, on as many threads as there are cores, and tells what came of it.
//!
//! Reads files and prints; `routing_lab` plays and compares.

mod plot;
mod tell;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use routing_lab::{Arrivals, Outcome, Policy, Scenario, Trace};
use tokio::sync::mpsc;

use crate::{
    args::Simulate,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
};

/// A scenario with all that it takes.
#[derive(Debug)]
struct Case {
    scenario: Scenario,
    /// What its file of arrivals holds, or stands in for it.
    trace: Option<Trace>,
}

/// Plays, tells and draws.
pub(crate) async fn run(args: Simulate, session: Session) -> anyhow::Result<()> {
    // Here and not where arguments are read: what is wrong is one line.
    let named = args.policies.iter().map(|name| name.parse::<Policy>());
    let named = named.collect::<Result<Vec<_>, _>>().map_err(|error| Usage(format!("--policy: {error}")))?;
    let cases = args.scenarios.iter().map(|path| read(path, &args)).collect::<Result<Vec<_>, _>>()?;
    if let Some(twice) =
        (1..cases.len()).find(|i| cases[..*i].iter().any(|c| c.scenario.name == cases[*i].scenario.name))
    {
        let (file, name) = (args.scenarios[twice].display(), &cases[twice].scenario.name);
        return Err(
            Usage(format!("{file}: name: another scenario of this run is called `{name}`, too")).into()
        );
    }
    let mut policies: Vec<Policy> = Policy::ALL.to_vec();
    policies.retain(|policy| named.is_empty() || named.contains(policy));
    let cases = Arc::new(cases);
    let outcomes = play(&cases, &policies, &args, &session).await?;
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (case, outcomes) in cases.iter().zip(&outcomes) {
            let file = folder.join(format!("{}.svg", case.scenario.name));
            let svg = plot::plot(&case.scenario, outcomes)
                .with_context(|| format!("cannot draw {}", file.display()))?;
            std::fs::write(&file, svg).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    let runs: Vec<tell::Told<'_>> =
        cases.iter().zip(&outcomes).map(|(case, outcomes)| tell::Told::new(case, outcomes, &args)).collect();
    if session.json {
        output::json(&serde_json::json!({ "seed": args.seed, "scale": args.scale, "scenarios": runs }))?;
    } else {
        tell::tell(&runs)?;
    }
    let missed: Vec<&str> = runs.iter().filter(|run| run.missed()).map(tell::Told::name).collect();
    if missed.is_empty() {
        return Ok(());
    }
    Err(Unsuccessful(format!("beacon misses a target in {}", missed.join(", "))).into())
}

fn read(path: &Path, args: &Simulate) -> Result<Case, Usage> {
    let refuse = |what: String| Usage(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let scenario = Scenario::parse(&text).map_err(|error| refuse(error.to_string()))?;
    let trace = match &scenario.arrivals {
        Arrivals::Drawn { .. } => None,
        Arrivals::Trace { file, .. } => Some(trace(file, args, path)?),
    };
    Ok(Case { scenario: scenario.scaled(args.scale), trace })
}

/// The named file, or arrivals like it where no folder of traces is given.
fn trace(file: &str, args: &Simulate, scenario: &Path) -> Result<Trace, Usage> {
    let Some(folder) = &args.traces else {
        let refuse = |error| Usage(format!("{}: arrivals.trace: {error}", scenario.display()));
        return Trace::stand_in(file, args.seed).map_err(refuse);
    };
    let path: PathBuf = folder.join(file);
    let refuse = |what: String| Usage(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    Trace::read(&text).map_err(|error| refuse(error.to_string()))
}

/// Every scenario under every policy; outcomes in that order, whichever thread was first.
async fn play(
    cases: &Arc<Vec<Case>>,
    policies: &[Policy],
    args: &Simulate,
    session: &Session,
) -> anyhow::Result<Vec<Vec<Outcome>>> {
    let all = (0..cases.len()).flat_map(|case| policies.iter().map(move |policy| (case, *policy)));
    let work: Arc<Mutex<VecDeque<(usize, Policy)>>> = Arc::new(Mutex::new(all.collect()));
    let count = work.lock().unwrap_or_else(PoisonError::into_inner).len();
    let threads =
        args.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let (done, mut outcomes) = mpsc::channel(count.max(1));
    let seed = args.seed;
    // Threads and not tasks: they compute for seconds without a pause. On Ctrl-C the process ends, and they with it.
    for _ in 0..threads.min(count) {
        let (work, cases, done) = (Arc::clone(&work), Arc::clone(cases), done.clone());
        thread::spawn(move || {
            loop {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((index, policy)) = next else { return };
                let case = &cases[index];
                let outcome = routing_lab::play(&case.scenario, case.trace.as_ref(), policy, seed);
                if done.blocking_send((index, outcome)).is_err() {
                    return;
                }
            }
        });
    }
    drop(done);
    let bar = bar(session, count);
    let mut sorted: Vec<Vec<Outcome>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..count {
        let (index, outcome) = outcomes.recv().await.context("a run broke off; that is a bug")?;
        bar.inc(1);
        sorted[index].push(outcome);
    }
    bar.finish_and_clear();
    for outcomes in &mut sorted {
        outcomes.sort_by_key(|outcome| outcome.policy);
    }
    Ok(sorted)
}

fn bar(session: &Session, count: usize) -> ProgressBar {
    if session.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    session.screen.bars.add(ProgressBar::new(count as u64).with_style(style))
}
