//! Jobs whose prompts begin alike, over several machines, with and without affinity: prompt tokens computed, and how even the load is.
//!
//! The machines are llama.cpp's servers where they are installed, else simulated ones with a prefix cache. Dispatcher, producer and one
//! worker run here; there is no keeper, the rows of the machines are written by hand. Both ways see the same jobs in the same order, on
//! the same machines; each way's prompts begin with its own word, so that neither finds what the other has left.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use producer::{JobRequest, Producer};
use schemas::{
    MachineId, ModelToken, PoolId, Region, UsdNanos, WorkerId,
    job::Message,
    machine::{Machine, MachineState},
    prices::PriceBook,
    reply::{JobResult, Status},
    time::Clock as _,
    topology::MACHINES_BUCKET,
};
use serde::Serialize;
use simulators::{Kind, SimulatedModel, SimulatorConfig};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transport::{
    Link, LinkConfig, SystemClock,
    bucket::Bucket,
    publisher::{Patience, publisher},
};
use workers::{
    JournalMode, PoolConfig, PoolModel,
    adapters::{Dialect, OpenAiConfig},
    rented::{Isolation, Rented, RentedConfig},
};

use crate::{
    llm::{Program, Server},
    roles::Roles,
    session::Session,
};

/// Slots of a machine: llama.cpp caches by slot, so four compute a beginning up to four times.
const SLOTS: [u32; 2] = [1, 4];
/// Beginnings, and jobs with each.
const HEADS: usize = 8;
const JOBS_EACH: usize = 10;
/// Sentences of a beginning: some 400 tokens.
const SENTENCES: usize = 20;
/// Of a hundred slots, so many are used: where every slot is taken nothing is left to choose.
const USED: u32 = 67;
const TOKENS_OUT: u32 = 6;
const WITHIN: Duration = Duration::from_secs(180);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    /// Whose servers.
    pub(crate) servers: &'static str,
    pub(crate) machines: u32,
    pub(crate) jobs: usize,
    pub(crate) by_slots: Vec<Pair>,
}

/// The same jobs both ways.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pair {
    /// Slots of each machine.
    pub(crate) slots: u32,
    pub(crate) without: Ran,
    pub(crate) with: Ran,
}

/// One way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ran {
    pub(crate) prompt_tokens: u64,
    /// Of them, those that the servers had; `None` where one did not say.
    pub(crate) cached_tokens: Option<u64>,
    /// Busy slot-time of the busiest machine over the mean.
    pub(crate) fullest_over_mean: f64,
    /// Median.
    pub(crate) first_token_ms: f64,
    pub(crate) took_s: f64,
}

impl Ran {
    /// The tokens that had to be computed.
    pub(crate) fn computed_tokens(&self) -> Option<u64> {
        self.cached_tokens.map(|cached| self.prompt_tokens.saturating_sub(cached))
    }
}

/// The servers of the machines.
enum Servers {
    Real(Vec<Server>),
    Simulated(Vec<simulators::Simulator>, CancellationToken),
}

impl Servers {
    async fn start(machines: u32, slots: u32, simulated: bool) -> anyhow::Result<Self> {
        if let Some(program) = Program::find().filter(|_| !simulated) {
            let (slots, context) = (slots.to_string(), (slots * 1_024).to_string());
            let options = ["--slots", &slots, "--ctx", &context, "--threads", "1", "--alias", "m"];
            let mut servers = Vec::new();
            // One after the other: a child is started from the main thread.
            for _ in 0..machines {
                servers.push(program.start(&options).await.context("llama.cpp's server")?);
            }
            return Ok(Self::Real(servers));
        }
        let shutdown = CancellationToken::new();
        let mut servers = Vec::new();
        for number in 0..machines {
            let model = SimulatedModel {
                slots,
                service_ms_p50: 20,
                prefix_cache_tokens: 4_000,
                ..SimulatedModel::new("m")
            };
            let config = SimulatorConfig::new(&format!("m{number}"), Kind::OpenAi, vec![model]);
            servers.push(simulators::start(config, shutdown.clone()).await?);
        }
        Ok(Self::Simulated(servers, shutdown))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Real(_) => "llama.cpp with SmolLM2-135M",
            Self::Simulated(..) => "simulated",
        }
    }

    fn dialect(&self) -> Dialect {
        match self {
            Self::Real(_) => Dialect::LlamaCpp,
            Self::Simulated(..) => Dialect::Vllm,
        }
    }

    fn urls(&self) -> Vec<String> {
        match self {
            Self::Real(servers) => servers.iter().map(|server| server.url.clone()).collect(),
            Self::Simulated(servers, _) => servers.iter().map(simulators::Simulator::url).collect(),
        }
    }

    async fn stop(self) {
        match self {
            Self::Real(servers) => {
                for mut server in servers {
                    server.stop().await;
                }
            }
            Self::Simulated(servers, shutdown) => {
                shutdown.cancel();
                for server in servers {
                    server.stopped().await;
                }
            }
        }
    }
}

/// What the pipeline around the machines is made of.
struct Bed<'a> {
    session: &'a Session,
    link: &'a LinkConfig,
    region: Region,
    model: ModelToken,
    name: String,
    machines: u32,
}

/// Runs the jobs both ways on machines of one slot, and of four.
pub(crate) async fn measure(
    machines: u32,
    simulated: bool,
    session: &Session,
    link: &LinkConfig,
    region: &Region,
    producer: &Producer,
) -> anyhow::Result<Found> {
    let (topology, region) = (&session.config.topology, region.clone());
    let name = topology.catalog.names().next().context("the configuration has no model")?.to_owned();
    let model = topology.catalog.find(&name).context("the catalog knows its own names")?.clone();
    let bed = Bed { session, link, region, model, name, machines };
    let mut found = Found { servers: "", machines, jobs: HEADS * JOBS_EACH, by_slots: Vec::new() };
    for slots in SLOTS {
        let servers = Servers::start(machines, slots, simulated).await?;
        found.servers = servers.name();
        let mut ways = Vec::new();
        for affinity in [false, true] {
            session.say(format!("machines of {slots} slots, affinity {affinity}"));
            ways.push(Box::pin(bed.run(&servers, slots, affinity, producer)).await);
        }
        servers.stop().await;
        let with = ways.pop().context("two ways")??;
        let without = ways.pop().context("two ways")??;
        found.by_slots.push(Pair { slots, without, with });
    }
    Ok(found)
}

impl Bed<'_> {
    async fn run(
        &self,
        servers: &Servers,
        slots: u32,
        affinity: bool,
        producer: &Producer,
    ) -> anyhow::Result<Ran> {
        let way = if affinity { "with" } else { "without" };
        // A pool of its own, so that neither hears what the other has learnt.
        let pool: PoolId = format!("{way}{slots}@{}", self.region).parse()?;
        self.write_rows(&pool, servers, slots).await?;
        let mut roles = Roles::default();
        roles.pool(self.pool_config(&pool, servers, slots, affinity)?).await?;
        let jobs = (0..HEADS * JOBS_EACH).map(|nth| self.job(way, slots, nth));
        let outstanding = usize::try_from(self.machines * slots * USED / 100)?.max(1);
        let began = Instant::now();
        let results: Vec<JobResult> = stream::iter(jobs)
            .map(|job| async move { anyhow::Ok(producer.submit_and_wait(&job?, WITHIN).await?) })
            .buffer_unordered(outstanding)
            .try_collect()
            .await?;
        let took_s = began.elapsed().as_secs_f64();
        roles.stop().await?;
        self.sum_up(&results, took_s)
    }

    fn sum_up(&self, results: &[JobResult], took_s: f64) -> anyhow::Result<Ran> {
        let (mut prompt_tokens, mut cached_tokens, mut first) = (0, Some(0), Vec::new());
        let mut busy = BTreeMap::<MachineId, u64>::new();
        for result in results {
            anyhow::ensure!(result.status == Status::Succeeded, "a job ended otherwise: {:?}", result.error);
            let usage = result.usage.context("a success without usage")?;
            prompt_tokens += usage.prompt_tokens;
            cached_tokens = cached_tokens.zip(usage.cached_tokens).map(|(sum, cached)| sum + cached);
            first.push(result.timings.first_token_us);
            for line in result.bill.iter().flat_map(|bill| &bill.lines) {
                let machine = line.machine.clone().context("a line without a machine")?;
                *busy.entry(machine).or_default() += line.quantity;
            }
        }
        first.sort_unstable();
        let most = busy.values().max().copied().unwrap_or_default() as f64;
        let mean = busy.values().sum::<u64>() as f64 / f64::from(self.machines);
        Ok(Ran {
            prompt_tokens,
            cached_tokens,
            fullest_over_mean: most / mean.max(1.0),
            first_token_ms: first.get(first.len() / 2).map_or(0.0, |us| *us as f64 / 1_000.0),
            took_s,
        })
    }

    /// A system message that many jobs share, and a question of its own. Heads take turns, as tenants of a service do.
    fn job(&self, way: &str, slots: u32, nth: usize) -> anyhow::Result<JobRequest> {
        let (head, question) = (nth % HEADS, nth / HEADS);
        let rule = |n| {
            format!(
                "Rule {n} of desk {head}: answer in few words, name the harbour, and never guess a date. "
            )
        };
        let rules = (0..SENTENCES).map(rule).collect::<Vec<_>>().concat();
        let system = format!("You work {way} {slots} at desk {head}. {rules}");
        let mut job = JobRequest::prompt(self.region.as_str(), &self.name, "")?;
        job.body.prompt = None;
        let say = |role: &str, content: String| Message { role: role.to_owned(), content };
        let asked = format!("Question {question}: which ship came in on day {nth}?");
        job.body.messages = Some(vec![say("system", system), say("user", asked)]);
        job.body.params.max_tokens = Some(TOKENS_OUT);
        job.body.params.temperature = Some(0.0);
        Ok(job)
    }

    async fn write_rows(&self, pool: &PoolId, servers: &Servers, slots: u32) -> anyhow::Result<()> {
        let link = Link::connect(self.link, "bench-rows").await?;
        let (publisher, task) = publisher(&link, Patience::FOREVER).await?;
        let rows = async {
            let bucket = Bucket::new(link.client.clone(), publisher, MACHINES_BUCKET);
            for (nth, url) in servers.urls().into_iter().enumerate() {
                let row = Machine {
                    machine: format!("{}{nth}", pool.provider).parse()?,
                    pool: pool.clone(),
                    state: MachineState::Ready,
                    since_us: SystemClock.now(),
                    address: Some(url),
                    slots,
                    sku: "cpu".into(),
                    place: "here".into(),
                    usd_per_hour: UsdNanos::new(1_000_000_000),
                    provider_id: None,
                    because: None,
                };
                bucket.put(&row.key(), Bytes::from(serde_json::to_vec(&row)?)).await?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            stored = rows => stored,
            () = task.run(CancellationToken::new()) => anyhow::bail!("the connection ended"),
        }
    }

    fn pool_config(
        &self,
        pool: &PoolId,
        servers: &Servers,
        slots: u32,
        affinity: bool,
    ) -> anyhow::Result<PoolConfig> {
        let server = OpenAiConfig { dialect: servers.dialect(), ..OpenAiConfig::new("") };
        let all = self.machines * slots;
        let config =
            RentedConfig { server, secret: None, slots: all, affinity, isolation: Isolation::Tenant };
        let machines = Arc::new(Rented::new(config));
        // A book wants an entry; a machine's price stands in its row.
        let prices = r#"
            version = "bench"
            as_of = "2026-01-01"
            source = "machines of a bench"
            [[price]]
            provider = "bench"
            sku = "cpu"
            unit = "second"
            usd = "0.0001"
        "#;
        Ok(PoolConfig {
            link: self.link.clone(),
            pool: pool.clone(),
            worker: WorkerId::try_from("bench")?,
            slots: all,
            rented: true,
            idle: Duration::ZERO,
            models: vec![PoolModel {
                model: self.model.clone(),
                served_as: "m".into(),
                sku: "cpu".into(),
                size: 1,
                expected: Duration::from_secs(1),
            }],
            provider: machines.clone(),
            machines: Some(machines),
            price_name: pool.provider.clone(),
            prices: Arc::new(PriceBook::from_toml(prices)?),
            call_timeout: WITHIN,
            ack_wait: self.session.config.topology.ack_wait,
            journal: JournalMode::Unhappy,
            health_every: None,
            standing_every: Duration::from_secs(86_400),
            grace: Duration::from_secs(5),
        })
    }
}
