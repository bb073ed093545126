//! The client library for services: submit jobs, wait for results, read a mailbox.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use producer::{JobRequest, Producer, ProducerConfig};
//!
//! let producer = Producer::connect(ProducerConfig::new("nats://127.0.0.1:4222", "acme", "inbox")?).await?;
//! let job = JobRequest::prompt("us-east", "llama-3.2-1b", "Why is the sky blue?")?;
//! let result = producer.submit_and_wait(&job, std::time::Duration::from_secs(30)).await?;
//! println!("{:?}: {:?}", result.status, result.output);
//! producer.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! [`request`] is what a caller says, [`lines`] reads files of them, [`backfill`] runs such a file to its end,
//! [`replay`] runs jobs of the past again, [`unique`] keeps a job from being submitted twice,
//! [`cancel`] takes jobs back, [`later`] is for those that wait for their time, [`client`] sends jobs, [`waiting`] waits for their results
//! (behind it `waiters` knows who waits, `router` hears results live, `follower` finds stored ones), `moved` removes inputs that no job needs, [`nats`] reads the mailbox.

pub mod backfill;
pub mod cancel;
pub mod client;
mod follower;
pub mod later;
pub mod lines;
pub mod log;
mod moved;
pub mod nats;
pub mod replay;
pub mod request;
mod router;
pub mod unique;
mod waiters;
pub mod waiting;

pub use client::{Producer, ProducerConfig, SubmitError, Ticket};
pub use nats::Reply;
pub use request::JobRequest;
pub use unique::Unique;
pub use waiting::WaitError;
