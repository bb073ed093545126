//! A process of the simulated world: a machine of the product, and the driver that carries its effects.

mod dispatcher;
mod producer;
mod worker;

use schemas::Micros;

use crate::{desk::Desk, net::Line, plan::Kind, wire::Message, world::CallNews};

/// A process.
pub(crate) trait Process {
    /// A message came on a subscription.
    fn heard(&mut self, line: Line, number: u32, message: &Message, desk: &mut Desk<'_>);

    /// A connection was made, or made again.
    fn connected(&mut self, line: Line, desk: &mut Desk<'_>);

    /// A provider answers a call.
    fn answered(&mut self, news: &CallNews, desk: &mut Desk<'_>);

    /// It wanted to be woken, or is.
    fn woken(&mut self, desk: &mut Desk<'_>);

    /// It is asked to end.
    fn end(&mut self, desk: &mut Desk<'_>);

    /// Whether it has ended.
    fn has_ended(&self) -> bool;

    /// When it wants to be woken.
    fn wake_at(&self) -> Option<Micros>;

    /// What it still has to do; nothing when it only waits for news.
    fn busy(&self) -> Option<String>;
}

/// Starts a process.
pub(crate) fn boot(kind: Kind, desk: &mut Desk<'_>) -> Box<dyn Process> {
    match kind {
        Kind::Dispatcher => Box::new(dispatcher::Dispatcher::start(desk)),
        Kind::Worker(pool) => Box::new(worker::Worker::start(pool, desk)),
        Kind::Producer => Box::new(producer::Producer::start(desk)),
    }
}
