//! How Beacon speaks JetStream: what producers, dispatchers and workers would otherwise each write again.
//!
//! [`address`] is where a server is and who connects, [`link`] connects and hears what is [`denied`], [`api`] asks the server, [`topology`] makes the server agree with the map in
//! `schemas::topology`, [`publisher`] stores messages with many on the way, [`acks`] finishes leases and makes sure
//! of it, [`replies`] writes results and costs, [`stored`] finds results that exist already, [`bucket`] reads and writes small values, [`cancels`] hears what
//! is taken back, [`delayed`] stores what is to run later,
//! [`recurring`] what comes again and again, [`unique`] what must not,
//! [`payloads`] holds inputs that are too large for a message, [`counters`] adds up what many spend.

pub mod acks;
pub mod address;
pub mod api;
pub mod bucket;
pub mod cancels;
pub mod clock;
pub mod counters;
pub mod delayed;
pub mod denied;
pub mod link;
pub mod payloads;
pub mod publisher;
pub mod recurring;
pub mod replies;
pub mod stored;
pub mod topology;
pub mod unique;

pub use address::Address;
pub use clock::SystemClock;
pub use link::{Link, LinkConfig, LinkError};
pub use publisher::{Headers, PublishError, Publisher, Stored};
