//! One file per provider, each behind [`crate::provider::Provider`].
//!
//! Reading order: the tools ([`secret`], [`http`], [`sse`]), what the servers say (`chat` reads answers, `refusal`
//! reads errors; both pure), one streamed request (`exchange`), then the providers: [`openai`] for every server
//! that speaks that API, Golem rentals included; [`modal`], [`runpod`] and [`replicate`], whose runs go on without us
//! (`runs` follows them, `polled` sends the requests two of them share, [`throttle`] keeps the pace, [`hints`] wakes it);
//! and [`noop`] for benchmarks.

pub mod hints;
pub mod http;
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
mod polled;
mod refusal;
mod runs;

pub use http::BuildError;
pub use modal::{Modal, ModalConfig, ModalMode};
pub use noop::Noop;
pub use openai::{Billing, Dialect, OpenAi, OpenAiConfig};
pub use replicate::{Replicate, ReplicateConfig};
pub use runpod::{RunPod, RunPodConfig, RunPodMode};
pub use secret::Secret;
