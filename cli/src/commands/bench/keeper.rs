//! Many machines in one account: memory, processor time and latencies of the one keeper process that keeps them.
//!
//! The keeper is a process of its own. The simulated account, its machines (each really listens), the dispatcher and the job run
//! here, so that only the keeper is measured. The account keeps Lambda's documented rates while it is.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use keepers::{
    landlord::{Landlord as _, Order, Steps},
    landlords::lambda,
    operator::Operator,
    row::{Absence, Life, Row, Specs},
    secret::Secret,
};
use producer::Producer;
use schemas::{MachineId, PoolId, Region, UsdNanos, machine::MachineState, time::Clock as _};
use serde::Serialize;
use simulators::rented::{self, Act};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use transport::{LinkConfig, SystemClock, api};

use super::measure;
use crate::session::Session;

const SKU: &str = "gpu_1x_a10";
const PLACE: &str = "us-east-1";
/// A public key as ssh-keygen writes it; of no private key that anybody has.
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDd4ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm beacon";
const MACHINE_SECRET: &str = "bench";
/// How long the keeper's time is measured: each machine is probed twice, and its sighting stored twice, whatever the phase.
const SPAN: Duration = Duration::from_secs(120);
/// Whatever is waited for comes within this.
const WITHIN: Duration = Duration::from_secs(60);
/// Launches at a time while the account is filled.
const AT_ONCE: usize = 32;

/// What a keeper with so many machines takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct KeeperLoad {
    /// Machines that it kept.
    pub(crate) machines: u32,
    /// Its resident memory, MiB.
    pub(crate) rss_mib: f64,
    /// Processor time while all are ready and nothing happens, as a share of one core.
    pub(crate) cores: f64,
    /// Calls to the account meanwhile, per second.
    pub(crate) calls_per_s: f64,
    /// Messages stored in its bucket meanwhile, per second.
    pub(crate) writes_per_s: f64,
    /// From the submit of the first job that waits until the launch is there.
    pub(crate) start_call_s: f64,
    /// After a kill, from the start of the next process until all machines, which were ready, were listed and probed.
    pub(crate) adopted_s: f64,
    /// The same where every order was sent and no answer was stored.
    pub(crate) adopted_unanswered_s: f64,
    /// Calls that the account refused for their rate.
    pub(crate) refused: usize,
}

/// Everything around the keeper.
struct Bed<'a> {
    account: rented::Lambda,
    operator: Operator,
    producer: &'a Producer,
    /// The pool of many machines.
    pool: PoolId,
    count: usize,
    config: &'a Path,
}

/// Stores nothing: the rows are written by hand.
struct Unstored;

impl Steps for Unstored {
    fn note<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }

    fn id<'a>(&'a self, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// Fills an account, starts a keeper process over it, and looks at it.
pub(crate) async fn measure(
    machines: u32,
    session: &Session,
    link: &LinkConfig,
    region: &Region,
    producer: &Producer,
) -> anyhow::Result<KeeperLoad> {
    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let mut names = session.config.topology.catalog.names().map(str::to_owned);
    let (served, waiting) = names.next().zip(names.next()).context("the configuration needs two models")?;
    let config = rented::LambdaConfig { limited: false, ..rented::LambdaConfig::default() };
    let key = config.key.clone();
    let account = rented::Lambda::start(config, shutdown).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("beacon.toml");
    fs::write(folder.path().join("key"), &key)?;
    fs::write(folder.path().join("secret"), MACHINE_SECRET)?;
    let (pool, other) = (format!("lambda@{region}").parse()?, format!("burst@{region}").parse()?);
    let pools = [(&pool, served.as_str(), machines), (&other, waiting.as_str(), 0)];
    fs::write(&file, toml(session, link, &account, folder.path(), &pools)?)?;
    let bed = Bed {
        account,
        operator: Operator::connect(link).await?,
        producer,
        pool,
        count: usize::try_from(machines)?,
        config: &file,
    };
    session.say(format!("{machines} machines are made"));
    bed.fill(&key).await?;
    let load = bed.look(session, &measure::request(region.as_str(), &waiting, None)?).await;
    bed.operator.close().await;
    load
}

impl Bed<'_> {
    /// Orders every machine, and writes a row of it as a keeper leaves it that is killed before the answer.
    async fn fill(&self, key: &str) -> anyhow::Result<()> {
        let pools = [(self.pool.clone(), rents(self.account.account().port()))].into();
        let config = lambda::LambdaConfig {
            base_url: self.account.url(),
            pace: Duration::ZERO,
            launch_pace: Duration::ZERO,
            pools,
            ..lambda::LambdaConfig::new(Secret::new(key), SSH_KEY)
        };
        let landlord = lambda::Lambda::new(config)?;
        let price: UsdNanos = "1.29".parse()?;
        let orders = (0..self.count).map(|number| {
            let landlord = &landlord;
            async move {
                let machine: MachineId = format!("bench{number:05}").parse()?;
                let now = SystemClock.now();
                let order = Order {
                    machine: machine.clone(),
                    pool: self.pool.clone(),
                    sku: SKU.into(),
                    place: PLACE.into(),
                    server_key: Some(Secret::new(MACHINE_SECRET).of_machine(&machine)),
                    ordered_at: now,
                    usd_per_hour_max: price,
                    notes: BTreeMap::new(),
                };
                landlord.order(&order, &Unstored).await?;
                let specs = Specs {
                    machine,
                    pool: self.pool.clone(),
                    landlord: "lambda".into(),
                    sku: SKU.into(),
                    place: PLACE.into(),
                    slots: 4,
                    usd_per_hour: price,
                    usd_per_hour_max: price,
                    parked_usd_per_hour: UsdNanos::ZERO,
                    job_usd_per_hour: None,
                };
                let mut row = Row::wanted(specs, landlord.rules().unit, "a bench".into(), now);
                (row.ordered_us, row.life) = (Some(now), Life::Unknown { absent: Absence::default() });
                self.operator.store().put_row(&row, 0).await?;
                anyhow::Ok(())
            }
        });
        stream::iter(orders).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        self.account.set_limited(true);
        // What the account's limits are counted from.
        sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    async fn look(&self, session: &Session, job: &producer::JobRequest) -> anyhow::Result<KeeperLoad> {
        session.say("a keeper adopts machines whose orders were never answered");
        let began = Instant::now();
        let mut keeper = self.keeper()?;
        let process = keeper.id().context("the keeper ended at once")?;
        self.all_ready().await?;
        let adopted_unanswered_s = began.elapsed().as_secs_f64();

        session.say("it watches them");
        let before = (self.calls(), self.stored().await?, measure::processor_time(process)?);
        let began = Instant::now();
        sleep(SPAN).await;
        let span = began.elapsed().as_secs_f64();
        let spent = measure::processor_time(process)?.saturating_sub(before.2);
        let calls = self.calls() - before.0;
        let writes = self.stored().await? - before.1;
        let rss_mib = measure::resident_mib(process)?;

        session.say("a job waits");
        let (made, began) = (self.launches(), Instant::now());
        self.producer.submit(job).await?;
        self.until("the start call", || async { Ok(self.launches() > made) }).await?;
        let start_call_s = began.elapsed().as_secs_f64();

        session.say("it is killed, and the next one adopts what is ready");
        keeper.kill().await?;
        let probed = self.probed();
        let began = Instant::now();
        let mut keeper = self.keeper()?;
        let again = |now: &[u64]| now.iter().zip(&probed).filter(|(now, before)| now > before).count();
        let listed = self.lists();
        self.until("all machines to be listed and probed", || async {
            Ok(again(&self.probed()) >= self.count && self.lists() > listed)
        })
        .await?;
        let adopted_s = began.elapsed().as_secs_f64();
        keeper.kill().await?;
        Ok(KeeperLoad {
            machines: u32::try_from(self.count)?,
            rss_mib,
            cores: spent.as_secs_f64() / span,
            calls_per_s: calls as f64 / span,
            writes_per_s: writes as f64 / span,
            start_call_s,
            adopted_s,
            adopted_unanswered_s,
            refused: self.account.account().exchanges().iter().filter(|seen| seen.status == 429).count(),
        })
    }

    /// A keeper process, always of the same name: it takes its pools at once.
    fn keeper(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["keeper", "--id", "bench", "--log", "error", "--config"]).arg(self.config);
        Ok(command.stdout(std::process::Stdio::null()).kill_on_drop(true).spawn()?)
    }

    async fn all_ready(&self) -> anyhow::Result<()> {
        self.until("all machines to be ready", || async {
            let rows = self.operator.rows().await?;
            let is_ready =
                |row: &&Row| row.specs.pool == self.pool && row.life.state() == MachineState::Ready;
            Ok(rows.values().filter(is_ready).count() >= self.count)
        })
        .await
    }

    /// Completions that each machine gave.
    fn probed(&self) -> Vec<u64> {
        let account = self.account.account();
        let servers = account.machines().into_iter().take(self.count);
        servers.map(|seen| account.server(&seen.id).map_or(0, |server| server.stats().finished)).collect()
    }

    fn calls(&self) -> usize {
        self.account.account().exchanges().len()
    }

    fn lists(&self) -> usize {
        let lists = |path: &str| path.ends_with("/instances");
        self.account.account().exchanges().iter().filter(|seen| lists(&seen.path)).count()
    }

    fn launches(&self) -> usize {
        self.account.account().log().iter().filter(|action| action.act == Act::Ordered).count()
    }

    /// Messages that were ever stored in the bucket of machines.
    async fn stored(&self) -> anyhow::Result<u64> {
        let bucket = schemas::topology::bucket_stream(schemas::topology::MACHINES_BUCKET);
        let subject = format!("STREAM.INFO.{bucket}");
        let info = api::ask(self.producer.client(), &subject, &serde_json::Value::Null).await?;
        let last = info.pointer("/state/last_seq").and_then(serde_json::Value::as_u64);
        last.context("the bucket of machines does not say how much it stored")
    }

    async fn until<F>(&self, what: &str, condition: impl Fn() -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<bool>>,
    {
        let waiting = async {
            while !condition().await? {
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let late = || format!("{what}: not within {} s", WITHIN.as_secs());
        timeout(WITHIN, waiting).await.with_context(late)?
    }
}

fn rents(port: u16) -> lambda::LambdaPool {
    lambda::LambdaPool {
        sku: SKU.into(),
        places: vec![lambda::LambdaPlace { region: PLACE.into(), firewall_ruleset: None }],
        image_family: None,
        image: "vllm/vllm-openai@sha256:0".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        port,
        start_within: None,
    }
}

/// The keeper's configuration: `pools` are id, model and how many machines are kept in any case.
fn toml(
    session: &Session,
    link: &LinkConfig,
    account: &rented::Lambda,
    folder: &Path,
    pools: &[(&PoolId, &str, u32)],
) -> anyhow::Result<String> {
    let topology = &session.config.topology;
    let models: Vec<String> = topology.catalog.names().map(|name| format!("{name:?}")).collect();
    let regions: Vec<String> = topology.regions.iter().map(|region| format!("\"{region}\"")).collect();
    let mut text = format!(
        "[nats]\nurl = {url:?}\n[beacon]\nregions = [{regions}]\nmodels = [{models}]\n\
         [[landlords]]\nkind = \"lambda\"\nbase_url = {base:?}\napi_key_file = {key:?}\nssh_public_key = {SSH_KEY:?}\n",
        url = link.urls.first().context("no NATS address")?.exposed(),
        regions = regions.join(", "),
        models = models.join(", "),
        base = account.url(),
        key = folder.join("key").display().to_string(),
    );
    for (pool, model, least) in pools {
        let most = (*least).max(1);
        write!(
            text,
            "[[pools]]\nprovider = \"{provider}\"\nregion = \"{region}\"\nkind = \"rented\"\n\
             machine_secret_file = {secret:?}\nslots = 4\n\
             models = [{{ model = {model:?}, served_as = \"m\", sku = \"A10\" }}]\n\
             [pools.rent]\nlandlord = \"lambda\"\nsku = {SKU:?}\nplaces = [{PLACE:?}]\nslots = 4\n\
             usd_per_hour_max = \"2\"\npool_usd_per_hour_max = \"{dollars}\"\nleast = {least}\nmost = {most}\n\
             machine = {{ image = \"vllm/vllm-openai@sha256:0\", port = {port} }}\n",
            provider = pool.provider,
            region = pool.region,
            secret = folder.join("secret").display().to_string(),
            dollars = 2 * most,
            port = account.account().port(),
        )?;
    }
    Ok(text)
}
