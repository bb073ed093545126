//! Golem Network, through a yagna daemon of ours. A machine is an activity under an agreement; its id is the agreement's.
//!
//! ```text
//!  order ─▶ checks ─▶ allocation ─▶ demand ⇄ proposals ─▶ agreement ─▶ confirm ─▶ wait   = a machine, starting
//!  start ─▶ activity ─▶ network ─▶ deploy, start ─▶ run ─▶ tunnel                        = it is up
//!  attend ─▶ debit notes, invoices, allocations; from before the first order until the end of the process
//! ```
//!
//! What an agreement is for is written into our side of it, so that one without a row is found again. Amounts of GLM are exact
//! decimals; they become dollars once, rounded up, at the rate of the order.

mod activity;
mod agreements;
mod book;
mod census;
mod config;
mod debit_notes;
mod decimal;
mod end;
mod facts;
mod invoices;
mod market;
mod offer;
mod order;
mod papers;
mod paying;
mod payment;
mod script;
mod site;
mod start;
mod survey;
mod tariff;
mod tunnel;
mod wire;
mod yagna;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use schemas::{PoolId, UsdNanos, time::Clock};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use config::{GolemConfig, GolemPace, GolemPlace, GolemPool};
pub use decimal::{Decimal, DecimalError};

use crate::landlord::{
    Billed, CallError, Census, Ending, Known, Landlord, Order, Ordered, Parking, Quote, Rules, Steps,
};
use crate::survey::Survey;

/// One yagna daemon.
pub struct Golem {
    site: Arc<site::Site>,
    under_way: order::UnderWay,
    /// Starts and tunnels end with it.
    _stop: DropGuard,
}

impl Golem {
    /// Checks the settings; connects to nothing.
    pub fn new(config: GolemConfig, clock: Arc<dyn Clock>) -> Result<Self, CallError> {
        let site = Arc::new(site::Site::new(config, clock)?);
        let stop = site.stop.clone().drop_guard();
        Ok(Self { site, under_way: order::UnderWay::default(), _stop: stop })
    }

    async fn quotes(&self, pool: &PoolId) -> Result<Vec<Quote>, CallError> {
        let settings = self.site.pool(pool)?;
        payment::check(&self.site).await?;
        let avoided = agreements::avoided(&self.site).await?;
        let offers = market::scan(&self.site, settings).await?;
        let rate = self.site.config.usd_per_glm;
        let quote = |place: &GolemPlace| {
            let wanted = offer::Wanted {
                pool: settings,
                providers: &place.providers,
                avoided: &avoided,
                usd_per_glm: rate,
                usd_per_hour_max: UsdNanos::new(u64::MAX),
                accept_within: Duration::ZERO,
            };
            let cheapest = offers.iter().filter_map(|offer| offer.judge(&wanted).ok()).min();
            // Without an offer it is the most that one may cost.
            let most = tariff::usd_rounded_up(settings.glm_per_hour_max, rate).unwrap_or_default();
            Quote {
                place: place.name.clone(),
                sku: settings.sku.clone(),
                usd_per_hour: cheapest.unwrap_or(most),
                parked_usd_per_hour: UsdNanos::ZERO,
                available: Some(cheapest.is_some()),
            }
        };
        Ok(settings.places.iter().map(quote).collect())
    }
}

impl Landlord for Golem {
    fn rules(&self) -> Rules {
        Rules {
            provider: "golem",
            list_every: self.site.config.pace.list_every,
            looks: 3,
            looks_span: self.site.config.pace.list_every * 2,
            start_within: self.site.config.pace.deploy_within + Duration::from_secs(300),
            broken_for: Duration::from_secs(20),
            billed: Billed::AsTold,
            unit: Duration::ZERO,
            parking: Parking::NotOffered,
        }
    }

    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>> {
        Box::pin(self.quotes(pool))
    }

    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(survey::look_over(&self.site))
    }

    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>> {
        Box::pin(order::order(&self.site, &self.under_way, order, steps))
    }

    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>> {
        Box::pin(census::list(&self.site, &self.under_way, known))
    }

    fn end<'a>(&'a self, machine: &'a Known, _: &'a dyn Steps) -> BoxFuture<'a, Result<Ending, CallError>> {
        Box::pin(end::end(&self.site, machine))
    }

    /// Debit notes, invoices and allocations of all pools, each pool's in tasks of their own: nothing else may hold them up.
    fn attend(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        let site = Arc::clone(&self.site);
        Box::pin(async move {
            let mut loops = JoinSet::new();
            for pool in site.config.pools.keys() {
                for kind in [book::Kind::DebitNotes, book::Kind::Invoices] {
                    loops.spawn(paying::follow(Arc::clone(&site), pool.clone(), kind));
                }
            }
            let upkeep = Arc::clone(&site);
            loops.spawn(async move {
                loop {
                    tokio::select! {
                        () = upkeep.stop.cancelled() => return,
                        () = tokio::time::sleep(upkeep.config.pace.upkeep) => payment::keep_all(&upkeep).await,
                    }
                }
            });
            shutdown.cancelled().await;
            site.stop.cancel();
            while loops.join_next().await.is_some() {}
            site.tasks.close();
            site.tasks.wait().await;
        })
    }
}
