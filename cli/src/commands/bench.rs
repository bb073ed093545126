//! `beacon bench`: the pipeline against raw JetStream, in one run against one server.
//!
//! Everything runs in this process but the server: producer, dispatcher, one worker with a provider that does nothing.

mod affinity;
mod figures;
mod keeper;
mod logs;
mod measure;
mod runs;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use dispatcher::{DispatcherConfig, config::TrimConfig};
use producer::{Producer, ProducerConfig};
use routing::budget::Rules;
use schemas::{Mailbox, ModelToken, Region, Tenant, WorkerId, prices::PriceBook};
use tokio::process::Command;
use transport::{Link, LinkConfig};
use workers::{JournalMode, PoolConfig, PoolModel, adapters::noop::Noop, provider::Provider};

use crate::{args::Bench, output, roles::Roles, session::Session};

use figures::{Backlog, Figures};
use measure::MAILBOX;

/// Slots of the pool that does nothing: more than jobs can be on the way.
const SLOTS: u32 = 4_096;
/// Slots of the pool that never answers, while memory is measured.
const SLOTS_FULL: u32 = 64;
/// Publishes in the raw measurement for each job in the pipeline: they are that much quicker.
const RAW_PER_JOB: u64 = 4;
const IDLE_JOBS: usize = 2_000;

/// Measures and prints.
pub(crate) async fn run(args: Bench, session: Session) -> anyhow::Result<()> {
    if args.runs > 0 {
        return many_runs(args.runs, &session).await;
    }
    if args.machines > 0 {
        return many_machines(args.machines, &session).await;
    }
    if args.affinity > 0 {
        return prefixes(&args, &session).await;
    }
    let nats = session.nats_for_once().await?;
    let outcome = measure_all(&args, &session, &nats.link).await;
    nats.stop().await;
    let figures = outcome?;
    if session.json {
        return output::json(&figures);
    }
    output::line(format!("raw publish with ids    {:>10.0} /s", figures.raw_publish_per_s))?;
    output::line(format!("whole pipeline          {:>10.0} jobs/s", figures.pipeline_jobs_per_s))?;
    output::line(format!("pipeline / raw          {:>10.3}", figures.pipeline_per_raw))?;
    output::line(format!("one publish at a time   {:>10.0} us", figures.raw_publish_sync_us))?;
    output::line(format!("idle, submit to result  {:>10.0} us p50", figures.idle_p50_us))?;
    output::line(format!("                        {:>10.0} us p99", figures.idle_p99_us))?;
    if let Some(logs) = figures.logs {
        output::line(format!("backfill, {} lines {:>10.0} /s", logs.lines, logs.backfill_per_s))?;
        output::line(format!(
            "backfill / pipeline     {:>10.3}",
            logs.backfill_per_s / figures.pipeline_jobs_per_s
        ))?;
        output::line(format!("its memory at most      {:>10.1} MiB", logs.rss_max_mib))?;
        output::line(format!("reading the log         {:>10.0} /s", logs.log_read_per_s))?;
        output::line(format!("choosing {} of it {:>10.0} /s", logs.chosen, logs.replay_select_per_s))?;
        output::line(format!(
            "choosing / reading      {:>10.3}",
            logs.replay_select_per_s / logs.log_read_per_s
        ))?;
    }
    if let Some(Backlog { jobs, rss_before_mib, rss_after_mib }) = figures.backlog {
        output::line(format!("dispatcher, idle        {rss_before_mib:>10.1} MiB"))?;
        output::line(format!("dispatcher, {jobs} waiting {rss_after_mib:>5.1} MiB"))?;
    }
    Ok(())
}

async fn measure_all(args: &Bench, session: &Session, link: &LinkConfig) -> anyhow::Result<Figures> {
    let region = session.config.topology.regions.first().context("the configuration has no region")?.clone();
    let name =
        session.config.topology.catalog.names().next().context("the configuration has no model")?.to_owned();
    let model =
        session.config.topology.catalog.find(&name).context("the catalog knows its own names")?.clone();
    let mut roles = Roles::default();
    roles.dispatcher(dispatcher_config(session, link, &region)?).await?;
    roles.pool(pool_config(session, link, &region, &model, SLOTS, Noop::default())?).await?;
    let producer = producer(link).await?;
    let count = usize::try_from(args.jobs)?;
    let measuring = async {
        let warm = measure::request(region.as_str(), &name, None)?;
        session.say("warming up");
        measure::idle(&producer, &warm, 200).await?;
        session.say("raw publishes");
        let raw = Link::connect(link, "bench-raw").await?;
        let body = Bytes::from(serde_json::to_vec(&warm.body)?);
        let raws = usize::try_from(args.jobs.saturating_mul(RAW_PER_JOB))?;
        let (raw_publish_per_s, raw_publish_sync_us) = measure::raw(&raw.client, raws, body).await?;
        session.say("whole pipeline");
        let job = measure::request(region.as_str(), &name, Some(MAILBOX))?;
        let pipeline_jobs_per_s = measure::pipeline(&producer, &job, count).await?;
        session.say("idle latency");
        let (idle_p50_us, idle_p99_us) = measure::idle(&producer, &warm, IDLE_JOBS).await?;
        let pipeline_per_raw = pipeline_jobs_per_s / raw_publish_per_s;
        let logs = if args.lines > 0 {
            session.say(format!("backfill of {} lines", args.lines));
            Some(logs::measure(args.lines, link, &region, &name, &producer).await?)
        } else {
            None
        };
        anyhow::Ok(Figures {
            raw_publish_per_s,
            pipeline_jobs_per_s,
            pipeline_per_raw,
            raw_publish_sync_us,
            idle_p50_us,
            idle_p99_us,
            backlog: None,
            logs,
        })
    };
    let outcome = measuring.await;
    roles.stop().await?;
    let mut figures = outcome?;
    if args.backlog > 0 {
        session.say(format!("{} jobs waiting", args.backlog));
        figures.backlog =
            Some(backlog(args.backlog, session, link, &region, &name, &model, &producer).await?);
    }
    producer.close().await;
    Ok(figures)
}

/// A dispatcher of the configuration's first region, and a producer beside it.
async fn beside_a_dispatcher(
    session: &Session,
    link: &LinkConfig,
) -> anyhow::Result<(Region, Roles, Producer)> {
    let regions = &session.config.topology.regions;
    let region = regions.first().context("the configuration has no region")?.clone();
    let mut roles = Roles::default();
    roles.dispatcher(dispatcher_config(session, link, &region)?).await?;
    let producer = producer(link).await?;
    Ok((region, roles, producer))
}

/// `--runs`: memory and processor time of one worker process with so many runs.
async fn many_runs(count: u64, session: &Session) -> anyhow::Result<()> {
    let nats = session.nats_for_once().await?;
    let outcome = async {
        let names = &mut session.config.topology.catalog.names();
        let name = names.next().context("the configuration has no model")?.to_owned();
        let (region, roles, producer) = beside_a_dispatcher(session, &nats.link).await?;
        let measured = runs::measure(count, session, &nats.link, &region, &name, &producer).await;
        // Its jobs would run on; the server ends with this process.
        drop((producer, roles));
        measured
    };
    let outcome = outcome.await;
    nats.stop().await;
    let runs::WorkerLoad { runs, rss_before_mib, rss_after_mib, cores } = outcome?;
    if session.json {
        return output::json(&runs::WorkerLoad { runs, rss_before_mib, rss_after_mib, cores });
    }
    output::line(format!("worker, one run         {rss_before_mib:>10.1} MiB"))?;
    output::line(format!("worker, {runs} runs       {rss_after_mib:>10.1} MiB"))?;
    output::line(format!("polling them            {cores:>10.2} of a core"))
}

/// `--machines`: memory, processor time and latencies of one keeper process with so many machines.
async fn many_machines(count: u32, session: &Session) -> anyhow::Result<()> {
    let nats = session.nats_for_once().await?;
    let outcome = async {
        let (region, roles, producer) = beside_a_dispatcher(session, &nats.link).await?;
        let measured = keeper::measure(count, session, &nats.link, &region, &producer).await;
        // The job that nobody took would wait on; the server ends with this process.
        drop((producer, roles));
        measured
    };
    let outcome = outcome.await;
    nats.stop().await;
    let load = outcome?;
    if session.json {
        return output::json(&load);
    }
    output::line(format!("keeper, {} machines     {:>10.1} MiB", load.machines, load.rss_mib))?;
    output::line(format!("watching them           {:>10.3} of a core", load.cores))?;
    output::line(format!("calls to the provider   {:>10.2} /s", load.calls_per_s))?;
    output::line(format!("rows and such stored    {:>10.2} /s", load.writes_per_s))?;
    output::line(format!("pressure to start call  {:>10.3} s", load.start_call_s))?;
    output::line(format!("adopting, all ready     {:>10.2} s", load.adopted_s))?;
    output::line(format!("adopting, no answer yet {:>10.2} s", load.adopted_unanswered_s))?;
    output::line(format!("429 from the provider   {:>10}", load.refused))
}

/// `--affinity`: what goes to machines that have a prompt's beginning, and what that saves.
async fn prefixes(args: &Bench, session: &Session) -> anyhow::Result<()> {
    let nats = session.nats_for_once().await?;
    let outcome = async {
        let (region, roles, producer) = beside_a_dispatcher(session, &nats.link).await?;
        let (count, simulated) = (args.affinity, args.simulated);
        let found = affinity::measure(count, simulated, session, &nats.link, &region, &producer).await;
        producer.close().await;
        roles.stop().await.and(found)
    };
    let outcome = outcome.await;
    nats.stop().await;
    let found = outcome?;
    if session.json {
        return output::json(&found);
    }
    output::line(format!("{} jobs over {} machines, {}", found.jobs, found.machines, found.servers))?;
    for pair in &found.by_slots {
        output::line(format!("slots of a machine: {:<8} {:>10} {:>10}", pair.slots, "without", "with"))?;
        let (without, with) = (&pair.without, &pair.with);
        let row =
            |what: &str, one: String, two: String| output::line(format!("  {what:<26}{one:>10} {two:>10}"));
        let tokens = |it: &affinity::Ran| it.cached_tokens.map_or("unknown".to_owned(), |n| n.to_string());
        row("prompt tokens", without.prompt_tokens.to_string(), with.prompt_tokens.to_string())?;
        row("of them cached", tokens(without), tokens(with))?;
        let computed =
            |it: &affinity::Ran| it.computed_tokens().map_or("unknown".to_owned(), |n| n.to_string());
        row("of them computed", computed(without), computed(with))?;
        let times = |it: &affinity::Ran| format!("{:.2}", it.fullest_over_mean);
        row("fullest machine / mean", times(without), times(with))?;
        row(
            "first token, median",
            format!("{:.0} ms", without.first_token_ms),
            format!("{:.0} ms", with.first_token_ms),
        )?;
        row("all jobs", format!("{:.1} s", without.took_s), format!("{:.1} s", with.took_s))?;
    }
    Ok(())
}

/// A dispatcher in a process of its own, beside one pool that is full and stays so, while the backlog grows.
async fn backlog(
    jobs: u64,
    session: &Session,
    link: &LinkConfig,
    region: &Region,
    name: &str,
    model: &ModelToken,
    producer: &Producer,
) -> anyhow::Result<Backlog> {
    let url = link.urls.first().context("no NATS address")?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["dispatcher", "--log", "warn"])
        .env("BEACON_NATS_URL", url.exposed())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let process = child.id().context("the dispatcher ended at once")?;
    let mut roles = Roles::default();
    let stuck = Noop::new(Duration::from_secs(36_000));
    roles.pool(pool_config(session, link, region, model, SLOTS_FULL, stuck)?).await?;
    let job = measure::request(region.as_str(), name, Some(MAILBOX))?;
    measure::submit(producer, &job, u64::from(SLOTS_FULL) * 4).await?;
    let full = tokio::time::timeout(Duration::from_secs(60), async {
        let stream = schemas::topology::jobs_stream(region);
        let consumer = schemas::topology::consumer_name(model, schemas::Lane::Normal);
        let subject = format!("CONSUMER.INFO.{stream}.{consumer}");
        loop {
            let info = transport::api::ask(producer.client(), &subject, &serde_json::Value::Null).await?;
            if transport::api::number(&info, "num_ack_pending") >= Some(u64::from(SLOTS_FULL)) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    full.await.context("the pool did not fill")??;
    let rss_before_mib = measure::resident_mib(process)?;
    measure::submit(producer, &job, jobs).await?;
    let rss_after_mib = measure::resident_mib(process)?;
    child.kill().await?;
    // The pool's jobs would run for hours. They go away with this process.
    drop(roles);
    Ok(Backlog { jobs, rss_before_mib, rss_after_mib })
}

async fn producer(link: &LinkConfig) -> anyhow::Result<Producer> {
    let config = ProducerConfig {
        link: link.clone(),
        tenant: Tenant::default(),
        mailbox: Mailbox::try_from("bench-idle")?,
        patience: Duration::from_secs(30),
    };
    Ok(Producer::connect(config).await?)
}

fn dispatcher_config(
    session: &Session,
    link: &LinkConfig,
    region: &Region,
) -> anyhow::Result<DispatcherConfig> {
    let config = &session.config;
    Ok(DispatcherConfig {
        link: link.clone(),
        id: WorkerId::try_from("bench")?,
        topology: config.topology.clone(),
        regions: vec![region.clone()],
        pools: Vec::new(),
        policy: config.policy.clone(),
        breaker: config.breaker.clone(),
        offers: config.offers.clone(),
        trim: TrimConfig::default(),
        retries: config.retries.clone(),
        budgets: Rules::default(),
        weights: config.weights.clone(),
        grace: Duration::from_secs(5),
    })
}

fn pool_config(
    session: &Session,
    link: &LinkConfig,
    region: &Region,
    model: &ModelToken,
    slots: u32,
    noop: Noop,
) -> anyhow::Result<PoolConfig> {
    let provider: Arc<dyn Provider> = Arc::new(noop);
    let prices = r#"
        version = "bench"
        as_of = "2025-09-05"
        source = "a provider that does nothing, at the price of one that does"
        [[price]]
        provider = "noop"
        sku = "standard"
        unit = "inference"
        usd = "0.0001"
    "#;
    Ok(PoolConfig {
        link: link.clone(),
        pool: format!("noop@{region}").parse()?,
        worker: WorkerId::try_from("bench")?,
        slots,
        rented: false,
        idle: Duration::ZERO,
        models: vec![PoolModel {
            model: model.clone(),
            served_as: "noop".into(),
            sku: "standard".into(),
            size: 1,
            expected: Duration::from_millis(1),
        }],
        provider,
        machines: None,
        price_name: "noop".parse()?,
        prices: Arc::new(PriceBook::from_toml(prices)?),
        call_timeout: Duration::from_secs(86_400),
        ack_wait: session.config.topology.ack_wait,
        journal: JournalMode::Unhappy,
        health_every: None,
        standing_every: Duration::from_secs(86_400),
        grace: Duration::from_secs(5),
    })
}
