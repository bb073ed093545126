//! Many runs at a provider at once: memory and processor time of the one worker process that follows them.
//!
//! The worker is a process of its own; dispatcher and simulated endpoint run here, so that only the worker is measured.

use std::{fs, time::Duration};

use anyhow::Context as _;
use producer::Producer;
use schemas::Region;
use serde::Serialize;
use simulators::{Kind, SimulatedModel, SimulatorConfig};
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;
use transport::LinkConfig;

use super::measure;
use crate::session::Session;

/// How long each run takes: longer than measuring does.
const RUN_MS: u64 = 120_000;
/// How long the worker's time is measured.
const SPAN: Duration = Duration::from_secs(15);

/// Memory and processor time of a worker with so many runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WorkerLoad {
    /// Runs at once.
    pub(crate) runs: u64,
    /// Resident memory of the worker before the first, MiB.
    pub(crate) rss_before_mib: f64,
    /// The same with all of them.
    pub(crate) rss_after_mib: f64,
    /// Processor time while it polls them, as a share of one core.
    pub(crate) cores: f64,
}

/// Starts `runs` jobs on a simulated RunPod endpoint through one worker process, and looks at it.
pub(crate) async fn measure(
    runs: u64,
    session: &Session,
    link: &LinkConfig,
    region: &Region,
    name: &str,
    producer: &Producer,
) -> anyhow::Result<WorkerLoad> {
    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let slots = u32::try_from(runs).context("too many runs")?;
    let model = SimulatedModel { slots, service_ms_p50: RUN_MS, ..SimulatedModel::new(name) };
    let endpoint = SimulatorConfig::new("bench", Kind::RunPod, vec![model]);
    let endpoint = simulators::start(endpoint, shutdown).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("beacon.toml");
    let models: Vec<String> =
        session.config.topology.catalog.names().map(|name| format!("{name:?}")).collect();
    let text = format!(
        "[nats]\nurl = {url:?}\n[beacon]\nregions = [\"{region}\"]\nmodels = [{models}]\n[[pools]]\nprovider = \"runpod\"\n\
         region = \"{region}\"\nkind = \"runpod\"\nbase_url = \"{base}/v2/ep-sim\"\nslots = {runs}\ntimeout = \"10m\"\n\
         models = [{{ model = {name:?}, sku = \"L4\", expected = \"2m\" }}]\n",
        url = link.urls.first().context("no NATS address")?.exposed(),
        models = models.join(", "),
        base = endpoint.url(),
    );
    fs::write(&file, text)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["worker", "--log", "warn", "--config"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let process = child.id().context("the worker ended at once")?;
    let job = measure::request(region.as_str(), name, Some(measure::MAILBOX))?;
    // The first says that it is there.
    measure::submit(producer, &job, 1).await?;
    until(|| endpoint.stats().running >= 1).await.context("the worker took no job")?;
    let rss_before_mib = measure::resident_mib(process)?;
    measure::submit(producer, &job, runs - 1).await?;
    until(|| endpoint.stats().running >= runs)
        .await
        .with_context(|| format!("only {} of {runs} runs began", endpoint.stats().running))?;
    let (began, spent) = (Instant::now(), measure::processor_time(process)?);
    tokio::time::sleep(SPAN).await;
    let spent = measure::processor_time(process)?.saturating_sub(spent);
    let cores = spent.as_secs_f64() / began.elapsed().as_secs_f64();
    let rss_after_mib = measure::resident_mib(process)?;
    child.kill().await?;
    Ok(WorkerLoad { runs, rss_before_mib, rss_after_mib, cores })
}

async fn until(condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(90);
    while !condition() {
        anyhow::ensure!(Instant::now() < end, "not within 90 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
