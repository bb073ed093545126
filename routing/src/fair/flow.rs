//! The items of one tenant in one lane.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use schemas::Micros;

use super::{FRONT_VISITS, ROVING_VISITS};

/// The place of an item among those of its tenant: by deadline, then by arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) due: Micros,
    pub(super) ticket: u64,
}

#[derive(Debug)]
pub(super) struct Flow<T> {
    pub(super) items: BTreeMap<Key, T>,
    /// The start tag of its next item.
    pub(super) tag: u128,
    /// Decides between equal tags: the tenant that has waited longer is next.
    pub(super) since: u64,
    pub(super) weight: u128,
    /// The last item that was visited beyond the front and skipped.
    roved: Option<Key>,
}

impl<T> Flow<T> {
    pub(super) fn new(tag: u128) -> Self {
        Self { items: BTreeMap::new(), tag, since: 0, weight: 1, roved: None }
    }

    /// The items that a scan visits: those at the front, then some behind them from where the last scan ended.
    pub(super) fn visits(&self) -> impl Iterator<Item = Key> + use<T> {
        let mut visits = [None; FRONT_VISITS + ROVING_VISITS];
        let mut next = visits.iter_mut();
        for (slot, key) in next.by_ref().take(FRONT_VISITS).zip(self.items.keys()) {
            *slot = Some(*key);
        }
        let front = visits[FRONT_VISITS - 1];
        if let Some(front) = front {
            let from = self.roved.unwrap_or(front).max(front);
            let behind = self.items.range((Excluded(from), Unbounded)).map(|(key, _)| *key);
            // After the last item it begins again behind the front.
            let again = self.items.range((Excluded(front), Unbounded)).map(|(key, _)| *key);
            let again = again.take_while(move |key| *key <= from);
            for (slot, key) in visits[FRONT_VISITS..].iter_mut().zip(behind.chain(again)) {
                *slot = Some(key);
            }
        }
        visits.into_iter().flatten()
    }

    /// An item was visited and cannot start now.
    pub(super) fn skipped(&mut self, key: Key) {
        let is_front = self.items.keys().take(FRONT_VISITS).any(|front| *front == key);
        if !is_front {
            self.roved = Some(key);
        }
    }
}
