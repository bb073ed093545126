//! The lease protocol in virtual time.

#![allow(dead_code)]

mod agenda;
mod chance;
mod clock;
mod consumer;
mod net;
mod server;
mod stream;
mod wire;
