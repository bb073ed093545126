//! A pool's money: what its machines cost, what its jobs booked of that, and what is left to book as standing cost. Pure.
//!
//! The cost of machines is a total that only grows; what jobs booked is read from the ledger. Standing cost is the rest, so the
//! sum of a pool's cost events is what the provider bills, whatever crashed in between:
//!
//! ```text
//!  standing to book now = cost of all machines so far - booked by jobs - booked as standing before
//! ```
//!
//! Where jobs have booked more than machines cost so far (a job that began before the last booking ended after it), nothing is
//! booked until the machines have caught up. The account is stored before the event (as pending) and after it, in place of the
//! account that was read: whoever finds a pending event stores it again under the same message id.

use std::collections::BTreeMap;

use schemas::{MachineId, Micros, PoolId, UsdNanos, cost::CostEvent};
use serde::{Deserialize, Serialize};

use crate::row::{Life, Row};

/// What is known of a pool's money.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// The last message of the ledger that was read.
    pub ledger_seq: u64,
    /// When the stream that holds the ledger was made; another one begins from its start.
    #[serde(default)]
    pub ledger_made: String,
    /// What jobs of this pool booked up to there.
    pub jobs_usd: UsdNanos,
    /// What was booked as standing cost.
    pub standing_usd: UsdNanos,
    /// What machines cost whose rows are deleted.
    pub closed_usd: UsdNanos,
    /// What machines cost that are gone and whose rows may still be there.
    #[serde(default)]
    pub gone: BTreeMap<MachineId, UsdNanos>,
    /// Events stored so far; names the next one.
    pub events: u64,
    /// The event that may be stored or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// Standing cost on its way into the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// How much.
    pub amount_usd: UsdNanos,
    /// What the machines cost by then, for the line of the event.
    pub cost_usd: UsdNanos,
    /// Machine time by then that no booking has covered, microseconds: the line's quantity.
    pub quantity_us: u64,
    /// The machines' type, for the line.
    pub sku: String,
    /// When.
    pub at_us: Micros,
}

impl Books {
    /// What all machines of the pool cost so far. `rows` are those that are there now.
    pub fn cost<'a>(&self, rows: impl IntoIterator<Item = &'a Row>, now: Micros) -> UsdNanos {
        let standing = rows.into_iter().filter(|row| !self.gone.contains_key(&row.specs.machine));
        let parts = standing.map(|row| row.meter.cost(now)).chain(self.gone.values().copied());
        parts.fold(self.closed_usd, UsdNanos::saturating_add)
    }

    /// What of [`Books::cost`] jobs can book no more: `open` is what jobs that run now may have used of a machine that stands, and the
    /// part of a begun unit that no time has passed of. Of machines that are gone it is all.
    ///
    /// A job books its time when it ends, from its beginning on. Standing cost of that time, booked before, would be booked twice if
    /// the machine then goes before it has cost as much again.
    pub fn closed<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a Row>,
        open: impl Fn(&Row) -> UsdNanos,
        now: Micros,
    ) -> UsdNanos {
        let standing = rows.into_iter().filter(|row| !self.gone.contains_key(&row.specs.machine));
        let parts = standing.map(|row| {
            let cost = row.meter.cost(now);
            if row.life == Life::Gone { cost } else { cost.checked_sub(open(row)).unwrap_or(UsdNanos::ZERO) }
        });
        parts.chain(self.gone.values().copied()).fold(self.closed_usd, UsdNanos::saturating_add)
    }

    /// What is to be booked as standing cost now; zero while jobs are ahead of the machines.
    pub fn due(&self, cost: UsdNanos) -> UsdNanos {
        cost.checked_sub(self.booked()).unwrap_or(UsdNanos::ZERO)
    }

    /// What is booked beyond what machines cost so far.
    pub fn ahead(&self, cost: UsdNanos) -> UsdNanos {
        self.booked().checked_sub(cost).unwrap_or(UsdNanos::ZERO)
    }

    fn booked(&self) -> UsdNanos {
        self.jobs_usd.saturating_add(self.standing_usd)
    }

    /// Takes in a machine that is gone: its cost does not change any more.
    pub fn close(&mut self, row: &Row, now: Micros) {
        self.gone.entry(row.specs.machine.clone()).or_insert_with(|| row.meter.cost(now));
    }

    /// Takes in that the row of a machine that is gone is deleted.
    pub fn forget(&mut self, machine: &MachineId) {
        if let Some(cost) = self.gone.remove(machine) {
            self.closed_usd = self.closed_usd.saturating_add(cost);
        }
    }

    /// Makes what is due pending. `false` when nothing is due.
    pub fn begin(&mut self, cost: UsdNanos, sku: &str, quantity_us: u64, now: Micros) -> bool {
        let amount_usd = self.due(cost);
        if amount_usd == UsdNanos::ZERO || self.pending.is_some() {
            return false;
        }
        let sku = sku.to_owned();
        self.pending = Some(Pending { amount_usd, cost_usd: cost, quantity_us, sku, at_us: now });
        true
    }

    /// The event of what is pending, and its message id.
    pub fn event(&self, pool: &PoolId, price_book: &str) -> Option<(CostEvent, String)> {
        let Pending { amount_usd, quantity_us, sku, at_us, .. } = self.pending.clone()?;
        let event =
            CostEvent::rest_of_bill(pool, (sku, "machines", quantity_us), amount_usd, price_book, at_us);
        Some((event, format!("machines:{pool}:{}:cost", self.events)))
    }

    /// What was pending is stored.
    pub fn settle(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.standing_usd = self.standing_usd.saturating_add(pending.amount_usd);
            self.events += 1;
        }
    }

    /// Takes in a cost event of the ledger.
    pub fn read(&mut self, pool: &PoolId, event: &CostEvent) {
        if event.is_of_job_at(pool) {
            self.jobs_usd = self.jobs_usd.saturating_add(event.amount_usd);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemas::cost::Purpose;

    use super::*;
    use crate::row::{Absence, Specs};

    const T0: Micros = Micros::new(1_795_000_000_000_000);

    fn usd(nanos: u64) -> UsdNanos {
        UsdNanos::new(nanos)
    }

    fn row(name: &str, hours: u64) -> Row {
        let specs = Specs {
            machine: name.parse().unwrap(),
            pool: "lambda@us-east".parse().unwrap(),
            landlord: "lambda".into(),
            sku: "a10".into(),
            place: "us-east-1".into(),
            slots: 4,
            usd_per_hour: usd(1_000),
            usd_per_hour_max: usd(1_000),
            parked_usd_per_hour: usd(1),
            job_usd_per_hour: None,
        };
        let mut row = Row::wanted(specs, Duration::ZERO, String::new(), T0);
        row.meter.run(T0, usd(1_000));
        row.meter.stop(T0 + Duration::from_secs(3_600 * hours));
        row
    }

    fn job(nanos: u64) -> CostEvent {
        let mut books = Books::default();
        books.begin(usd(1), "x", 0, T0);
        let (mut event, _) = books.event(&"lambda@us-east".parse().unwrap(), "p").unwrap();
        event.purpose = Purpose::Useful;
        event.amount_usd = usd(nanos);
        event
    }

    #[test]
    fn jobs_and_standing_cost_add_up_to_what_the_machines_cost() {
        let pool = "lambda@us-east".parse().unwrap();
        let (mut books, rows) = (Books::default(), [row("a", 2), row("b", 3)]);
        books.read(&pool, &job(700));
        books.read(&"modal@us-east".parse().unwrap(), &job(9_999));
        let cost = books.cost(&rows, T0);
        assert_eq!(cost, usd(5_000));
        assert!(books.begin(cost, "a10", 0, T0));
        let (event, id) = books.event(&pool, "p").unwrap();
        assert_eq!((event.amount_usd, id.as_str()), (usd(4_300), "machines:lambda@us-east:0:cost"));
        books.settle();
        assert!(!books.begin(cost, "a10", 0, T0), "nothing is booked twice");
        // A job that was running at that time ends: the next booking is less by as much.
        books.read(&pool, &job(200));
        assert_eq!((books.due(cost), books.ahead(cost)), (usd(0), usd(200)));
        let later = books.cost(&[row("a", 2), row("b", 4)], T0);
        assert_eq!(books.due(later), usd(800));
        assert_eq!(books.event(&pool, "p"), None);
    }

    #[test]
    fn what_jobs_that_run_may_still_book_is_no_standing_cost_until_their_machine_is_gone() {
        let pool = "lambda@us-east".parse().unwrap();
        let (mut books, mut machine) = (Books::default(), row("a", 5));
        machine.life =
            Life::Ready { address: String::new(), failed: 0, not_before_us: T0, absent: Absence::default() };
        let open = |_: &Row| usd(2_000);
        assert_eq!(books.closed([&machine], open, T0), usd(3_000));
        assert!(books.begin(books.closed([&machine], open, T0), "a10", 0, T0));
        books.settle();
        // A job that began before the booking ends, and so does the machine.
        books.read(&pool, &job(1_500));
        machine.life = Life::Gone;
        let cost = books.closed([&machine], open, T0);
        assert_eq!((cost, books.due(cost), books.ahead(cost)), (usd(5_000), usd(500), usd(0)));
        assert_eq!(books.closed([&row("b", 1)], |_| usd(u64::MAX), T0), usd(0), "it never runs below zero");
    }

    #[test]
    fn a_machine_that_is_gone_counts_once_whether_its_row_is_still_there_or_not() {
        let (mut books, gone) = (Books::default(), row("a", 2));
        books.close(&gone, T0);
        books.close(&gone, T0);
        assert_eq!(books.cost([&gone], T0), usd(2_000));
        books.forget(&gone.specs.machine);
        assert_eq!(books.cost([], T0), usd(2_000));
        books.forget(&gone.specs.machine);
        assert_eq!(books.cost([], T0), usd(2_000));
    }
}
