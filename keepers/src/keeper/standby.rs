//! Standing by: who may act, and when.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    acting::Acting,
    desk::Desk,
    hold::{Hold, Taken},
};
use crate::{metrics, store::StoreError};

/// Between looks at a lease that another keeper holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that failed in a row before it is told.
const TELL_AFTER: u32 = 3;

/// Keeps a pool until `shutdown`.
pub(super) async fn run(desk: Desk, shutdown: CancellationToken) {
    let (desk, shutdown) = (&desk, &shutdown);
    let (mut failed, pool) = (0_u32, &desk.settings.pool);
    let mut behind: Option<String> = None;
    metrics::acts(pool, false);
    while !shutdown.is_cancelled() {
        match Hold::take(desk).await {
            Ok(Taken::Ours(hold)) => {
                (failed, behind) = (0, None);
                info!(%pool, keeper = %desk.keeper, "keeping a pool");
                metrics::acts(pool, true);
                if let Err(error) = act(desk, hold, shutdown).await {
                    warn!(%pool, %error, "a pool is not kept by this keeper any more");
                }
                desk.account.tell(pool, None);
                metrics::left(pool);
            }
            Ok(Taken::Others(other)) => {
                failed = 0;
                // Told once of each keeper that acts; the desk of orphans says for itself what it waits for.
                if other.is_some() && behind != other && !desk.orphaned {
                    let by = other.as_deref().unwrap_or_default();
                    info!(%pool, keeper = %desk.keeper, by, "standing by: another keeper keeps this pool");
                    behind = other;
                }
            }
            Err(error) => {
                failed += 1;
                if failed == TELL_AFTER {
                    warn!(%pool, %error, "the lease of a pool cannot be read; its machines serve on");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

async fn act(desk: &Desk, hold: Hold, shutdown: &CancellationToken) -> Result<(), StoreError> {
    Acting::begin(desk, hold).await?.run(shutdown).await
}
