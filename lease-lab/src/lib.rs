//! The lease protocol in virtual time.

mod agenda;
mod chance;
mod clock;
mod consumer;
mod server;
mod stream;
mod wire;
