//! The lease protocol in virtual time: the machines of dispatcher and worker as they are, over a simulated JetStream, simulated
//! providers and simulated faults. Pure: no I/O, no clock, no threads; a seed means one world, to the last microsecond.
//!
//! [`play`] plays a seed and says which rule its world broke, with the history of that world. The rules are in `audit`.
//!
//! In reading order:
//!
//! - `plan` is what a seed means: how large the world is, which jobs there are, which faults; `chance` draws it; `setup` is how
//!   everything is set.
//! - `wire` is what travels. `stream` and `consumer` are JetStream's, `server` joins them; `net` is connections, `provider` is who
//!   runs jobs and sends bills.
//! - `process` is a machine of the product with the driver that carries its effects: dispatcher, worker, producer. `client` is what
//!   each has beside its machine, `desk` what it sees of the world, `clock` what its host shows.
//! - `world` is the loop over the `agenda`; `faults` break it and mend it.
//! - `audit` knows what really happened and says which rule was broken; `history` tells the story; `mutation` puts old bugs back, to
//!   see that the rules find them; `play` is the way in.
//!
//! What the drivers mirror is async code of `dispatcher`, `workers` and `transport` that cannot run here: look-ups, endings, booking
//! of lost attempts, the publisher, the ring of acks, calls to adapters. A change there belongs here, too.

mod agenda;
mod audit;
mod chance;
mod client;
mod clock;
mod consumer;
mod desk;
mod faults;
mod history;
mod mutation;
mod net;
mod plan;
mod play;
mod process;
mod provider;
mod server;
mod setup;
mod stream;
mod tally;
mod wire;
mod world;

pub use crate::{
    mutation::Mutation,
    play::{Failure, play, play_mutated},
    tally::Tally,
    world::Violation,
};
