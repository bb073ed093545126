//! The line in which jobs of one region and model wait, and which of them is next. Pure; items may be of any type.
//!
//! - **Lanes** have strict priority with floors: while it has jobs, `low` gets at least 5 % of the starts and `normal` at least
//!   15 %.
//! - **Tenants** of a lane take turns by start-time fair queueing (Goyal, Vin and Cheng, 1996), in units of cost: each tenant has
//!   a tag that grows by its charges over its weight, and the smallest tag is next. The expected cost is charged when a job
//!   starts, so that running jobs count, and corrected when the real cost is known. Between two tenants that both wait, shares
//!   differ from the weights by no more than one job of each. (Deficit round robin would need a quantum, which cannot be chosen
//!   well while costs differ by a factor of a thousand.)
//! - A tenant that comes back starts at the current virtual time: it is owed nothing for the time it was away, and owes nothing.
//! - **Jobs** of a tenant are ordered by deadline, then by arrival. A job without a deadline counts as due [`LENIENT`] after its
//!   arrival, so that a stream of urgent jobs cannot hold it up for ever.

mod flow;
mod queue;

use std::time::Duration;

use schemas::{Lane, Micros, Tenant, UsdNanos};

use self::{
    flow::Key,
    queue::{Queue, Scanned},
};

/// How long after its arrival a job without a deadline counts as due.
pub const LENIENT: Duration = Duration::from_secs(600);

/// Each start credits every waiting lane with its floor, in twentieths of a start. A lane with a whole start to its credit goes
/// first.
const START: u32 = 20;
/// The most credit of a lane that cannot use its turn, for instance because no pool takes its jobs.
const CREDIT_MAX: u32 = 2 * START;

/// The twentieths of starts that a lane gets while it waits.
const fn floor(lane: Lane) -> u32 {
    match lane {
        Lane::High => 0,
        Lane::Normal => 3,
        Lane::Low => 1,
    }
}

/// An item with its place in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its place.
    pub seat: Seat,
    /// The item.
    pub item: T,
}

/// A place in the line. An item that was taken out can be put back there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its lane.
    pub lane: Lane,
    /// Its tenant.
    pub tenant: Tenant,
    /// The tenant's weight.
    pub weight: u32,
    key: Key,
}

/// Names an item as long as it exists. Later items have larger tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Seat {
    /// The item's ticket.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.key.ticket)
    }
}

/// What a scan does with an item that it visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Take it out and end the scan.
    Take,
    /// Go on with the tenant's next item: this one cannot start now.
    Skip,
    /// Go on with the next tenant: nothing of this one can start now in this lane, for instance because its budget is used up.
    SkipTenant,
    /// End the scan: nothing can start now.
    Stop,
}

/// How many items of a tenant one scan visits at the front of its queue.
pub const FRONT_VISITS: usize = 4;
/// How many items it visits further back, going on from where the last scan ended. So jobs at the front that wait for a closed
/// pool do not hide the jobs behind them for ever.
pub const ROVING_VISITS: usize = 4;

/// The line.
#[derive(Debug)]
pub struct Line<T> {
    lanes: [Queue<T>; 3],
    tickets: u64,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { lanes: Lane::ALL.map(Queue::new), tickets: 0 }
    }
}

impl<T> Line<T> {
    /// Adds an item that arrived `now`. `weight` is the tenant's share, from 1; the last one given holds.
    pub fn push(
        &mut self,
        lane: Lane,
        tenant: &Tenant,
        weight: u32,
        deadline: Option<Micros>,
        now: Micros,
        item: T,
    ) -> Ticket {
        self.tickets += 1;
        let key = Key { due: deadline.unwrap_or(now + LENIENT), ticket: self.tickets };
        self.queue(lane).push(tenant, weight.max(1), key, item, true);
        Ticket(key.ticket)
    }

    /// Puts back an item that was taken and did not start: to its old place, without a charge.
    pub fn put_back(&mut self, entry: Entry<T>) {
        let Seat { lane, tenant, weight, key } = entry.seat;
        self.queue(lane).push(&tenant, weight, key, entry.item, false);
    }

    /// Takes out the next item. Charges nothing: call [`Line::started`] or [`Line::put_back`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would promise that all of them start")]
    pub fn next(&mut self) -> Option<Entry<T>> {
        self.scan(|_, _| Look::Take)
    }

    /// Visits items in their order and takes out the first for which `look` says so. Charges nothing.
    ///
    /// Visits every tenant if need be, and at most [`FRONT_VISITS`] + [`ROVING_VISITS`] items of each, so that jobs that cannot
    /// start hold up neither their own tenant's other jobs nor those of other tenants.
    pub fn scan(&mut self, mut look: impl FnMut(&Seat, &T) -> Look) -> Option<Entry<T>> {
        for lane in self.lanes_in_order() {
            match self.queue(lane).scan(&mut look) {
                Scanned::Found(entry) => return Some(entry),
                Scanned::Nothing => {}
                Scanned::Stopped => return None,
            }
        }
        None
    }

    /// An item that was taken out has started, and is expected to cost `cost`.
    pub fn started(&mut self, seat: &Seat, cost: UsdNanos) {
        for queue in &mut self.lanes {
            queue.credit = match () {
                () if queue.lane == seat.lane => (queue.credit + floor(queue.lane)).saturating_sub(START),
                // An empty lane saves no credit.
                () if queue.len == 0 => 0,
                () => (queue.credit + floor(queue.lane)).min(CREDIT_MAX),
            };
        }
        self.queue(seat.lane).started(&seat.tenant, seat.weight, cost);
    }

    /// The item that started from `seat` was charged `expected`, and cost `actual`.
    pub fn correct(&mut self, seat: &Seat, expected: UsdNanos, actual: UsdNanos) {
        self.queue(seat.lane).correct(&seat.tenant, seat.weight, expected, actual);
    }

    /// Takes out every item for which `out` is true.
    pub fn remove_if(&mut self, mut out: impl FnMut(&Seat, &T) -> bool) -> Vec<Entry<T>> {
        let mut removed = Vec::new();
        for queue in &mut self.lanes {
            queue.remove_if(&mut out, &mut removed);
        }
        removed
    }

    /// Takes out all items, by lane and tenant.
    pub fn drain(&mut self) -> Vec<Entry<T>> {
        self.remove_if(|_, _| true)
    }

    /// All items, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Lane, &Tenant, &T)> {
        self.lanes.iter().flat_map(|queue| {
            let lane = queue.lane;
            queue
                .flows
                .iter()
                .flat_map(move |(tenant, flow)| flow.items.values().map(move |item| (lane, tenant, item)))
        })
    }

    /// All items, to be changed in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Lane, &Tenant, &mut T)> {
        self.lanes.iter_mut().flat_map(|queue| {
            let lane = queue.lane;
            queue
                .flows
                .iter_mut()
                .flat_map(move |(tenant, flow)| flow.items.values_mut().map(move |item| (lane, tenant, item)))
        })
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|queue| queue.len).sum()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many items wait in a lane.
    pub fn len_in(&self, lane: Lane) -> usize {
        self.lanes.iter().filter(|queue| queue.lane == lane).map(|queue| queue.len).sum()
    }

    /// How many items of a tenant wait.
    pub fn len_of(&self, tenant: &Tenant) -> usize {
        self.lanes.iter().filter_map(|queue| queue.flows.get(tenant)).map(|flow| flow.items.len()).sum()
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue<T> {
        &mut self.lanes[match lane {
            Lane::High => 0,
            Lane::Normal => 1,
            Lane::Low => 2,
        }]
    }

    /// The lanes in the order of this scan: those with a whole start to their credit first, most credit first; then by urgency.
    fn lanes_in_order(&self) -> [Lane; 3] {
        let mut order = Lane::ALL;
        let due = |lane: &Lane| {
            let credit = self.lanes.iter().find(|q| q.lane == *lane).map_or(0, |q| q.credit);
            std::cmp::Reverse(if credit >= START { credit } else { 0 })
        };
        order.sort_by_key(due);
        order
    }
}

#[cfg(test)]
mod tests;
