//! What the tests share: a real nats-server, roles in this process or in their own, a scripted provider, an auditor, and a
//! reader of our own sources ([`imports`] on top of [`rust_text`]).
//!
//! Nothing here sleeps to be safe: [`wait::until`] waits for a condition with a deadline.

pub mod audit;
pub mod by_hand;
pub mod imports;
pub mod llm;
pub mod nats_server;
pub mod process;
pub mod rent;
pub mod roles;
pub mod rust_text;
pub mod scripted;
pub mod streams;
pub mod wait;
