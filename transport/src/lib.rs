//! How Beacon speaks JetStream: the code that producers, dispatchers and workers would otherwise each write again.
//!
//! - Connect and ask: [`address`] is where a server is and who connects, [`link`] opens a connection
//!   and hears what is [`denied`], [`api`] asks the server, [`topology`] makes the server agree with the
//!   map in `schemas::topology`.
//! - Store and finish: [`publisher`] stores many messages at once, [`acks`] finishes leases and confirms each ack.
//! - Messages: [`replies`] writes results and costs, [`stored`] finds results that exist already, [`bucket`] reads and
//!   writes small values, [`follow`] follows the keys of a bucket, [`cancels`] follows cancellations, [`delayed`] stores jobs for later, [`recurring`] stores
//!   repeated jobs, [`unique`] claims unique keys, [`payloads`] holds inputs that are too large for a message and [`moved`] removes those
//!   that no job needs,
//!   [`counters`] adds up what many processes spend.
//! - Together: [`role`] is what a dispatcher and a worker both stand on.

pub mod acks;
pub mod address;
pub mod api;
pub mod bucket;
pub mod cancels;
pub mod clock;
pub mod counters;
pub mod delayed;
pub mod denied;
pub mod follow;
pub mod ledger;
pub mod link;
pub mod moved;
pub mod payloads;
pub mod publisher;
pub mod recurring;
pub mod replies;
pub mod role;
pub mod stored;
pub mod topology;
pub mod unique;

pub use address::Address;
pub use clock::SystemClock;
pub use link::{Link, LinkConfig, LinkError};
pub use publisher::{Headers, PublishError, Publisher, Stored};
pub use role::Role;
