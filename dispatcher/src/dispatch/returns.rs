//! Jobs that workers give back: with their text, or by their place in the log.

use schemas::{handover::Return, time::Clock as _};
use tracing::{error, warn};
use transport::SystemClock;

use super::{Dispatcher, Told};
use crate::{
    jobs::Event,
    nats::{self, Parcel, ReturnError},
};

impl Dispatcher {
    /// A worker gives a job back after a failed attempt.
    pub(super) fn returned(&mut self, read: Result<(Return, Parcel), ReturnError>) {
        let (back, parcel) = match read {
            Ok(read) => read,
            Err(error) => {
                error!(%error, "a returned job does not read; it comes again after ack_wait");
                return;
            }
        };
        if !back.in_log {
            self.joined(back, Some(parcel));
            return;
        }
        let client = self.role.control.client.clone();
        self.tasks.spawn(async move {
            let read = transport::stored::job_at(&client, back.lease.stream(), back.lease.stream_seq).await;
            let parcel = read.unwrap_or_else(|error| {
                warn!(%error, "a returned job is not read from the log; it comes again after ack_wait");
                None
            });
            Told::Read(Box::new(back), parcel.map(|(headers, body)| Parcel { headers, body }))
        });
    }

    /// A returned job, with its text if that could be read.
    pub(super) fn joined(&mut self, back: Return, parcel: Option<Parcel>) {
        let Some(parcel) = parcel else { return };
        match nats::join_return(back, parcel, SystemClock.now()) {
            Ok(returned) => self.apply(Event::Returned(Box::new(returned))),
            Err(error) => error!(%error, "a returned job does not read; it comes again after ack_wait"),
        }
    }
}
