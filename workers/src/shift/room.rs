//! How many jobs a worker takes where its server works for others too.

use super::Shift;
use crate::{adapters::load::ServerLoad, clock::Now};

impl Shift {
    /// Takes in how busy the provider's server is; `None` where that is not known. Each request of others that waits there takes one slot,
    /// all but the last: a page that is wrong must never stop a pool.
    pub fn load(&mut self, load: Option<&ServerLoad>, now: Now) {
        let own = u32::try_from(self.most).unwrap_or(u32::MAX);
        let others = load.map_or(0, |load| load.others_waiting(own));
        let before = self.room();
        (self.others, self.most) = (others, self.running.len());
        if self.room() != before {
            self.beat_at = now.steady;
        }
    }

    /// How many requests of others wait at the provider's server, as far as is known.
    pub fn others(&self) -> u32 {
        self.others
    }

    /// Jobs it runs at a time now.
    pub(super) fn room(&self) -> u32 {
        self.slots.saturating_sub(self.others).max(self.slots.min(1))
    }
}
