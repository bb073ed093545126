//! Replays: jobs of the past run again, from the dead letters or from the job log.
//!
//! ```text
//!  DEAD, JOBS ─▶ plan: which, how many, what they may cost ─▶ rewrite: new id, replay_of, another place ─▶ JOBS
//! ```
//!
//! A replay's id follows from the entry it replays, where it goes and which time it is, so that a replay that was
//! interrupted, or is asked for twice in whatever words, sends nothing twice. [`select`] says which entries are meant, [`rewrite`] what they become, [`mod@fingerprint`]
//! which dead letters are alike, [`run`] plans and sends.

pub mod fingerprint;
pub mod rewrite;
pub mod run;
pub mod select;
mod sent;

use std::{io, path::PathBuf};

pub use fingerprint::{Group, fingerprint, group};
pub use rewrite::{Destination, Unsuitable};
pub use run::{Means, Picked, Plan, Replay, Sent, plan};
pub use select::{Selection, Source};

use crate::{SubmitError, nats::MailboxError};

/// Why a replay stopped. What was sent is sent, and going on sends it not again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A log could not be read.
    #[error(transparent)]
    Log(#[from] MailboxError),
    /// The server did not answer well.
    #[error(transparent)]
    Api(#[from] transport::api::ApiError),
    /// A job was not taken.
    #[error("job {of} was not replayed")]
    Submit {
        /// The old job.
        of: schemas::JobId,
        /// Why.
        #[source]
        source: SubmitError,
    },
    /// How far it is could not be written down.
    #[error("{}", path.display())]
    State {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
