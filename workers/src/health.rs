//! Asks a provider now and then whether it could take work, and each minute how far away it is.

use std::{sync::Arc, time::Duration};

use schemas::PoolId;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::provider::{Health, Provider, Sight};

/// Checks missed in a row before the provider counts as down: a busy server misses one now and then.
const MISSES: u32 = 3;
/// Between two looks at the way: it changes with the network, and each look is two requests.
const WAY_EVERY: Duration = Duration::from_secs(60);

/// Checks each `every` and tells what it found, until `stop`.
pub(crate) async fn watch(
    pool: PoolId,
    provider: Arc<dyn Provider>,
    every: Duration,
    tell: watch::Sender<Sight>,
    stop: CancellationToken,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut misses, mut way_due) = (0u32, Instant::now());
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
            // After a check the connection is open, or soon is.
            let looked = up && Instant::now() >= way_due;
            let round_trip = if looked { provider.round_trip().await } else { None };
            if looked {
                way_due = Instant::now() + WAY_EVERY;
            }
            tell.send_if_modified(|now| {
                let round_trip = if looked { round_trip } else { now.round_trip };
                let news = Sight { up: Some(up), round_trip };
                std::mem::replace(now, news) != news
            });
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = checking => {}
    }
}
