//! `beacon simulate`: plays scenarios under every policy, on as many threads as there are cores, and tells the outcomes.
//!
//! This module reads files and prints. `routing_lab` plays the scenarios and compares outcomes with targets.

mod case;
mod plot;
mod tell;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use routing_lab::{Outcome, Policy};
use tokio::sync::mpsc;

use self::case::Case;
use crate::{
    args::Simulate,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
};

/// Plays, tells and draws.
pub(crate) async fn run(args: Simulate, session: Session) -> anyhow::Result<()> {
    // Parsed here and not with the arguments, so that an error is one line.
    let named = args.policies.iter().map(|name| name.parse::<Policy>());
    let named = named.collect::<Result<Vec<_>, _>>().map_err(|error| Usage(format!("--policy: {error}")))?;
    let cases = args.scenarios.iter().map(|path| Case::read(path, &args)).collect::<Result<Vec<_>, _>>()?;
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
    // Threads and not tasks: they compute for seconds without a pause. Ctrl-C ends the process, and the threads with it.
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
