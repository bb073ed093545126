//! Asks a provider now and then whether it could take work and how busy it is, and each minute how far away it is.

use std::{sync::Arc, time::Duration};

use schemas::PoolId;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::provider::{Health, Missing, Provider, Sight};

/// Checks missed in a row before the provider counts as down: a busy server misses one now and then.
const MISSES: u32 = 3;
/// Between two looks at the way: it changes with the network, and each look is two requests.
const WAY_EVERY: Duration = Duration::from_secs(60);

/// How many of the models that a server lists are named where one is missing.
const NAMED: usize = 5;

/// Checks each `every` and tells what it found, until `stop`. `models` are the pool's models by their names at the provider: it is
/// asked once whether it has them.
pub(crate) async fn watch(
    pool: PoolId,
    provider: Arc<dyn Provider>,
    models: Vec<String>,
    every: Duration,
    tell: watch::Sender<Sight>,
    stop: CancellationToken,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut misses, mut asked, mut way_due) = (0u32, false, Instant::now());
    let checking = async {
        for check in 0.. {
            tick.tick().await;
            let up = match provider.health().await {
                Health::Up => {
                    if misses >= MISSES {
                        info!(%pool, "provider is up again");
                    }
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
            // What a server said before it fell silent is no news of it.
            let load = if misses == 0 { provider.load() } else { None };
            // After a check the connection is open, or soon is.
            let looked = up && Instant::now() >= way_due;
            let round_trip = if looked {
                way_due = Instant::now() + WAY_EVERY;
                provider.round_trip().await
            } else {
                tell.borrow().round_trip
            };
            tell.send_replace(Sight { up: Some(up), round_trip, load, check: Some(check) });
            if misses == 0 && !std::mem::replace(&mut asked, true) {
                look_for(&pool, provider.as_ref(), &models).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = checking => {}
    }
}

/// Says which models the provider does not list. It may serve them all the same, so this is no failure.
async fn look_for(pool: &PoolId, provider: &dyn Provider, models: &[String]) {
    if let Some(Missing { models, listed }) = provider.missing(models).await {
        let (some, more) = listed.split_at(listed.len().min(NAMED));
        let (missing, listed, more) = (models.join(", "), some.join(", "), more.len());
        warn!(%pool, served_as = missing, listed, more, "the provider does not list a model of the pool; look at served_as");
    }
}
