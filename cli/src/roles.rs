//! The roles that run in this process, and the order in which they end: dispatchers first, so that no more work is
//! handed out, then pools, which finish their jobs and book the standing cost.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use dispatcher::{Dispatcher, DispatcherConfig};
use keepers::{config::KeeperConfig, keeper::Keeper, probe::HttpProber, tap};
use schemas::{PoolId, Region, WorkerId, time::Clock as _};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;
use transport::{LinkConfig, SystemClock};
use workers::{Pool, PoolConfig};

use crate::{
    config::{
        Config,
        pools::Pool as PoolRules,
        process::{Place, Shared, SimulatedAccount},
    },
    environment,
    signals::Signals,
    simulated::Simulated,
};

/// The time beyond a role's own grace period in which connections are closed.
const MARGIN: Duration = Duration::from_secs(10);

/// Running roles. Dropping it ends them where they stand.
#[derive(Debug, Default)]
pub(crate) struct Roles {
    dispatchers: Group,
    pools: Group,
    keepers: Group,
}

/// Roles of one kind, which end together.
#[derive(Debug, Default)]
struct Group {
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    grace: Duration,
}

impl Group {
    fn spawn(&mut self, grace: Duration, role: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.grace = self.grace.max(grace);
        self.tasks.spawn(role);
    }

    /// The next role that ends by itself; never returns while there is none.
    async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => anyhow::anyhow!("a role ended though nobody asked it to"),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a role broke down"),
            None => std::future::pending().await,
        }
    }

    /// Asks all to end and waits; the first error is told.
    async fn stop(&mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let mut outcome = Ok(());
        let ending = async {
            while let Some(ended) = self.tasks.join_next().await {
                let ended = ended.context("a role broke down").and_then(|inner| inner);
                outcome = std::mem::replace(&mut outcome, Ok(())).and(ended);
            }
        };
        timeout(self.grace + MARGIN, ending)
            .await
            .map_err(|_| anyhow::anyhow!("a role did not end within its grace period"))
            .and(outcome)
    }
}

impl Roles {
    /// Connects a dispatcher, which makes the streams, and lets it run.
    pub(crate) async fn dispatcher(&mut self, config: DispatcherConfig) -> anyhow::Result<()> {
        let grace = config.grace;
        let dispatcher = Dispatcher::connect(config).await.context("the dispatcher cannot start")?;
        let shutdown = self.dispatchers.shutdown.clone();
        self.dispatchers
            .spawn(grace, async move { dispatcher.run(shutdown).await.context("the dispatcher failed") });
        Ok(())
    }

    /// Connects a worker of a pool and lets it run.
    pub(crate) async fn pool(&mut self, config: PoolConfig) -> anyhow::Result<()> {
        let (id, grace) = (config.pool.clone(), config.grace);
        let pool = Pool::connect(config).await.with_context(|| format!("pool {id} cannot start"))?;
        let shutdown = self.pools.shutdown.clone();
        self.pools.spawn(grace, async move {
            pool.run(shutdown).await.with_context(|| format!("pool {id} failed"))
        });
        Ok(())
    }

    /// Connects a keeper and lets it run.
    pub(crate) async fn keeper(&mut self, config: KeeperConfig) -> anyhow::Result<()> {
        let grace = config.grace;
        let keeper = Box::pin(Keeper::connect(config)).await.context("the keeper cannot start")?;
        let shutdown = self.keepers.shutdown.clone();
        self.keepers.spawn(grace, async move { keeper.run(shutdown).await.context("the keeper failed") });
        Ok(())
    }

    /// Listens for webhooks, where the configuration says so.
    pub(crate) async fn webhooks(&mut self, config: &Config, shared: &Shared) -> anyhow::Result<()> {
        let (Some(webhooks), Some(receive)) = (&shared.webhooks, &config.workers.webhooks) else {
            return Ok(());
        };
        let shutdown = self.pools.shutdown.clone();
        let (address, serving) = Arc::clone(webhooks)
            .serve(receive.listen, shutdown)
            .await
            .with_context(|| format!("webhooks cannot listen on {}", receive.listen))?;
        info!(%address, public_url = receive.public_url, "webhooks are received");
        self.pools.spawn(Duration::ZERO, async move { serving.await.context("the webhook receiver failed") });
        Ok(())
    }

    /// Connects a dispatcher for all regions, which makes the streams, and then every pool.
    pub(crate) async fn everything(
        &mut self,
        config: &Config,
        link: &LinkConfig,
        simulated: &Simulated,
    ) -> anyhow::Result<()> {
        let worker = environment::process_name();
        let regions = config.topology.regions.clone();
        self.dispatcher(dispatcher_config(config, link.clone(), worker.clone(), regions)).await?;
        let shared = Shared::new(&config.workers);
        self.webhooks(config, &shared).await?;
        let place =
            Place { link: link.clone(), worker, simulated: &|name| simulated.url(name), shared: &shared };
        for pool in &config.pools {
            self.pool(config.build(pool, &place)?).await?;
        }
        let rented: Vec<&PoolRules> = config.pools.iter().filter(|pool| pool.rent().is_some()).collect();
        if !rented.is_empty() {
            let name = environment::host_name();
            let of = |account: &str| simulated.account(account);
            self.keeper(keeper_config(config, link.clone(), &name, &rented, &of)?).await?;
        }
        Ok(())
    }

    /// Waits until a role ends by itself, which is an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.dispatchers.ended() => error,
            error = self.pools.ended() => error,
            error = self.keepers.ended() => error,
        }
    }

    /// Runs until a signal comes or a role fails, then ends in order. SIGTERM is how a role is meant to be ended, so
    /// it is no failure; Ctrl-C says 130, as everywhere.
    pub(crate) async fn serve(mut self, signals: &Signals) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            () = signals.shutdown().cancelled() => Ok(()),
            error = self.ended() => Err(error),
        };
        outcome.and(self.stop().await)?;
        signals.conclude_role()
    }

    /// Ends all roles in order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        info!("stopping: no more work is taken, running jobs are finished");
        let dispatchers = self.dispatchers.stop().await;
        let pools = self.pools.stop().await;
        // Last, since it books what no job used. Its machines stand on.
        let keepers = self.keepers.stop().await;
        dispatchers.and(pools).and(keepers)
    }
}

/// The dispatcher's part of the configuration.
pub(crate) fn dispatcher_config(
    config: &Config,
    link: LinkConfig,
    id: WorkerId,
    regions: Vec<Region>,
) -> DispatcherConfig {
    DispatcherConfig {
        link,
        id,
        topology: config.topology.clone(),
        regions,
        pools: config.pools.iter().map(|pool| pool.known(&config.prices, SystemClock.now())).collect(),
        policy: config.policy.clone(),
        breaker: config.breaker.clone(),
        offers: config.offers.clone(),
        trim: config.trim.clone(),
        retries: config.retries.clone(),
        budgets: config.budgets.clone(),
        weights: config.weights.clone(),
        grace: config.dispatcher_grace,
    }
}

/// The settings of a keeper for `pools`. Reads the accounts' keys. `simulated` are the accounts that are simulated in this process.
pub(crate) fn keeper_config(
    config: &Config,
    link: LinkConfig,
    keeper: &str,
    pools: &[&PoolRules],
    simulated: &dyn Fn(&str) -> Option<SimulatedAccount>,
) -> anyhow::Result<KeeperConfig> {
    let (accounts, pools) = config.rents(pools, simulated)?;
    Ok(KeeperConfig {
        link,
        keeper: keeper.to_owned(),
        accounts,
        pools,
        prober: Arc::new(HttpProber::new()?),
        price_book: config.prices.version.clone(),
        standing_every: config.keeping.standing_every,
        forsaken_after: config.keeping.forsaken_after,
        grace: config.keeping.grace,
        tap: Arc::new(tap::Open),
    })
}

/// `a@x, b@y` for a message.
pub(crate) fn names<'a>(pools: impl IntoIterator<Item = &'a PoolId>) -> String {
    pools.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
