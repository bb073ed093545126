//! One keeper process: its accounts list machines, and each of its pools is kept by whoever holds the pool's lease.
//!
//! ```text
//!  Account::run ──lists──▶ ┐
//!  heartbeats, demand ───▶ │ acting: events ─▶ machine::apply ─▶ the row is stored ─▶ control calls, probes ─▶ events
//!  an operator's wish ───▶ │                                                                          ⟲
//!  timers ───────────────▶ ┘ the pool's plan, standing cost
//! ```
//!
//! A keeper holds nothing that is not in the bucket: killed at any point, its successor reads the rows, lists, and goes on.

mod acting;
mod carry;
mod desk;
mod ears;
mod hold;
mod money;
mod plan;
mod standby;
mod strays;
mod warnings;

use std::{collections::BTreeMap, sync::Arc};

use schemas::PoolId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::desk::Desk;
use crate::{
    config::KeeperConfig,
    connection::{Connection, ConnectionError},
    row::{Life, Row},
    store::StoreError,
};

/// Why a keeper did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The rows could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pool names an account that is not there.
    #[error("pool {pool} rents at `{account}`, and no key of it is configured")]
    NoAccount {
        /// The pool.
        pool: PoolId,
        /// The provider.
        account: String,
    },
    /// Machines stand in an account of which no key is configured: nobody could end them.
    #[error(
        "machines of ours stand at `{account}`, of which no key is configured ({count}: {machines}); give the key back, or end them there by hand and run `beacon pools forget`"
    )]
    Unreachable {
        /// The provider.
        account: String,
        /// How many.
        count: usize,
        /// Which.
        machines: String,
    },
    /// A part of it broke down.
    #[error("a keeper of a pool broke down")]
    Broken,
}

/// A connected keeper.
pub struct Keeper {
    config: KeeperConfig,
    connection: Connection,
    desks: Vec<Desk>,
    /// Machines of pools that our configuration does not have any more.
    orphans: Vec<Row>,
}

impl Keeper {
    /// Connects and reads the rows; acts only in [`Keeper::run`].
    pub async fn connect(config: KeeperConfig) -> Result<Self, KeeperError> {
        let connection = Connection::open(&config.link, &format!("keeper-{}", config.keeper)).await?;
        let mut desks = Vec::with_capacity(config.pools.len());
        for settings in &config.pools {
            let account = config.accounts.iter().find(|account| account.name() == settings.account);
            let no_account =
                || KeeperError::NoAccount { pool: settings.pool.clone(), account: settings.account.clone() };
            let account = Arc::clone(account.ok_or_else(no_account)?);
            desks.push(Desk::new(&config, settings, account, &connection));
        }
        let rows = connection.store.all_rows().await?;
        let orphans = orphans(rows.into_values().map(|(row, _)| row), &config)?;
        Ok(Self { config, connection, desks, orphans })
    }

    /// Keeps until `shutdown`. Machines stand on; another keeper, or this one after a restart, goes on with them.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), KeeperError> {
        info!(keeper = %self.config.keeper, pools = self.desks.len(), "keeping");
        for row in &self.orphans {
            error!(
                machine = %row.specs.machine, pool = %row.specs.pool, provider = %row.specs.landlord,
                id = row.id.as_deref().unwrap_or("unknown"),
                after = ?self.config.forsaken_after,
                "a machine of ours is in no pool of this configuration; unless another keeper keeps its pool it is ended soon: put the pool back to keep it"
            );
        }
        let (mut tasks, stop) = (JoinSet::new(), shutdown.child_token());
        for account in self.config.accounts.clone() {
            let (store, keeper) = (self.connection.store.clone(), self.config.keeper.clone());
            let patience = self.config.forsaken_after;
            tasks.spawn(strays::tell(Arc::clone(&account), store, keeper, patience, stop.clone()));
            tasks.spawn(account.run(stop.clone()));
        }
        for desk in self.orphan_desks() {
            tasks.spawn(standby::run(desk, stop.clone()));
        }
        for desk in std::mem::take(&mut self.desks) {
            tasks.spawn(standby::run(desk, stop.clone()));
        }
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = &ended {
                error!(%error, "a part of the keeper broke down");
            }
            if ended.is_err() || !stop.is_cancelled() {
                outcome = Err(KeeperError::Broken);
                stop.cancel();
            }
        }
        self.connection.close().await;
        outcome
    }

    /// Pools that only their machines remember are kept like others, with a wish for none.
    fn orphan_desks(&self) -> Vec<Desk> {
        let mut pools: BTreeMap<&PoolId, &Row> = BTreeMap::new();
        for row in &self.orphans {
            pools.entry(&row.specs.pool).or_insert(row);
        }
        let account = |row: &Row| self.config.accounts.iter().find(|a| a.name() == row.specs.landlord);
        let desk = |row: &Row| {
            let account = Arc::clone(account(row)?);
            Some(Desk::of_orphans(&self.config, row, account, &self.connection))
        };
        pools.into_values().filter_map(desk).collect()
    }
}

/// The machines of pools that are not configured. An error where nobody could end them.
fn orphans(rows: impl Iterator<Item = Row>, config: &KeeperConfig) -> Result<Vec<Row>, KeeperError> {
    let configured = |row: &Row| config.pools.iter().any(|settings| settings.pool == row.specs.pool);
    let orphans: Vec<Row> = rows.filter(|row| row.life != Life::Gone && !configured(row)).collect();
    let reachable = |row: &&Row| config.accounts.iter().any(|account| account.name() == row.specs.landlord);
    if let Some(first) = orphans.iter().find(|row| !reachable(row)) {
        let account = first.specs.landlord.clone();
        let named: Vec<String> = orphans
            .iter()
            .filter(|row| row.specs.landlord == account)
            .map(|row| row.id.clone().unwrap_or_else(|| row.specs.machine.to_string()))
            .collect();
        return Err(KeeperError::Unreachable { account, count: named.len(), machines: named.join(", ") });
    }
    Ok(orphans)
}
