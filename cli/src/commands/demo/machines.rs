//! The demo's rented machines: the keeper has them ready before the jobs come, and they are gone before the bills are read.

use std::time::Duration;

use anyhow::bail;
use keepers::{operator::Operator, store::StoreError, wish::Wish};
use schemas::{PoolId, machine::MachineState, time::Clock as _};
use tokio::time::{Instant, sleep};
use transport::SystemClock;

use crate::{environment, session::Session};

/// All machines are ready within this; they boot in seconds.
const READY_WITHIN: Duration = Duration::from_secs(45);
/// ... and gone within this, their bills final.
const GONE_WITHIN: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The pools that rent, and how many machines each has at least.
pub(super) fn rents(session: &Session) -> Vec<(PoolId, u32)> {
    let pools = session.config.pools.iter();
    pools.filter_map(|pool| Some((pool.id.clone(), pool.rent()?.least()))).collect()
}

/// Waits until every pool that rents has the machines that it keeps in any case.
pub(super) async fn until_ready(session: &Session, operator: &Operator) -> anyhow::Result<()> {
    let rents = rents(session);
    let wanted: u32 = rents.iter().map(|(_, least)| least).sum();
    if wanted == 0 {
        return Ok(());
    }
    session.say(format!("{wanted} machines are rented; their pools take jobs when they are ready"));
    let began = Instant::now();
    loop {
        let mut missing = Vec::new();
        for (pool, least) in &rents {
            let ready = count(operator, pool, |state| state == MachineState::Ready).await?;
            if ready < *least {
                missing.push(format!("{pool} has {ready} of {least}"));
            }
        }
        if missing.is_empty() {
            session.say(format!("{wanted} machines are ready after {:.1} s", began.elapsed().as_secs_f64()));
            return Ok(());
        }
        if began.elapsed() > READY_WITHIN {
            bail!("machines are not ready in {} s: {}", READY_WITHIN.as_secs(), missing.join(", "));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Asks the keeper to end all machines, and waits until they are gone.
pub(super) async fn end(session: &Session, operator: &Operator) -> anyhow::Result<()> {
    let rents = rents(session);
    if rents.is_empty() {
        return Ok(());
    }
    session.say("all machines are given back; waiting for their last bills");
    for (pool, _) in &rents {
        stop(operator, pool).await?;
    }
    let began = Instant::now();
    loop {
        let mut left = Vec::new();
        for (pool, _) in &rents {
            let count = count(operator, pool, |_| true).await?;
            if count > 0 {
                left.push(format!("{pool} has {count}"));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > GONE_WITHIN {
            bail!("machines are not gone in {} s: {}", GONE_WITHIN.as_secs(), left.join(", "));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn stop(operator: &Operator, pool: &PoolId) -> Result<(), StoreError> {
    let (before, revision) = operator.wish(pool).await?;
    let (by, at_us) = (environment::process_name().to_string(), SystemClock.now());
    operator.ask(pool, &Wish { stopped: true, by, at_us, ..before }, revision).await
}

async fn count(
    operator: &Operator,
    pool: &PoolId,
    wanted: impl Fn(MachineState) -> bool,
) -> Result<u32, StoreError> {
    let rows = operator.store().rows(pool).await?;
    let found = rows.values().filter(|(row, _)| wanted(row.life.state())).count();
    Ok(u32::try_from(found).unwrap_or(u32::MAX))
}
