//! A worker.

use schemas::Micros;

use super::Process;
use crate::{client::Client, desk::Desk, net::Line, wire::Message, world::CallNews};

pub(super) struct Worker {
    client: Client<u64>,
}

impl Worker {
    pub(super) fn start(_pool: usize, desk: &mut Desk<'_>) -> Self {
        Self { client: Client::start(&desk.life_name(), desk) }
    }
}

impl Process for Worker {
    fn heard(&mut self, _line: Line, _number: u32, _message: &Message, _desk: &mut Desk<'_>) {}
    fn connected(&mut self, line: Line, desk: &mut Desk<'_>) {
        self.client.connected(line, desk);
    }
    fn answered(&mut self, _news: &CallNews, _desk: &mut Desk<'_>) {}
    fn woken(&mut self, _desk: &mut Desk<'_>) {}
    fn end(&mut self, _desk: &mut Desk<'_>) {}
    fn has_ended(&self) -> bool {
        false
    }
    fn wake_at(&self) -> Option<Micros> {
        None
    }
    fn busy(&self) -> Option<String> {
        None
    }
}
