//! Asks again until the server does what must be done: a cost event that is not stored would be money that no ledger knows.

use std::time::Duration;

use schemas::{cost::CostEvent, job::Head};
use tokio::time::sleep;
use tracing::error;
use transport::{PublishError, Publisher, replies::Address};

/// The first pause after a refusal; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause: a stream that is full or missing needs a person, who should not wait long once it is mended.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The pauses between attempts to have something done. There is no last one: whoever waits is ended with its process, and what it
/// wanted is found to be missing by the next holder.
#[derive(Clone, Copy, Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE_FIRST)
    }
}

impl Pauses {
    /// Waits, longer each time.
    pub async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

/// Stores the cost event of an attempt of `head`; returns when it is stored.
pub async fn book(publisher: &Publisher, head: &Head, event: &CostEvent) {
    let Some(id) = event.message_id() else { return };
    let mut pauses = Pauses::default();
    loop {
        let (subject, headers, body) = Address::of(head).cost(event, id.clone());
        match publisher.publish(subject, headers, body).await {
            Ok(_) => return,
            // It stays so, and whoever waits for it would wait for ever.
            Err(error @ PublishError::TooLarge { .. }) => {
                error!(job = %head.id, %error, "cost event not stored, and never will be");
                return;
            }
            Err(error) => error!(job = %head.id, %error, "cost event not stored; trying again"),
        }
        pauses.wait().await;
    }
}
