//! One lane: its tenants in order of their tags, by start-time fair queueing.

use std::collections::{BTreeSet, HashMap};

use schemas::{Lane, Tenant, UsdNanos};

use super::{
    Entry, Look, Seat,
    flow::{Flow, Key},
};

/// The smallest charge for a start. A job that costs nothing uses a slot all the same, and a tenant with free jobs would otherwise
/// never let another pass. A thousandth of a cent is a tenth of the cheapest price in the book.
const CHARGE_MIN: u128 = 10_000;

/// Tags are nano-dollars times this, over the weight, so that the division loses nothing that matters.
const SCALE: u128 = 1 << 20;

/// One lane.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) lane: Lane,
    pub(super) flows: HashMap<Tenant, Flow<T>>,
    /// Tenants with items, the next one first.
    pub(super) order: BTreeSet<(u128, u64, Tenant)>,
    /// The tag of the item that started last.
    virtual_time: u128,
    /// The largest tag so far.
    last_tag: u128,
    pub(super) credit: u32,
    pub(super) len: usize,
}

/// The result of a scan of one lane.
pub(super) enum Scanned<T> {
    Found(Entry<T>),
    Nothing,
    Stopped,
}

impl<T> Queue<T> {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            flows: HashMap::new(),
            order: BTreeSet::new(),
            virtual_time: 0,
            last_tag: 0,
            credit: 0,
            len: 0,
        }
    }

    pub(super) fn push(&mut self, tenant: &Tenant, weight: u32, key: Key, item: T, new: bool) {
        if new && self.len == 0 {
            // No tenant waited, so none was kept from anything: all begin anew.
            self.virtual_time = self.virtual_time.max(self.last_tag);
            self.flows.clear();
        }
        let now = self.virtual_time;
        let flow = self.flows.entry(tenant.clone()).or_insert_with(|| Flow::new(now));
        if flow.items.is_empty() {
            if new {
                flow.tag = flow.tag.max(now);
            }
            flow.since = key.ticket;
            self.order.insert((flow.tag, flow.since, tenant.clone()));
        }
        flow.weight = u128::from(weight);
        flow.items.insert(key, item);
        self.len += 1;
    }

    pub(super) fn scan(&mut self, look: &mut impl FnMut(&Seat, &T) -> Look) -> Scanned<T> {
        let mut found = None;
        'tenants: for (_, _, tenant) in &self.order {
            let flow = self.flows.get_mut(tenant).expect("a tenant in the order has items");
            let mut seat = Seat {
                lane: self.lane,
                tenant: tenant.clone(),
                weight: u32::try_from(flow.weight).unwrap_or(u32::MAX),
                key: Key::default(),
            };
            for key in flow.visits() {
                seat.key = key;
                match look(&seat, &flow.items[&key]) {
                    Look::Take => {
                        found = Some(seat);
                        break 'tenants;
                    }
                    Look::Skip => flow.skipped(key),
                    Look::SkipTenant => break,
                    Look::Stop => return Scanned::Stopped,
                }
            }
        }
        match found.and_then(|seat| self.take(seat)) {
            Some(entry) => Scanned::Found(entry),
            None => Scanned::Nothing,
        }
    }

    fn take(&mut self, seat: Seat) -> Option<Entry<T>> {
        let flow = self.flows.get_mut(&seat.tenant)?;
        let item = flow.items.remove(&seat.key)?;
        self.len -= 1;
        if flow.items.is_empty() {
            self.order.remove(&(flow.tag, flow.since, seat.tenant.clone()));
        }
        Some(Entry { seat, item })
    }

    pub(super) fn started(&mut self, tenant: &Tenant, weight: u32, cost: UsdNanos) {
        let now = self.virtual_time;
        let flow = self.flows.entry(tenant.clone()).or_insert_with(|| Flow::new(now));
        flow.weight = u128::from(weight);
        let tag = flow.tag;
        self.virtual_time = now.max(tag);
        self.retag(tenant, tag + charge(cost, weight));
        self.forget_idle();
    }

    pub(super) fn correct(&mut self, tenant: &Tenant, weight: u32, expected: UsdNanos, actual: UsdNanos) {
        let (expected, actual) = (charge(expected, weight), charge(actual, weight));
        let now = self.virtual_time;
        let flow = self.flows.entry(tenant.clone()).or_insert_with(|| Flow::new(now));
        let tag = (flow.tag + actual).saturating_sub(expected);
        self.retag(tenant, tag);
    }

    fn retag(&mut self, tenant: &Tenant, tag: u128) {
        let Some(flow) = self.flows.get_mut(tenant) else { return };
        if !flow.items.is_empty() {
            self.order.remove(&(flow.tag, flow.since, tenant.clone()));
            self.order.insert((tag, flow.since, tenant.clone()));
        }
        flow.tag = tag;
        self.last_tag = self.last_tag.max(tag);
    }

    /// Drops tenants that have no items and are not ahead: they are as good as new ones. Only done when they are the majority, so
    /// that not every start walks through all tenants.
    fn forget_idle(&mut self) {
        if self.flows.len() > 2 * self.order.len() + 64 {
            let now = self.virtual_time;
            self.flows.retain(|_, flow| !flow.items.is_empty() || flow.tag > now);
        }
    }

    pub(super) fn remove_if(&mut self, out: &mut impl FnMut(&Seat, &T) -> bool, removed: &mut Vec<Entry<T>>) {
        for (tenant, flow) in &mut self.flows {
            if flow.items.is_empty() {
                continue;
            }
            let mut seat = Seat {
                lane: self.lane,
                tenant: tenant.clone(),
                weight: u32::try_from(flow.weight).unwrap_or(u32::MAX),
                key: Key::default(),
            };
            let mut going = Vec::new();
            for (key, item) in &flow.items {
                seat.key = *key;
                if out(&seat, item) {
                    going.push(*key);
                }
            }
            self.len -= going.len();
            let items = &mut flow.items;
            removed.extend(going.into_iter().filter_map(|key| {
                items.remove(&key).map(|item| Entry { seat: Seat { key, ..seat.clone() }, item })
            }));
            if items.is_empty() {
                self.order.remove(&(flow.tag, flow.since, tenant.clone()));
            }
        }
    }
}

/// What a start adds to the tag of its tenant.
fn charge(cost: UsdNanos, weight: u32) -> u128 {
    u128::from(cost.get()).max(CHARGE_MIN) * SCALE / u128::from(weight.max(1))
}
