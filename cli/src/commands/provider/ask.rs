//! Asks the provider of each pool, and each account once.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _, Shared as SharedFuture, join_all};
use keepers::{account::Account, survey};
use schemas::{
    PoolId,
    check::{Aspect, Checked, Finding, Priced, price},
    quoted::Quoted,
    time::Clock as _,
};
use tokio::time::timeout;
use transport::SystemClock;

use crate::{
    config::{Config, ConfigError, pools::Pool, process::Shared},
    simulated::Simulated,
};

/// All questions about one pool are over by then: a handful of requests, each with a shorter bound of its own.
const WITHIN: Duration = Duration::from_secs(90);

/// A pool and what was found.
pub(super) struct Looked {
    pub(super) pool: PoolId,
    /// One per question, in the order of the questions.
    pub(super) findings: Vec<Finding>,
}

/// Asks.
pub(super) struct Asker<'a> {
    config: &'a Config,
    pools: &'a [&'a Pool],
    tolerance: Option<u32>,
    /// Pools of simulators are asked at simulators of this process.
    simulated: Simulated,
    shared: Shared,
}

type Surveyed<'a> = SharedFuture<BoxFuture<'a, Arc<survey::Survey>>>;

impl<'a> Asker<'a> {
    /// Starts the simulators that pools name, at free ports.
    pub(super) async fn open(
        config: &'a Config,
        pools: &'a [&'a Pool],
        tolerance: Option<u32>,
    ) -> anyhow::Result<Self> {
        let named = |name: &str| pools.iter().any(|pool| pool.simulator() == Some(name));
        let mut simulators: Vec<_> =
            config.simulators.iter().filter(|one| named(&one.name)).cloned().collect();
        // Those of a `beacon up` may hold the configured ports.
        simulators.iter_mut().for_each(|one| one.listen.set_port(0));
        let rents = |name: &str| {
            pools.iter().any(|pool| pool.rent().and_then(|rent| config.simulated_account(rent)) == Some(name))
        };
        let accounts: Vec<_> = config.accounts.iter().filter(|one| rents(&one.name)).cloned().collect();
        let simulated = Simulated::start_these(&simulators, &accounts).await?;
        Ok(Self { config, pools, tolerance, simulated, shared: Shared::default() })
    }

    pub(super) async fn close(self) {
        self.simulated.stop().await;
    }

    /// All pools side by side.
    pub(super) async fn ask(&self) -> Vec<Looked> {
        let accounts = self.accounts();
        let surveys: BTreeMap<&str, Surveyed<'_>> = accounts
            .iter()
            .filter_map(|(name, account)| {
                let account = Arc::clone(account.as_ref().ok()?);
                let survey = async move { Arc::new(account.survey().await) };
                Some((*name, survey.boxed().shared()))
            })
            .collect();
        let ours: Vec<String> = self.config.pools.iter().flat_map(Pool::handles).collect();
        let looks = self.pools.iter().map(|pool| async {
            let mut findings = match pool.rent() {
                Some(rent) => {
                    let account = accounts.get(rent.landlord()).map(|account| account.as_ref().map(drop));
                    self.bounded(self.rented(pool, account, surveys.get(rent.landlord()))).await
                }
                None => self.bounded(self.called(pool, &ours)).await,
            };
            findings.sort_by_key(|finding| finding.aspect);
            Looked { pool: pool.id.clone(), findings }
        });
        join_all(looks).await
    }

    async fn bounded(&self, asked: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
        timeout(WITHIN, asked).await.unwrap_or_else(|_| {
            let found = format!("not all was answered within {} s", WITHIN.as_secs());
            vec![Finding::unknown(Aspect::Key, found, "check again, or look by hand")]
        })
    }

    /// The accounts in which pools rent, with their keys read.
    fn accounts(&self) -> BTreeMap<&'a str, Result<Arc<Account>, ConfigError>> {
        let named = self.pools.iter().filter_map(|pool| Some(pool.rent()?.landlord()));
        named.map(|name| (name, self.config.account(name, &|name| self.simulated.account(name)))).collect()
    }

    /// A pool whose jobs go to a provider's own service.
    async fn called(&self, pool: &Pool, ours: &[String]) -> Vec<Finding> {
        let provider = match self.config.provider(pool, &|name| self.simulated.url(name), &self.shared) {
            Ok(provider) => provider,
            Err(error) => return vec![secret(&error)],
        };
        let asked = pool.asked(ours.to_vec());
        let Checked { mut findings, prices } = provider.check(&asked).await;
        findings.push(self.price(pool, &prices));
        findings
    }

    /// A pool of machines, by its account.
    async fn rented(
        &self,
        pool: &Pool,
        account: Option<Result<(), &ConfigError>>,
        survey: Option<&Surveyed<'_>>,
    ) -> Vec<Finding> {
        let own = self.config.check_pool_secrets(pool).err();
        let missing = account.and_then(Result::err).or(own.as_ref()).map(secret);
        let Some(survey) = survey else { return missing.into_iter().collect() };
        let survey = survey.clone().await;
        let mut findings = survey::findings(&survey, &pool.id);
        let of = survey.pools.get(&pool.id).and_then(|of| of.price.clone());
        findings.push(of.unwrap_or_else(|| self.price(pool, &survey.prices)));
        findings.push(Account::way(&survey, &pool.id).await);
        findings.extend(missing);
        findings
    }

    /// The worst of the prices of a pool's models: one line per question.
    fn price(&self, pool: &Pool, quoted: &Quoted) -> Finding {
        let now = SystemClock.now();
        let tolerance = self.tolerance.unwrap_or(pool.tolerance());
        let of = |sku: &str| {
            let book = &self.config.prices;
            let priced =
                Priced { book, provider: pool.price_name(), sku, tolerance, needed: pool.is_booked() };
            price(priced, quoted, now)
        };
        let skus = pool.skus();
        let judged = skus.iter().map(|sku| of(sku)).max_by_key(|finding| finding.voice);
        judged.unwrap_or_else(|| Finding::unknown(Aspect::Price, "the pool names no SKU", "name one"))
    }
}

/// A secret that is not there: one line that names its variable or file. Other pools are asked all the same.
fn secret(error: &ConfigError) -> Finding {
    Finding::wrong(Aspect::Secret, error.to_string(), "set it where `beacon` runs, and check again")
}
