//! One file per provider, each behind [`crate::provider::Provider`].
//!
//! Reading order; each module imports only modules before it:
//!
//! - the tools: [`secret`], [`http`], [`sse`], `values`, `json`, `words`;
//! - the OpenAI API: [`dialect`] names the servers, `refusal` reads errors, `chat` reads answers, `prometheus` and [`load`] read
//!   metrics (all pure), `exchange` makes one streamed request; `probe` makes the requests of a check;
//! - runs that outlive their connection: [`throttle`] keeps the pace, [`hints`] wakes it, `runs` follows a run, `polled`
//!   sends the requests that two providers share;
//! - the providers: [`openai`] for every server that speaks that API, Golem rentals included; [`modal`], [`runpod`] and
//!   [`replicate`]; and [`noop`] for benchmarks.

pub mod dialect;
pub mod hints;
pub mod http;
pub mod load;
pub mod modal;
pub mod noop;
pub mod openai;
pub mod replicate;
pub mod runpod;
pub mod secret;
pub mod sse;
pub mod throttle;

mod chat;
mod exchange;
mod json;
mod polled;
mod probe;
mod prometheus;
mod refusal;
mod runs;
mod values;
mod words;

pub use chat::Evidence;
pub use dialect::Dialect;
pub use http::BuildError;
pub use load::ServerLoad;
pub use modal::{Modal, ModalConfig, ModalMode};
pub use noop::Noop;
pub use openai::{Billing, OpenAi, OpenAiConfig};
pub use replicate::{Replicate, ReplicateConfig};
pub use runpod::{RunPod, RunPodConfig, RunPodMode};
pub use secret::Secret;
