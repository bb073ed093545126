//! Machines at a provider that bear our mark and that nobody keeps: named in the log and in the bucket, and left alone. Nobody
//! knows whether another Beacon shares the account.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemas::{Micros, time::Clock as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use transport::SystemClock;

use crate::{
    account::Account,
    landlord::Stray,
    lease::Lease,
    store::{Store, StoreError},
    wish::Notices,
};

/// Between looks at whether others keep them.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Tells of one account's strays until `shutdown`. A pool counts as kept until nobody has kept it for `patience`.
pub(super) async fn tell(
    account: Arc<Account>,
    store: Store,
    keeper: String,
    patience: Duration,
    shutdown: CancellationToken,
) {
    let mut found = account.strays();
    let mut since: BTreeMap<String, Micros> = BTreeMap::new();
    let mut told: Vec<String> = Vec::new();
    loop {
        let strays = found.borrow_and_update().clone();
        let now = SystemClock.now();
        let lines = match alone(&store, strays, &mut since, patience, now).await {
            Ok(alone) => alone.iter().map(|stray| line(account.name(), stray)).collect(),
            Err(error) => {
                debug!(%error, "whether others keep them cannot be read now");
                told.clone()
            }
        };
        for line in lines.iter().filter(|line| !told.contains(line)) {
            warn!(provider = account.name(), "{line}");
        }
        if !lines.is_empty() || !told.is_empty() {
            let notices = Notices { keeper: keeper.clone(), at_us: now, lines: lines.clone() };
            store.put(&Notices::key(account.name()), &notices).await;
        }
        told = lines;
        tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(()) = found.changed() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// Those that no keeper keeps which shares our bucket, nor did a moment ago.
async fn alone(
    store: &Store,
    strays: Vec<Stray>,
    since: &mut BTreeMap<String, Micros>,
    patience: Duration,
    now: Micros,
) -> Result<Vec<Stray>, StoreError> {
    since.retain(|id, _| strays.iter().any(|stray| stray.id == *id));
    let (mut rows, mut alone) = (BTreeMap::new(), Vec::new());
    if strays.iter().any(|stray| stray.pool.is_none()) {
        let all = store.all_rows().await?.into_values();
        rows = all.filter_map(|(row, _)| Some((row.id?, row.specs.pool))).collect();
    }
    for stray in strays {
        let first = *since.entry(stray.id.clone()).or_insert(now);
        let pool = stray.pool.clone().or_else(|| rows.get(&stray.id).cloned());
        let lease = match &pool {
            Some(pool) => store.read::<Lease>(&Lease::key(pool)).await?.0,
            None => None,
        };
        // Of a pool that was never kept here there is nothing to wait for.
        if lease.is_none_or(|lease| Lease::is_forsaken(Some(&lease), first, patience, now)) {
            alone.push(Stray { pool, ..stray });
        }
    }
    Ok(alone)
}

fn line(account: &str, stray: &Stray) -> String {
    let Stray { id, pool } = stray;
    let whose = pool.as_ref().map_or_else(
        || "our mark, and no keeper here knows its pool".to_owned(),
        |pool| format!("the mark of pool {pool}, which no keeper keeps"),
    );
    format!(
        "machine {id} at {account} bears {whose}: it costs on; put its pool back into the configuration, or end it at {account} by hand (unless another \
         Beacon rents there)"
    )
}
