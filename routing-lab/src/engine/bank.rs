//! The shared counters of budgets: one bank for the dispatchers of all regions, as far away as the first region is.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        router::Router,
        slab::{Key, Slab},
    },
    Engine, What, small,
};
use routing::budget::Draw;

/// Where the counters are.
const HOME: usize = 0;
/// A dispatcher looks so often what to ask, as its task does.
const EVERY: Duration = Duration::from_millis(20);

/// Counters by subject, and what is on its way to them or back.
#[derive(Default)]
pub(super) struct Bank {
    totals: BTreeMap<String, u64>,
    asked: Slab<Asked>,
}

struct Asked {
    region: usize,
    draw: Draw,
    /// What the counter said.
    total: u64,
}

impl<R: Router> Engine<'_, R> {
    /// A dispatcher asks what it wants to know.
    pub(super) fn draw(&mut self, region: usize) {
        for draw in self.desks[region].router.draws(self.now) {
            self.ask(region, draw);
        }
        self.after(EVERY, What::Draw(small(region)));
    }

    fn ask(&mut self, region: usize, draw: Draw) {
        let key = self.bank.asked.add(Asked { region, draw, total: 0 });
        self.after(self.scenario.delays[region][HOME], What::Count(key));
    }

    /// A draw reaches its counter.
    pub(super) fn count(&mut self, key: Key) {
        let Bank { totals, asked } = &mut self.bank;
        let Some(asked) = asked.get_mut(key) else { return };
        let total = totals.entry(asked.draw.subject.clone()).or_default();
        *total = total.checked_add_signed(asked.draw.take).expect("nobody gives back what it did not take");
        asked.total = *total;
        let region = asked.region;
        self.after(self.scenario.delays[HOME][region], What::Drawn(key));
    }

    /// Its answer is heard.
    pub(super) fn drawn(&mut self, key: Key) {
        let Some(Asked { region, draw, total }) = self.bank.asked.take(key) else { return };
        if let Some(back) = self.desks[region].router.drawn(&draw, total, self.now) {
            self.ask(region, back);
        }
        self.drain(region);
    }
}
