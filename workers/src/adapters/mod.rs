//! One file per provider, each behind [`crate::provider::Provider`].
//!
//! Reading order: the tools ([`secret`], [`http`], [`sse`]), what the servers say (`chat` reads answers, `refusal`
//! reads errors; both pure), one streamed request (`exchange`), then the providers: [`openai`] for every server
//! that speaks that API, Golem rentals included, [`modal`], and [`noop`] for benchmarks.

pub mod http;
pub mod modal;
pub mod noop;
pub mod openai;
pub mod secret;
pub mod sse;

mod chat;
mod exchange;
mod refusal;

pub use http::BuildError;
pub use modal::{Modal, ModalConfig, ModalMode};
pub use noop::Noop;
pub use openai::{Billing, Dialect, OpenAi, OpenAiConfig};
pub use secret::Secret;
