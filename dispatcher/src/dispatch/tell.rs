//! Has what waits told, and the server asked about what nothing else tells of: the tasks to what [`crate::demand`] decides.

use schemas::Micros;

use super::{Dispatcher, Told};
use crate::nats;

impl Dispatcher {
    /// Notes what there is to tell, if it is time.
    pub(super) fn tell_demand(&mut self, now: Micros) {
        if self.teller.is_due(&self.jobs, now) {
            self.demands = self.teller.tell(&self.jobs, &self.config, now);
        }
        if self.asking {
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
