//! A worker's own books: its slots, what runs, what each dispatcher is told. Pure: no clock, no I/O, nothing async.
//!
//! A shift answers an offer at once (`offer`), is told how attempts end (`ended`), turns a dispatcher's order into what it
//! means for the attempts here (`order`), and says when it is asked (`tick`) which messages are due: acceptances within
//! milliseconds, a heartbeat each second and on change, a roll call for each dispatcher each second. Draining is a state of
//! the shift: it refuses offers and goes on with everything else.

use std::time::Duration;

use schemas::{
    Micros,
    handover::{Acceptances, RefusedBecause},
    heartbeat::Heartbeat,
};

/// A moment at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By the wall clock, which may jump: what messages say.
    pub wall: Micros,
    /// By a clock that never jumps, since any fixed moment: what intervals are measured by.
    pub steady: Duration,
}

/// What becomes of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is accepted: begin an attempt under this number, which no other attempt of the worker ever has.
    Accept(u64),
    /// It is refused, and the dispatcher is told.
    Refuse(RefusedBecause),
    /// It came after its `accept_by`: the dispatcher has given up on it, so nothing is said.
    Late,
}

/// A message that is due. All of them go out on one connection, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To one dispatcher's inbox: news, or with `open` the roll call.
    Acceptances(String, Box<Acceptances>),
    /// To all dispatchers.
    Heartbeat(Box<Heartbeat>),
}
