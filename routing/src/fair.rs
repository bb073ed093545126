//! The line in which jobs of one (region, model) wait, and who is next. Pure, and indifferent to what the items are.
//!
//! - **Lanes** by strict priority with floors: while they wait, `low` gets at least 5 % and `normal` at least 15 % of the
//!   starts.
//! - **Tenants** of a lane by start-time fair queueing (Goyal, Vin and Cheng, 1996), whose currency is cost: each tenant has a
//!   tag that grows by what it was charged over its weight, and the smallest tag is next. The expected cost is charged when a
//!   job starts, so that what runs now counts, and corrected when the real cost is known. Between two tenants that both wait,
//!   shares differ from the weights by no more than one job of each. (`routing.md` names deficit round robin; this needs no
//!   quantum, which nobody could choose while costs differ by a factor of a thousand.)
//! - A tenant that comes back starts at the current virtual time: what it did not use was lent to the others, and neither is
//!   owed back nor owes.
//! - **Jobs** of a tenant by earliest deadline, then by arrival. A job without a deadline counts as due [`LENIENT`] after it
//!   came, so that a stream of urgent ones cannot hold it up for ever.

mod flow;
mod queue;

use std::time::Duration;

use schemas::{Lane, Micros, Tenant, UsdNanos};

use self::{
    flow::Key,
    queue::{Queue, Scanned},
};

/// When a job without a deadline is taken to be due, after its arrival.
pub const LENIENT: Duration = Duration::from_secs(600);

/// A start gives each waiting lane its floor in twentieths; with a whole start's worth it goes first.
const START: u32 = 20;
/// What a lane may save up that could not use its turn, for instance because no pool took its jobs.
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
    /// Where it stands.
    pub seat: Seat,
    /// What waits.
    pub item: T,
}

/// A place in the line, which an item can be given back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its lane.
    pub lane: Lane,
    /// Whose it is.
    pub tenant: Tenant,
    /// The tenant's weight.
    pub weight: u32,
    key: Key,
}

/// Names an item as long as it lives; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Seat {
    /// The item's ticket.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.key.ticket)
    }
}

/// What to do with an item that a scan visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It starts: take it out and end the scan.
    Take,
    /// It cannot start now; the tenant's next one may.
    Skip,
    /// Nothing of this tenant can start now in this lane, for instance because its budget is used up.
    SkipTenant,
    /// Nothing can start now.
    Stop,
}

/// Items of a tenant that one scan visits from the front of its queue.
pub const FRONT_VISITS: usize = 4;
/// Items that it visits further back. It goes on there from where the last scan ended, so that a front of jobs that only a
/// closed pool may take does not hide for ever those behind it.
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
    /// Adds an item that arrived `now`. `weight` is the tenant's share, from 1; the last one said holds.
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

    /// Gives back an item that was taken and did not start, to its old place and without charge.
    pub fn put_back(&mut self, entry: Entry<T>) {
        let Seat { lane, tenant, weight, key } = entry.seat;
        self.queue(lane).push(&tenant, weight, key, entry.item, false);
    }

    /// Takes out who is next. Charges nothing: call [`Line::started`] or [`Line::put_back`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would promise that all of them start")]
    pub fn next(&mut self) -> Option<Entry<T>> {
        self.scan(|_, _| Verdict::Take)
    }

    /// Visits items in the order in which they are next and takes out the first that `judge` takes. Charges nothing.
    ///
    /// Of each tenant it visits at most [`FRONT_VISITS`] + [`ROVING_VISITS`] items, and every tenant if need be, so one
    /// tenant's jobs that cannot start hold up neither its others nor anybody else's.
    pub fn scan(&mut self, mut judge: impl FnMut(&Seat, &T) -> Verdict) -> Option<Entry<T>> {
        for lane in self.lanes_in_order() {
            match self.queue(lane).scan(&mut judge) {
                Scanned::Found(entry) => return Some(entry),
                Scanned::Nothing => {}
                Scanned::Stopped => return None,
            }
        }
        None
    }

    /// An item that was taken has started and is expected to cost `cost`.
    pub fn started(&mut self, seat: &Seat, cost: UsdNanos) {
        for queue in &mut self.lanes {
            queue.credit = match () {
                () if queue.lane == seat.lane => (queue.credit + floor(queue.lane)).saturating_sub(START),
                // An empty lane saves nothing up.
                () if queue.len == 0 => 0,
                () => (queue.credit + floor(queue.lane)).min(CREDIT_MAX),
            };
        }
        self.queue(seat.lane).started(&seat.tenant, seat.weight, cost);
    }

    /// What started as `seat` was charged `expected` and really cost `actual`.
    pub fn correct(&mut self, seat: &Seat, expected: UsdNanos, actual: UsdNanos) {
        self.queue(seat.lane).correct(&seat.tenant, seat.weight, expected, actual);
    }

    /// Takes out every item that `out` names, and hands them over.
    pub fn remove_if(&mut self, mut out: impl FnMut(&Seat, &T) -> bool) -> Vec<Entry<T>> {
        let mut removed = Vec::new();
        for queue in &mut self.lanes {
            queue.remove_if(&mut out, &mut removed);
        }
        removed
    }

    /// Takes out everything, by lane and tenant.
    pub fn drain(&mut self) -> Vec<Entry<T>> {
        self.remove_if(|_, _| true)
    }

    /// Everything that waits, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Lane, &Tenant, &T)> {
        self.lanes.iter().flat_map(|queue| {
            let lane = queue.lane;
            queue
                .flows
                .iter()
                .flat_map(move |(tenant, flow)| flow.items.values().map(move |item| (lane, tenant, item)))
        })
    }

    /// The same, to change items in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Lane, &Tenant, &mut T)> {
        self.lanes.iter_mut().flat_map(|queue| {
            let lane = queue.lane;
            queue
                .flows
                .iter_mut()
                .flat_map(move |(tenant, flow)| flow.items.values_mut().map(move |item| (lane, tenant, item)))
        })
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|queue| queue.len).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait in a lane.
    pub fn len_in(&self, lane: Lane) -> usize {
        self.lanes.iter().filter(|queue| queue.lane == lane).map(|queue| queue.len).sum()
    }

    /// How many of a tenant wait.
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

    /// Lanes whose floor is due first, the one with the most to its credit before the others; then by urgency.
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
