//! What there is to know of pools that rent, for every subcommand.

use std::collections::BTreeMap;

use keepers::{
    fleet,
    operator::Operator,
    row::Row,
    wish::{Status, Wish},
};
use schemas::{PoolId, UsdNanos, time::Clock as _};
use transport::SystemClock;

use crate::{exit::Usage, session::Session};

/// A pool, as it is shown.
pub(super) struct Shown {
    pub(super) pool: PoolId,
    /// Who keeps it now.
    pub(super) keeper: Option<String>,
    pub(super) status: Option<Status>,
    pub(super) wish: Wish,
    pub(super) rows: Vec<Row>,
    pub(super) configured: bool,
}

/// All pools that rent or have machines, or those of `only`.
pub(super) async fn gather(
    session: &Session,
    operator: &Operator,
    only: &[PoolId],
) -> anyhow::Result<Vec<Shown>> {
    let mut rows: BTreeMap<PoolId, Vec<Row>> = BTreeMap::new();
    for row in operator.rows().await?.into_values() {
        rows.entry(row.specs.pool.clone()).or_default().push(row);
    }
    let rented = session.config.pools.iter().filter(|pool| pool.rent().is_some());
    let configured: Vec<PoolId> = rented.map(|pool| pool.id.clone()).collect();
    for pool in &configured {
        rows.entry(pool.clone()).or_default();
    }
    if let Some(unknown) = only.iter().find(|pool| !rows.contains_key(pool)) {
        let known: Vec<String> = rows.keys().map(ToString::to_string).collect();
        let known = if known.is_empty() { "none does".to_owned() } else { known.join(", ") };
        return Err(Usage(format!(
            "pool `{unknown}` rents no machines and has none (those that do: {known})"
        ))
        .into());
    }
    let (now, mut shown) = (SystemClock.now(), Vec::new());
    for (pool, rows) in rows.into_iter().filter(|(pool, _)| only.is_empty() || only.contains(pool)) {
        let (status, keeper) = (operator.status(&pool).await?, operator.keeper(&pool, now).await?);
        let (wish, _) = operator.wish(&pool).await?;
        let configured = configured.contains(&pool);
        shown.push(Shown { pool, keeper, status, wish, rows, configured });
    }
    Ok(shown)
}

/// How many machines cost something now, and what an hour of all of them does.
pub(super) fn standing(shown: &Shown) -> (u32, UsdNanos) {
    let count = shown.rows.iter().filter(|row| row.life.state().counts()).count();
    (u32::try_from(count).unwrap_or(u32::MAX), fleet::usd_per_hour(&shown.rows))
}

/// `1 machine`, `3 machines`.
pub(super) fn machines(count: u32) -> String {
    if count == 1 { "1 machine".into() } else { format!("{count} machines") }
}
