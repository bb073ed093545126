//! What all parts of this landlord share: the daemon, the books, the starts and tunnels that are under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use schemas::{Micros, PoolId, time::Clock};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    book::Book,
    config::{GolemConfig, GolemPool},
    tunnel::Tunnel,
    yagna::Yagna,
};
use crate::landlord::{CallError, Notes};

/// The shared part.
pub(super) struct Site {
    pub(super) config: GolemConfig,
    pub(super) yagna: Yagna,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    book: Mutex<Book>,
    /// Pools that left the configuration and whose papers are followed all the same.
    left: Mutex<BTreeSet<PoolId>>,
    starts: Mutex<BTreeMap<String, Start>>,
}

/// How far the start of an agreement's machine is, in this process.
pub(super) struct Start {
    pub(super) stage: Stage,
    /// Written down at the next list.
    pub(super) notes: Notes,
    /// Ends the task that carries it, if it is dropped.
    pub(super) _carrier: DropGuard,
}

/// As [`Start`] says.
pub(super) enum Stage {
    /// Calls are being made.
    Running,
    /// The tunnel is open.
    Up(Tunnel),
    /// It cannot become usable.
    Failed(String),
}

impl Site {
    pub(super) fn new(config: GolemConfig, clock: Arc<dyn Clock>) -> Result<Self, CallError> {
        if let Some(fault) = config.fault() {
            return Err(CallError::Misconfigured(fault));
        }
        let yagna = Yagna::new(&config.url, &config.app_key)?;
        Ok(Self {
            config,
            yagna,
            clock,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            book: Mutex::default(),
            left: Mutex::default(),
            starts: Mutex::default(),
        })
    }

    pub(super) fn now(&self) -> Micros {
        self.clock.now()
    }

    pub(super) fn pool(&self, pool: &PoolId) -> Result<&GolemPool, CallError> {
        let settings = self.config.pools.get(pool);
        settings.ok_or_else(|| CallError::Misconfigured(format!("golem: pool {pool} is not configured")))
    }

    /// Whether a row's pool left the configuration, and this is the first that is heard of it.
    pub(super) fn is_newly_left(&self, pool: &PoolId) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        !self.config.pools.contains_key(pool) && left.insert(pool.clone())
    }

    /// The books. Never held across an await.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The starts. Never held across an await.
    pub(super) fn starts(&self) -> MutexGuard<'_, BTreeMap<String, Start>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
