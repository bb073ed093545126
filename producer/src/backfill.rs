//! Backfills: a file of jobs run to its end, whatever happens in between.
//!
//! ```text
//!  file ─▶ survey (once): hash, counts, doubles, index ─▶ folder beside it
//!  lines ─▶ submit, so many out at most ─▶ JOBS        REPLIES ─▶ results.jsonl, errors.jsonl, done.log
//!              reserved before, acknowledged after        └─ up to a sequence: the checkpoint
//! ```
//!
//! Two things make it safe to kill at any moment. The output is a function of the mailbox's results up to a sequence of
//! `REPLIES`: a checkpoint writes that down with the lengths of the files, and going on cuts them back to it. And lines are
//! *reserved* in a checkpoint before they are published, so that after a crash only these are uncertain: they are looked
//! for in the streams before any is published again. A job's id follows from tenant, name and `custom_id`.
//!
//! [`mod@survey`] reads the file once, `input` line by line, [`folder`] keeps what must outlive us, [`output`] writes OpenAI's batch format,
//! [`mod@quote`] asks the pools what it may cost, [`run`] is the task.

pub mod folder;
mod input;
pub mod output;
pub mod quote;
pub mod run;
pub mod survey;

use std::{io, path::PathBuf, time::Duration};

use schemas::{JobId, Lane, Mailbox, ModelToken, Region, Tenant, UsdNanos, catalog::Catalog};
use uuid::Uuid;

pub use folder::{Checkpoint, Control, Folder, Manifest, ask, look};
pub use quote::{Estimate, Quote, quote};
pub use run::{Backfill, Ending, Snapshot, cancel};
pub use survey::{Survey, survey};

/// The label that carries a backfill's name.
pub const BACKFILL: &str = "backfill";
/// The label that carries a job's line, from 1.
pub const LINE: &str = "line";

/// The namespace of ids of backfills and their jobs.
const NAMESPACE: Uuid = Uuid::from_u128(0x5c1b_7c6e_98a4_5f0b_8a5e_6d0c_33d1_97b2);

/// What a person may say about a backfill.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lines.
    pub file: PathBuf,
    /// Where its state and output are kept; `<file>.beacon` is usual.
    pub folder: PathBuf,
    /// Its name: together with the tenant and a line's `custom_id` it makes the job's id.
    pub name: String,
    /// Who pays.
    pub tenant: Tenant,
    /// Where lines go that do not say it.
    pub region: Region,
    /// The model of short lines that name none.
    pub model: Option<ModelToken>,
    /// How urgent lines are that do not say it.
    pub lane: Lane,
    /// The models there are.
    pub catalog: Catalog,
    /// The regions there are.
    pub regions: Vec<Region>,
    /// Jobs that are out at a time, so that others never feel it.
    pub outstanding: usize,
    /// No job is submitted that could take it past this.
    pub max_cost: Option<UsdNanos>,
    /// How long to listen for what pools expect a job to cost.
    pub listen: Duration,
}

impl Options {
    /// Where its results go: a mailbox of its own.
    pub fn mailbox(&self) -> Mailbox {
        mailbox_of(&self.tenant, &self.name)
    }

    /// The id of the job of a line.
    pub fn job(&self, custom_id: &str) -> JobId {
        Self::job_id(&self.tenant, &self.name, custom_id)
    }

    /// The id of the job of a line of the backfill of that name.
    pub fn job_id(tenant: &Tenant, name: &str, custom_id: &str) -> JobId {
        let text = format!("{tenant}\0{name}\0{custom_id}");
        JobId::new(Uuid::new_v5(&NAMESPACE, text.as_bytes()))
    }
}

fn mailbox_of(tenant: &Tenant, name: &str) -> Mailbox {
    let id = Uuid::new_v5(&NAMESPACE, format!("{tenant}\0{name}").as_bytes());
    Mailbox::try_from(format!("bf-{}", &id.simple().to_string()[..16])).expect("hex digits make a token")
}

/// Why a backfill stopped before its end. What was written down holds; running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// A file could not be read or written: the disk is full, most likely.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process runs it.
    #[error("{} is in use: another `backfill run` works on it", .0.display())]
    Busy(PathBuf),
    /// The file is not the one it was.
    #[error(
        "{} has changed since this backfill began. Give it another name to run it as a new one (--name), or put the old \
         file back; to run only what is new, put the new lines into a file of their own", .0.display()
    )]
    Changed(PathBuf),
    /// The state folder is of another backfill.
    #[error("{} belongs to backfill `{}` of tenant `{}`; give --state another folder", path.display(), name, tenant)]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        name: String,
        /// And whose.
        tenant: Tenant,
    },
    /// What stands in the folder does not read.
    #[error("{} does not read", path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no stream of results.
    #[error(
        "stream REPLIES is gone, and with it the results that are not written down yet; a dispatcher makes it anew when it starts, then run this again"
    )]
    NoReplies,
    /// The stream of results is another one than before.
    #[error(
        "stream REPLIES was made anew, and results may be lost; run this again: it goes on, and says which lines have no result"
    )]
    RepliesAnew,
    /// The task that reads results broke.
    #[error("the task that reads results broke; run this again: it goes on")]
    Reading(#[source] tokio::task::JoinError),
    /// The connection gave no more results, and no reason.
    #[error(
        "no more results come from stream REPLIES: the connection was closed; run this again: it goes on"
    )]
    ReadingEnded,
    /// The server did not answer well.
    #[error(transparent)]
    Mailbox(#[from] crate::nats::MailboxError),
    /// The order to take jobs back was not stored.
    #[error(transparent)]
    Publish(#[from] transport::PublishError),
}

/// Names the path in an I/O error.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BackfillError {
    let path = path.into();
    move |source| BackfillError::Io { path, source }
}
