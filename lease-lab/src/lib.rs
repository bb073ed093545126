//! The lease protocol in virtual time.
#![allow(dead_code)]

mod agenda;
mod audit;
mod chance;
mod client;
mod clock;
mod consumer;
mod desk;
mod faults;
mod history;
mod net;
mod plan;
mod play;
mod process;
mod provider;
mod server;
mod setup;
mod stream;
mod wire;
mod world;

pub use crate::{
    audit::Tally,
    play::{Failure, play},
    world::Violation,
};
