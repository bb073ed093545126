//! Tells what waits: the messages to what [`crate::demand`] decides.

use schemas::time::Clock as _;
use transport::SystemClock;

use super::{Dispatcher, Told};
use crate::nats;

impl Dispatcher {
    /// Tells what waits, if it is time, and has the server asked what nothing else tells of, unless the dispatcher stops.
    pub(super) async fn tell_demand(&mut self, asks: bool) {
        let now = SystemClock.now();
        if self.teller.is_due(&self.jobs, now) {
            for demand in self.teller.tell(&self.jobs, &self.config, now) {
                nats::tell_demand(&self.role.control.client, &demand).await;
            }
        }
        if self.asking || !asks {
            return;
        }
        let feeds = self.jobs.feeds();
        let name = |index: usize| (index, feeds[index].stream.clone(), feeds[index].consumer.clone());
        let asked: Vec<_> = self.teller.ask(&self.jobs, now).into_iter().map(name).collect();
        if !asked.is_empty() {
            self.asking = true;
            let client = self.role.control.client.clone();
            self.tasks.spawn(async move { Told::Pending(nats::pending(&client, asked).await) });
        }
    }
}
