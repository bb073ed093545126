//! Hands what comes to a mailbox to those who wait for it: live, as it is published.

use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use transport::denied::Denied;

use crate::{
    nats,
    waiters::{Unheard, Waiters},
};

/// The task that listens.
pub(crate) struct Router {
    /// The results of the mailbox.
    pub(crate) live: Subscriber,
    /// Where they are published.
    pub(crate) subject: String,
    pub(crate) reconnects: watch::Receiver<u64>,
    pub(crate) denials: broadcast::Receiver<Denied>,
    pub(crate) waiters: Waiters,
}

impl Router {
    /// Runs until `shutdown`. Nothing in here waits for anything but the next message.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.reconnects.mark_unchanged();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Ok(denied) = self.denials.recv() => {
                    if matches!(&denied, Denied::Subscribe { subject } if *subject == self.subject) {
                        self.waiters.end(Unheard::NotPermitted(denied));
                    }
                }
                // The server looks at every subscription anew.
                Ok(()) = self.reconnects.changed() => self.waiters.reopen(),
                message = self.live.next() => match message {
                    Some(message) => route(&self.waiters, &message),
                    None => break,
                },
            }
        }
        self.waiters.end(Unheard::Closed);
    }
}

/// Hands a result to those who wait for it; one that nobody waits for is not even read.
pub(crate) fn route(waiters: &Waiters, message: &Message) {
    let Some((job, stored)) = nats::result_of(message) else { return };
    if !waiters.want(job) {
        return;
    }
    match nats::read_result(message) {
        Ok(result) => waiters.deliver(stored, result),
        Err(error) => warn!(%job, %error, "a result does not read"),
    }
}
