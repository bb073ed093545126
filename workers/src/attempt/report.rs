//! What an attempt's reports are in the log and in metrics.

use schemas::JobId;
use tracing::{debug, error, info, warn};

use super::{
    Attempt,
    course::{Refusal, Report},
};
use crate::metrics;

impl Attempt {
    pub(super) fn report(&self, report: Report) {
        // Before the job is read nothing is reported that names it.
        let job = self.job.get().map(|job| job.id);
        let job = job.as_ref().map_or_else(String::new, JobId::to_string);
        match report {
            Report::LeaseLost => {
                metrics::lease_lost();
                warn!(job, "lease lost; its next holder goes on");
            }
            Report::Abandoned(entry) => {
                metrics::possibly_wasted();
                warn!(job, attempt = entry.attempt, pool = %entry.pool, "an attempt nobody heard of again is booked as possibly wasted");
            }
            Report::Cancelled => metrics::cancelled(),
            Report::RunLeft(why) => {
                info!(
                    job,
                    why, "its run is left going at the provider; the next holder of the job goes on with it"
                );
            }
            Report::Beaten => debug!(job, "another attempt gave the result"),
            Report::Withheld { what, why } => {
                metrics::withheld(what);
                if self.kit.complaints.may() {
                    error!(job, what, why, "cannot be stored; it waits, and its slot and lease are kept");
                }
            }
            Report::Abandoning(what) => {
                error!(job, what, "not stored before the worker had to stop; the job comes again");
            }
        }
    }
}

/// Why a message was not stored, as far as the attempt must know.
pub(super) fn refusal(error: &transport::PublishError) -> Refusal {
    use transport::PublishError as E;
    match error {
        E::TooLarge { .. } => Refusal::TooLarge,
        E::NoStream(_)
        | E::Full { .. }
        | E::NotPermitted(_)
        | E::Unknown(_)
        | E::Refused { .. }
        | E::Client { .. } => Refusal::Unavailable(error.to_string()),
    }
}
