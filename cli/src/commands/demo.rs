//! `beacon demo`: the whole pipeline in one process, with faults, and its outcome beside the report's targets.
//!
//! ```text
//!  crowd ─▶ nats-server ─▶ dispatcher ─▶ pools ─▶ simulators, real model        faults strike the last two
//!    │           │                                  ▲  │
//!    │           │             keeper ─▶ machines ──┘  │
//!    └─▶ results └─▶ ledger ───────▶ report ◀──────────┘ bills
//! ```

mod crowd;
mod faults;
mod local;
mod machines;

use std::{
    collections::HashSet,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use keepers::operator::Operator;
use producer::{JobRequest, Producer, ProducerConfig, lines};
use schemas::{JobId, Micros, PoolId, UsdNanos, time::Clock as _};
use tracing::warn;
use transport::{LinkConfig, SystemClock};

use self::{crowd::Crowd, faults::Timeline, local::LocalModels};
use crate::{
    args::Demo,
    config::{Config, pools::Pool},
    exit::{Unsuccessful, Usage},
    ledger::Ledger,
    output,
    report::{self, Audit, Billed, Outage, Report, Run, Seen},
    roles::Roles,
    session::{Running, Session},
    simulated::Simulated,
    table::table,
};

/// The prompts when no file is named.
const PROMPTS: &str = include_str!("../../../examples/prompts.jsonl");
/// How long the server may take to acknowledge a job.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long bills must stand still before they count as closed; the simulators look for idle containers more often.
const BILL_STANDS: Duration = Duration::from_millis(700);
/// Modal's idle containers are gone long before that.
const BILL_WITHIN: Duration = Duration::from_secs(30);

/// The keeper books a machine's last cost two seconds after it is gone.
const BOOKED_WITHIN: Duration = Duration::from_secs(20);

/// Plays it and reports. Fails when a job was lost or failed, or when a bill is not booked exactly.
pub(crate) async fn run(args: Demo, mut session: Session) -> anyhow::Result<()> {
    let text = match &args.prompts {
        Some(file) => fs::read_to_string(file)
            .map_err(|error| Usage(format!("--prompts {}: {error}", file.display())))?,
        None => PROMPTS.to_owned(),
    };
    let name = args.prompts.as_ref().map_or_else(|| "prompts".into(), |file| file.display().to_string());
    let lines =
        lines::read(&text, &name, &session.config.topology.catalog).map_err(|e| Usage(e.to_string()))?;
    session.config.check_secrets()?;
    let mut models = LocalModels::none();
    let outcome = async {
        if args.no_local {
            session.say("real model: left out (--no-local)");
        } else {
            models = LocalModels::start(&session).await;
            models.join(&mut session.config)?;
        }
        let jobs = crowd::jobs(&lines, &args, &session.config.topology.regions, !models.is_empty())?;
        let mut nats = session.nats_for_once().await?;
        let outcome = on_server(&args, &session, &mut nats, &mut models, jobs).await;
        nats.stop().await;
        outcome
    };
    let outcome = outcome.await;
    models.stop().await;
    conclude(&session, &outcome?)
}

/// With NATS there: starts the simulators, plays, and ends them.
async fn on_server(
    args: &Demo,
    session: &Session,
    nats: &mut Running,
    models: &mut LocalModels,
    jobs: Vec<JobRequest>,
) -> anyhow::Result<Report> {
    let simulated = Simulated::start(&session.config).await?;
    let mut roles = Roles::default();
    let link = nats.link.clone();
    // Machines cost from the first moment.
    let since = SystemClock.now();
    let play = async {
        roles.everything(&session.config, &link, &simulated).await?;
        let producer = Arc::new(Producer::connect(audience(&link)?).await?);
        let operator = Operator::connect(&link).await?;
        let show = async {
            machines::until_ready(session, &operator).await?;
            let played = play(args, session, &simulated, models, &producer, jobs).await?;
            machines::end(session, &operator).await?;
            all_booked(&session.config, &simulated, &producer).await?;
            Ok(played)
        };
        let played = tokio::select! {
            error = roles.ended() => Err(error),
            played = show => played,
        };
        operator.close().await;
        let played = played?;
        // They book the standing cost.
        roles.stop().await?;
        report(session, &simulated, &producer, since, &played).await
    };
    let outcome = tokio::select! {
        biased;
        // Nothing is worth finishing: calls that still run end with their connections.
        () = session.signals.shutdown().cancelled() => Err(session.signals.interrupted()),
        error = nats.died() => Err(error),
        outcome = play => outcome,
    };
    simulated.stop().await;
    outcome
}

/// The producer of all jobs.
fn audience(link: &LinkConfig) -> anyhow::Result<ProducerConfig> {
    Ok(ProducerConfig {
        link: link.clone(),
        tenant: "demo".parse()?,
        mailbox: "audience".parse()?,
        patience: PATIENCE,
    })
}

/// The results that the crowd received.
struct Played {
    seen: Vec<Seen>,
    accepted: usize,
    elapsed: Duration,
    outage: Option<Outage>,
}

/// Sends all jobs while the faults strike, until the last result is here and no simulator bills any more.
async fn play(
    args: &Demo,
    session: &Session,
    simulated: &Simulated,
    models: &mut LocalModels,
    producer: &Arc<Producer>,
    jobs: Vec<JobRequest>,
) -> anyhow::Result<Played> {
    let (accepted, started) = (jobs.len(), Instant::now());
    let crowd = Crowd::new(session, producer, args.rate);
    let timeline = Timeline::new(crowd.lasts(accepted));
    // The faults end before the jobs do.
    let (seen, outage) = tokio::join!(crowd.play(jobs), timeline.play(session, simulated, models));
    let seen = seen?;
    let elapsed = started.elapsed();
    session.say("all results are in; waiting until Modal's idle containers are gone");
    bills_stand(simulated).await;
    // A pool that was left alone is tried again only after a while, with up to a quarter of jitter.
    let healing = session.config.breaker.open_max * 5 / 4;
    let outage = outage.map(|outage| Outage { until: outage.until + healing, ..outage });
    Ok(Played { seen, accepted, elapsed, outage })
}

/// Holds the ledger against the bills.
async fn report(
    session: &Session,
    simulated: &Simulated,
    producer: &Producer,
    since: Micros,
    played: &Played,
) -> anyhow::Result<Report> {
    let mut ledger = Ledger::read(producer.client()).await?;
    // A server that was there before us has older events.
    ledger.costs.retain(|cost| cost.at_us >= since);
    let ours: HashSet<JobId> = played.seen.iter().map(|seen| seen.result.job).collect();
    ledger.results.retain(|job, _| ours.contains(job));
    let run = Run {
        accepted: played.accepted,
        seen: &played.seen,
        ledger: &ledger,
        bills: &bills(&session.config, simulated),
        nats_server: producer.server_version(),
        elapsed: played.elapsed,
        baseline: &session.config.policy.baseline,
        outage: played.outage.as_ref(),
    };
    Report::new(&run).context("the costs add up to more than fits")
}

/// The bill of each simulated pool.
fn bills(config: &Config, simulated: &Simulated) -> Vec<Billed> {
    let of_pool = |pool: &Pool| {
        let PoolId { provider, region } = pool.id.clone();
        let (nanos, judged, machines) = match pool.rent() {
            Some(rent) => {
                let (house, place) = (simulated.house(config.simulated_account(rent)?)?, region.as_str());
                (house.billed_nanos(place), house.judged_nanos(place), Some(house.started(place)))
            }
            None => (simulated.find(pool.simulator()?)?.bill().total_nanos, 0, None),
        };
        let (usd, judged) = (UsdNanos::new(nanos), UsdNanos::new(judged));
        Some(Billed { provider, region, usd, judged, machines })
    };
    config.pools.iter().filter_map(of_pool).collect()
}

/// Waits until no bill grows any more: idle containers are billed when they go.
async fn bills_stand(simulated: &Simulated) {
    let modal = simulated
        .all()
        .iter()
        .map(simulators::Simulator::config)
        .filter(|config| config.kind == simulators::Kind::Modal);
    if let Some(window) = modal.map(|config| config.modal.scaledown_window_ms).max() {
        tokio::time::sleep(Duration::from_millis(window)).await;
    }
    let total = || simulated.all().iter().map(|s| s.bill().total_nanos).sum::<u64>();
    let (started, mut before) = (Instant::now(), total());
    loop {
        tokio::time::sleep(BILL_STANDS).await;
        let now = total();
        if now == before {
            break;
        }
        if started.elapsed() > BILL_WITHIN {
            warn!("the simulators' bills still grow");
            break;
        }
        before = now;
    }
}

/// Waits until the keeper has booked what its machines cost. What is missing after a while is the report's to tell.
async fn all_booked(config: &Config, simulated: &Simulated, producer: &Producer) -> anyhow::Result<()> {
    let rented: Vec<Billed> =
        bills(config, simulated).into_iter().filter(|bill| bill.machines.is_some()).collect();
    let started = Instant::now();
    while started.elapsed() < BOOKED_WITHIN {
        let costs = Ledger::read(producer.client()).await?.costs;
        if report::audit(&costs, &rented).is_some_and(|audits| audits.iter().all(Audit::agrees)) {
            return Ok(());
        }
        tokio::time::sleep(BILL_STANDS).await;
    }
    warn!("the ledger does not equal the bills of rented machines yet");
    Ok(())
}

/// Prints the report and says whether it is good.
fn conclude(session: &Session, report: &Report) -> anyhow::Result<()> {
    if session.json {
        output::json(report)?;
    } else {
        output::line(table(["", "measured", "target", ""], &[1, 2], &report.rows()).to_string())?;
        let header =
            ["provider", "jobs", "share", "machines", "by jobs $", "standing $", "$ per job", "bill"];
        output::line(table(header, &[1, 2, 3, 4, 5, 6], &report.provider_rows()).to_string())?;
        output::line(format!(
            "nats-server {}, {} jobs in {:.1} s; simulated providers, real queue, ledger and failover",
            report.nats_server, report.jobs, report.elapsed_s
        ))?;
    }
    if report.is_good() {
        return Ok(());
    }
    let audit = report.bills.iter().find(|audit| !audit.agrees()).map_or_else(String::new, |audit| {
        format!(
            "; the ledger has ${} for {}@{}, which billed ${}",
            audit.ledger_usd, audit.provider, audit.region, audit.billed_usd
        )
    });
    let Report { jobs, failed, lost, doubled, .. } = report;
    Err(Unsuccessful(format!(
        "of {jobs} jobs {failed} failed, {lost} were lost, {doubled} ended twice{audit}"
    ))
    .into())
}
