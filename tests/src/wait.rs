//! Waiting for a condition, with a deadline.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// Far longer than anything takes here; only a test that fails waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until `condition` gives a value; panics with `what` after [`DEADLINE`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
