//! A job stream that was deleted and made anew: it counts from 1 again, so that a place in the log is another job's than before. A job
//! is the one known only if it was stored at the same time, too.

use schemas::{Micros, lease::Lease};
use tracing::{error, warn};

use super::{JobKey, Jobs};

impl Jobs {
    /// The stream of a region, by its index, is another one than before, made at `born`. What waits here of the old one is gone: nothing
    /// in the server stands behind it. Attempts that run end by themselves.
    pub(super) fn remade(&mut self, region: u16, born: Micros) {
        let Some(name) = self.config.regions.get(usize::from(region)) else { return };
        self.feeds.iter_mut().filter(|feed| feed.region == *name).for_each(crate::feed::Feed::begin_anew);
        let lost: Vec<JobKey> = self
            .records
            .iter()
            .filter(|(key, record)| key.region == region && record.in_hand() && record.lease.stored_at < born)
            .map(|(key, _)| *key)
            .collect();
        error!(region = %name, jobs = lost.len(), "the job stream was made anew; jobs that waited here are gone with the old one");
        for key in lost {
            self.over(key);
        }
        self.born.insert(region, born);
        self.stirred = true;
    }

    /// Whether a lease is of a stream that was deleted since.
    pub(super) fn is_of_old_stream(&self, key: JobKey, lease: &Lease) -> bool {
        self.born.get(&key.region).is_some_and(|born| lease.stored_at < *born)
    }

    /// Lets go of what is known of another job that lay at the same place in an older stream.
    pub(super) fn displace(&mut self, key: JobKey, lease: &Lease, now: Micros, out: &mut Vec<super::Effect>) {
        let Some(record) = self.records.get(&key).filter(|r| r.lease.stored_at < lease.stored_at) else {
            return;
        };
        warn!(job = %record.head.id, seq = key.seq, "another job lies at its place now: its stream was made anew");
        let open: Vec<u64> = record.open.iter().map(|attempt| attempt.offer).collect();
        self.over(key);
        for offer in open {
            // Its worker books it, and stores its result.
            self.lost_sight(offer, false, now, out);
        }
    }
}
