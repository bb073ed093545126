//! What happens next: events by virtual time. Events of one moment happen in the order in which they were put here.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use schemas::Micros;

/// Events that lie ahead.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    ahead: BinaryHeap<Reverse<Item<E>>>,
    count: u64,
    now: Micros,
}

#[derive(Debug)]
struct Item<E> {
    at: Micros,
    number: u64,
    event: E,
}

impl<E> Agenda<E> {
    /// Nothing lies ahead of `now`.
    pub(crate) fn new(now: Micros) -> Self {
        Self { ahead: BinaryHeap::new(), count: 0, now }
    }

    /// True time, which no process of the simulated world can read.
    pub(crate) fn now(&self) -> Micros {
        self.now
    }

    /// Puts an event on the agenda; one that lies in the past happens now.
    pub(crate) fn push(&mut self, at: Micros, event: E) {
        self.count += 1;
        self.ahead.push(Reverse(Item { at: at.max(self.now), number: self.count, event }));
    }

    /// Takes the next event and moves the time to it.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let Reverse(item) = self.ahead.pop()?;
        self.now = item.at;
        Some(item.event)
    }

    /// Events that were put here so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Item<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_put() {
        let mut agenda = Agenda::new(Micros::new(10));
        for (at, name) in [(30, 'c'), (20, 'a'), (20, 'b'), (5, 'x')] {
            agenda.push(Micros::new(at), name);
        }
        let order: String = std::iter::from_fn(|| agenda.pop()).collect();
        assert_eq!((order.as_str(), agenda.now()), ("xabc", Micros::new(30)));
    }
}
