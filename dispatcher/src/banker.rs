//! Asks the shared counters what [`Budgets`] wants to know, so that the task that owns the budgets never waits.
//!
//! The owner hands over draws with [`Banker::ask`] and takes answers from [`Banker::next`] in its `select!`. A draw's message
//! id is its number and this process: however often it is asked, it counts once.

use std::time::Duration;

use async_nats::Client;
use schemas::time::Clock;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};
use transport::{api::ApiError, counters};

use routing::budget::{Budgets, Draw};

/// What became of a draw.
#[derive(Debug)]
pub struct Heard {
    draw: Draw,
    total: Result<u64, ApiError>,
}

/// Draws on their way. There is no bound of its own: each account has at most one, so there are at most as many as rules,
/// times the few ended periods that still settle.
#[derive(Debug)]
pub struct Banker {
    client: Client,
    /// Tells this process from all others and from its own earlier lives.
    life: String,
    asking: JoinSet<Heard>,
}

impl Banker {
    /// Asks on this connection.
    pub fn new(client: Client) -> Self {
        // The client's own unique names; the part before the last dot is the same for all of them.
        let inbox = client.new_inbox();
        let life = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        Self { client, life, asking: JoinSet::new() }
    }

    /// Sends a draw on its way.
    pub fn ask(&mut self, draw: Draw) {
        let (client, id) = (self.client.clone(), format!("{}:{}", self.life, draw.number));
        self.asking.spawn(async move {
            let total = if draw.take == 0 {
                counters::read(&client, &draw.subject).await
            } else {
                counters::add(&client, &draw.subject, draw.take, &id).await
            };
            Heard { draw, total }
        });
    }

    /// The next answer; `None` while nothing is on its way. Cancel-safe.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.asking.join_next().await? {
                Ok(heard) => return Some(heard),
                // The budgets ask again for what they hear nothing of.
                Err(error) => error!(%error, "a draw panicked"),
            }
        }
    }

    /// Tells the budgets what was heard, and sends back what went over a limit. True when there may be money that was not
    /// there before, so that jobs held by a budget should be looked at again.
    pub fn tell(&mut self, budgets: &mut Budgets, heard: Heard, clock: &impl Clock) -> bool {
        let Heard { draw, total } = heard;
        match total {
            Ok(total) => {
                debug!(counter = draw.subject, take = draw.take, total, "drawn");
                if let Some(back) = budgets.drawn(&draw, total, clock.now()) {
                    self.ask(back);
                }
                draw.take >= 0
            }
            Err(error) => {
                warn!(counter = draw.subject, take = draw.take, %error, "the counter of a budget does not answer");
                budgets.failed(&draw, clock.now());
                false
            }
        }
    }

    /// Gives back, before the process ends, what no attempt holds. Waits for at most `patience`; what is not given back by
    /// then stays counted as taken until its period ends.
    pub async fn close(&mut self, budgets: &mut Budgets, clock: &impl Clock, patience: Duration) {
        let settle = async {
            // Twice: a draw that is on its way first has to arrive before it can be given back.
            for _ in 0..2 {
                for draw in budgets.last_draws(clock.now()) {
                    self.ask(draw);
                }
                while let Some(heard) = self.next().await {
                    self.tell(budgets, heard, clock);
                }
            }
        };
        if tokio::time::timeout(patience, settle).await.is_err() {
            warn!(left = self.asking.len(), "budgets not given back in time");
        }
        self.asking.shutdown().await;
    }
}
