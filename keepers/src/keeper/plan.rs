//! The pool's plan, carried: what is seen goes in, orders and endings come out.

use std::{collections::BTreeMap, time::Duration};

use schemas::{MachineId, Micros, UsdNanos, machine::MachineState, time::Clock as _};
use tokio::time::Instant;
use transport::SystemClock;

use super::{desk::Desk, ears::Ears, money::Figures};
use crate::{
    fleet,
    landlord::Quote,
    machine::Event,
    row::{Life, Row, Specs},
    store::StoreError,
    wish::{Cooling, Quoted, Status, Wish},
};

/// Between looks when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After news, before the next look: news come in bursts.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// How old a quote may be.
const QUOTED_FOR: Duration = Duration::from_secs(300);
/// A place cools no longer than this.
const COOL_MAX: Duration = Duration::from_secs(3_600);
/// A pool that needs a person is tried again after this, doubled each time up to the second.
const CLOSED_FOR: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// A machine that drains and of which no worker says anything is believed to be empty after this.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// A machine that drains is believed to be empty no sooner: workers hear of the drain within moments.
const DRAIN_LEAST: Duration = Duration::from_secs(2);

/// Something that holds for a while, and longer each time.
#[derive(Clone, Debug)]
struct Rest {
    until: Micros,
    times: u32,
    because: String,
}

impl Rest {
    fn again(
        before: Option<&Self>,
        because: String,
        (least, most): (Duration, Duration),
        now: Micros,
    ) -> Self {
        let times = before.map_or(0, |rest| rest.times).saturating_add(1);
        let span = least.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most.max(least));
        Self { until: now + span, times, because }
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) orders: Vec<Row>,
    pub(super) events: Vec<(MachineId, Event)>,
}

/// The plan of a pool and what it is made from.
pub(super) struct Planner {
    ears: Ears,
    cooling: BTreeMap<String, Rest>,
    closed: Option<Rest>,
    quotes: Vec<Quote>,
    quoted_at: Option<Micros>,
    next: Instant,
    look_again_at: Option<Micros>,
}

impl Planner {
    pub(super) async fn begin(desk: &Desk) -> Result<Self, StoreError> {
        let (wish, _) = desk.store.read::<Wish>(&Wish::key(&desk.settings.pool)).await?;
        Ok(Self {
            ears: Ears::open(desk, wish.unwrap_or_default()),
            cooling: BTreeMap::new(),
            closed: None,
            quotes: Vec::new(),
            quoted_at: None,
            next: Instant::now(),
            look_again_at: None,
        })
    }

    /// Returns when a look is due. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.next) => {}
            () = self.ears.heard() => {}
        }
    }

    pub(super) fn urge(&mut self) {
        self.next = self.next.min(Instant::now() + LOOK_SOON);
    }

    pub(super) fn look_again_at(&self) -> Option<Micros> {
        self.look_again_at
    }

    /// A machine has moved on.
    pub(super) fn moved(&mut self, row: &Row, before: MachineState, now: Micros) {
        if row.life.state() == MachineState::Ready {
            self.cooling.remove(&row.specs.place);
        }
        let _ = (before, now);
        self.urge();
    }

    pub(super) fn cool(&mut self, place: String, because: String, now: Micros) {
        let rest = Rest::again(self.cooling.get(&place), because, (Duration::from_secs(60), COOL_MAX), now);
        self.cooling.insert(place, rest);
    }

    pub(super) fn close(&mut self, because: String, now: Micros) {
        self.closed = Some(Rest::again(self.closed.as_ref(), because, CLOSED_FOR, now));
    }

    pub(super) async fn store(&self, _: &Desk) {}

    pub(super) async fn decide(
        &mut self,
        desk: &Desk,
        rows: &[&Row],
        figures: Figures,
        now: Micros,
    ) -> Decided {
        self.next = Instant::now() + LOOK_EVERY;
        let mut decided = Decided::default();
        let settings = &desk.settings;
        let wish = self.ears.wish();
        let want =
            if desk.orphaned || wish.stopped { 0 } else { wish.scale.unwrap_or(settings.policy.least) };
        let living: Vec<&&Row> = rows
            .iter()
            .filter(|row| row.doomed.is_none())
            .filter(|row| {
                !matches!(
                    row.life,
                    Life::Draining { .. } | Life::Stopping { .. } | Life::Gone | Life::Parked { .. }
                )
            })
            .collect();
        let have = u32::try_from(living.len()).unwrap_or(u32::MAX);
        for row in rows {
            if matches!(row.life, Life::Draining { .. })
                && now.since(row.since_us) >= DRAIN_LEAST.max(SILENT_FOR.min(DRAIN_LEAST))
            {
                decided.events.push((row.specs.machine.clone(), Event::Drained));
            }
        }
        if have > want {
            for row in living.iter().rev().take((have - want) as usize) {
                let because = "more machines than wanted".to_owned();
                decided
                    .events
                    .push((row.specs.machine.clone(), Event::Unwanted { because, park: settings.park }));
            }
        }
        if have < want && self.may_order(desk, now).await {
            let open = |quote: &&Quote| self.cooling.get(&quote.place).is_none_or(|rest| rest.until <= now);
            if let Some(quote) = self.quotes.iter().find(open) {
                for _ in have..want {
                    decided.orders.push(wanted(desk, quote, now));
                }
            }
        }
        self.tell(desk, want, rows, figures, now).await;
        decided
    }

    async fn may_order(&mut self, desk: &Desk, now: Micros) -> bool {
        if self.closed.as_ref().is_some_and(|rest| now < rest.until) {
            return false;
        }
        if self.quoted_at.is_some_and(|at| now.since(at) < QUOTED_FOR) {
            return true;
        }
        match desk.account.landlord().quote(&desk.settings.pool).await {
            Ok(quotes) => {
                (self.quotes, self.quoted_at, self.closed) = (quotes, Some(now), None);
                true
            }
            Err(error) => {
                self.close(error.to_string(), now);
                false
            }
        }
    }

    async fn tell(&self, desk: &Desk, want: u32, rows: &[&Row], figures: Figures, now: Micros) {
        let quoted = |quote: &Quote| Quoted {
            place: quote.place.clone(),
            sku: quote.sku.clone(),
            usd_per_hour: quote.usd_per_hour,
            available: quote.available,
        };
        let cooling = |(place, rest): (&String, &Rest)| {
            (now < rest.until).then(|| Cooling {
                place: place.clone(),
                until_us: rest.until,
                because: rest.because.clone(),
            })
        };
        let status = Status {
            keeper: desk.keeper.clone(),
            at_us: now,
            want,
            reason: String::new(),
            usd_per_hour: fleet::usd_per_hour(rows.iter().copied()),
            quotes: self.quotes.iter().map(quoted).collect(),
            closed: self.closed.as_ref().map(|rest| rest.because.clone()),
            cooling: self.cooling.iter().filter_map(cooling).collect(),
            cost_usd: figures.cost_usd,
            jobs_usd: figures.jobs_usd,
            standing_usd: figures.standing_usd,
        };
        desk.store.put(&Status::key(&desk.settings.pool), &status).await;
    }
}

fn wanted(desk: &Desk, quote: &Quote, now: Micros) -> Row {
    let specs = Specs {
        machine: uuid::Uuid::now_v7().simple().to_string().parse().expect("hexadecimal digits are a token"),
        pool: desk.settings.pool.clone(),
        landlord: desk.settings.account.clone(),
        sku: quote.sku.clone(),
        place: quote.place.clone(),
        slots: desk.settings.slots,
        usd_per_hour: quote.usd_per_hour,
        parked_usd_per_hour: quote.parked_usd_per_hour,
    };
    let _ = (SystemClock.now(), UsdNanos::ZERO);
    Row::wanted(specs, desk.account.rules().unit, "wanted".into(), now)
}
