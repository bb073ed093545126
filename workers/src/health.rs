//! Asks a provider now and then whether it could take work.

use std::{sync::Arc, time::Duration};

use schemas::PoolId;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::provider::{Health, Provider};

/// Checks missed in a row before the provider counts as down: a busy server misses one now and then.
const MISSES: u32 = 3;

/// Checks each `every` and tells what it found, until `stop`.
pub(crate) async fn watch(
    pool: PoolId,
    provider: Arc<dyn Provider>,
    every: Duration,
    tell: watch::Sender<Option<bool>>,
    stop: CancellationToken,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut misses = 0u32;
    let checking = async {
        loop {
            tick.tick().await;
            let up = match provider.health().await {
                Health::Up => {
                    misses = 0;
                    true
                }
                Health::Down(failure) => {
                    misses += 1;
                    if misses == MISSES {
                        warn!(pool = %pool, class = %failure.class, message = failure.message, "provider is down");
                    }
                    misses < MISSES
                }
            };
            tell.send_if_modified(|now| now.replace(up) != Some(up));
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = checking => {}
    }
}
