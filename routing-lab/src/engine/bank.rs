//! The shared counters of budgets. All dispatchers use the same counters, which are in the first region.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        router::Router,
        slab::{Key, Slab},
    },
    Engine, What, small,
};
use routing::budget::Draw;

/// The region of the counters.
const HOME: usize = 0;
/// How often a dispatcher sends draws, as the real one does.
const EVERY: Duration = Duration::from_millis(20);

/// The counters by subject, and the draws on their way to them or back.
#[derive(Default)]
pub(super) struct Bank {
    totals: BTreeMap<String, u64>,
    asked: Slab<Asked>,
}

struct Asked {
    region: usize,
    draw: Draw,
    /// The total that the counter answered.
    total: u64,
}

impl<R: Router> Engine<'_, R> {
    /// A dispatcher sends its draws.
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
        *total =
            total.checked_add_signed(asked.draw.take).expect("no dispatcher gives back what it did not take");
        asked.total = *total;
        let region = asked.region;
        self.after(self.scenario.delays[HOME][region], What::Drawn(key));
    }

    /// The answer of a counter is heard.
    pub(super) fn drawn(&mut self, key: Key) {
        let Some(Asked { region, draw, total }) = self.bank.asked.take(key) else { return };
        if let Some(back) = self.desks[region].router.drawn(&draw, total, self.now) {
            self.ask(region, back);
        }
        self.drain(region);
    }
}
