//! The pool's plan, carried: what is seen goes in, orders and farewells come out.

use std::time::Duration;

use schemas::{Micros, UsdNanos, machine::MachineState};
use tokio::{task::JoinSet, time::Instant};
use tracing::{debug, error, warn};

use super::{desk::Desk, ears::Ears, money::Figures, warnings};
use crate::{
    fleet,
    landlord::{CallError, Parking, Quote},
    machine::Event,
    metrics,
    policy::{self, How, Leave, LeaveWhy, Memory, Offer, Peer, Plan, Purchase, Seen, Standing},
    row::{Life, Row, Specs},
    store::StoreError,
    wish::{Cooling, Quoted, Status, Wish},
};

/// After news, before the next look: news come in bursts.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// While machines drain, looks come so often: each second of them is paid for.
const LOOK_DRAINING: Duration = Duration::from_millis(500);
/// Quotes are asked for anew after this, so that an order needs no call before it.
const QUOTED_FOR: Duration = Duration::from_secs(120);
/// A pool that needs a person is tried again after this, doubled each time up to the second.
const CLOSED_FOR: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// What is told of a pool is told again after this, though nothing has changed but time.
const TELL_EVERY: Duration = Duration::from_secs(20);
/// What the plan remembers is stored this often.
const STORE_EVERY: Duration = Duration::from_secs(30);

/// Why nothing is ordered until a person acts, and when it is tried again all the same.
#[derive(Clone, Debug)]
struct Closed {
    until: Instant,
    times: u32,
    because: String,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) orders: Vec<Row>,
    pub(super) events: Vec<(schemas::MachineId, Event)>,
}

/// The plan of a pool and what it is made from.
pub(super) struct Planner {
    ears: Ears,
    memory: Memory,
    closed: Option<Closed>,
    quotes: Vec<Quote>,
    /// The question for quotes that is under way.
    quoting: JoinSet<Result<Vec<Quote>, CallError>>,
    quote_at: Instant,
    next: Instant,
    store_at: Instant,
    alarmed: bool,
    /// What was told last, and when it is told again in any case.
    told: Option<(Status, Instant)>,
    /// What is wrong, as it was told last: each line is logged when it is new.
    warned: Vec<String>,
}

impl Planner {
    pub(super) async fn begin(desk: &Desk) -> Result<Self, StoreError> {
        let (wish, _) = desk.store.read::<Wish>(&Wish::key(&desk.settings.pool)).await?;
        // A memory of another version is no reason to keep nothing: the plan learns again.
        let memory = match desk.store.read::<Memory>(&memory_key(desk)).await {
            Ok((memory, _)) => memory.unwrap_or_default(),
            Err(StoreError::Value { key, source }) => {
                warn!(key, error = %source, "what the plan remembered does not read; it begins anew");
                Memory::default()
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        Ok(Self {
            ears: Ears::open(desk, wish.unwrap_or_default()),
            memory,
            closed: None,
            quotes: Vec::new(),
            quoting: JoinSet::new(),
            quote_at: now,
            next: now,
            store_at: now + STORE_EVERY,
            alarmed: false,
            told: None,
            warned: Vec::new(),
        })
    }

    /// Returns when a look is due. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.next) => {}
            () = self.ears.heard() => {}
            Some(quoted) = self.quoting.join_next() => self.quoted(quoted.unwrap_or_else(|error| {
                Err(CallError::Unclear(format!("the question for prices broke down: {error}")))
            })),
        }
    }

    pub(super) fn urge(&mut self) {
        self.next = self.next.min(Instant::now() + LOOK_SOON);
    }

    /// Nothing is ordered of a machine's type at its place for a while.
    pub(super) fn cool(&mut self, specs: &Specs, now: Micros) {
        self.memory.starts.failed(&specs.sku, &specs.place, now);
        self.urge();
    }

    /// Nothing is ordered until a person acts.
    pub(super) fn close(&mut self, because: String) {
        let times = self.closed.as_ref().map_or(0, |closed| closed.times).saturating_add(1);
        let (least, most) = CLOSED_FOR;
        let span = least.saturating_mul(1 << times.saturating_sub(1).min(10)).min(most);
        let until = Instant::now() + span;
        (self.closed, self.quote_at) = (Some(Closed { until, times, because }), until);
        self.urge();
    }

    /// How long something has waited where nothing did, told once.
    pub(super) fn take_pressure(&self) -> Option<Duration> {
        self.ears.take_pressure()
    }

    fn quoted(&mut self, quoted: Result<Vec<Quote>, CallError>) {
        match quoted {
            Ok(quotes) => {
                (self.quotes, self.quote_at) = (quotes, Instant::now() + QUOTED_FOR);
                if self.closed.as_ref().is_some_and(|closed| closed.until <= Instant::now()) {
                    self.closed = None;
                }
            }
            Err(error) if error.needs_a_person() => self.close(error.told()),
            Err(error) => {
                debug!(%error, "no quotes now");
                let wait = match error {
                    CallError::RateLimited(_, Some(wait)) => wait.min(CLOSED_FOR.0),
                    _ => CLOSED_FOR.0,
                };
                self.quote_at = Instant::now() + wait;
                // Without quotes nothing can be ordered.
                self.next = self.next.min(self.quote_at);
            }
        }
    }

    /// Stores what is remembered.
    pub(super) async fn store(&mut self, desk: &Desk) {
        desk.store.put(&memory_key(desk), &self.memory).await;
        self.store_at = Instant::now() + STORE_EVERY;
    }

    /// Looks, and says what is to be done.
    pub(super) async fn decide(
        &mut self,
        desk: &Desk,
        rows: &[&Row],
        figures: Figures,
        now: Micros,
    ) -> Decided {
        self.ask_for_quotes(desk);
        let (seen, peer) = self.see(desk, rows, now);
        let plan = policy::plan(&seen, &desk.settings.policy, &mut self.memory, now);
        let mut decided = Decided::default();
        decided.orders.extend(plan.order.iter().map(|purchase| self.wanted(desk, purchase, plan.why(), now)));
        let wake = plan.wake.iter().map(|machine| (machine.clone(), Event::Wake(plan.why())));
        decided.events.extend(wake);
        let state = |leave: &Leave| rows.iter().find(|row| row.specs.machine == leave.machine);
        for leave in &plan.leave {
            let Some(row) = state(leave) else { continue };
            let events = farewell(leave, row, desk.settings.policy.park);
            decided.events.extend(events.into_iter().map(|event| (leave.machine.clone(), event)));
        }
        let ready =
            rows.iter().filter(|row| matches!(row.life, Life::Ready { .. })).map(|row| &row.specs.machine);
        let suspects = self.ears.loads(|loads| loads.suspects(&desk.settings.pool, now));
        let suspects =
            suspects.into_iter().filter(|(machine, _)| ready.clone().any(|ready| ready == machine));
        decided.events.extend(suspects.map(|(machine, because)| (machine, Event::Suspect(because))));
        let draining = rows.iter().any(|row| matches!(row.life, Life::Draining { .. }));
        let look = if draining { LOOK_DRAINING } else { plan.look_again_at.since(now) };
        self.next = Instant::now() + look.max(LOOK_SOON);
        let compared = policy::verdict(&seen, &self.memory.starts, now);
        let told = Status { compared, peer, ..self.status(desk, &plan, rows, figures, now) };
        self.tell(desk, &plan, told).await;
        metrics::passed(&desk.settings.pool, rows.iter().map(|row| row.life.state()), seen_usd(rows), now);
        if self.store_at <= Instant::now() {
            self.store(desk).await;
        }
        decided
    }

    fn ask_for_quotes(&mut self, desk: &Desk) {
        if desk.orphaned || !self.quoting.is_empty() || Instant::now() < self.quote_at {
            return;
        }
        let (landlord, pool) = (std::sync::Arc::clone(desk.account.landlord()), desk.settings.pool.clone());
        self.quoting.spawn(async move { landlord.quote(&pool).await });
    }

    /// What the plan is made from, and what other pools are told of it.
    fn see(&self, desk: &Desk, rows: &[&Row], now: Micros) -> (Seen, Peer) {
        let (settings, rules, wish) = (&desk.settings, desk.account.rules(), self.ears.wish());
        let offer = |quote: &Quote| Offer {
            sku: quote.sku.clone(),
            place: quote.place.clone(),
            slots: settings.slots,
            usd_per_hour: quote.usd_per_hour,
            available: quote.available,
        };
        let affordable = |quote: &&Quote| {
            let differs = settings.policy.book_price.differs(quote.usd_per_hour, now);
            quote.usd_per_hour <= settings.usd_per_hour_max && differs.is_none()
        };
        let offers = match &self.closed {
            Some(_) => Vec::new(),
            None => self.quotes.iter().filter(affordable).map(offer).collect(),
        };
        let standing = |row: &&Row| {
            self.ears.loads(|loads| {
                let drains_since = matches!(row.life, Life::Draining { .. }).then_some(row.since_us);
                Standing {
                    machine: row.specs.machine.clone(),
                    state: row.life.state(),
                    since: row.since_us,
                    sku: row.specs.sku.clone(),
                    place: row.specs.place.clone(),
                    slots: row.specs.slots,
                    usd_per_hour: row.specs.usd_per_hour,
                    parked_usd_per_hour: row.specs.parked_usd_per_hour,
                    ordered_at: row.ordered_us.unwrap_or(row.since_us),
                    ready_at: row.ready_us,
                    paid_until: row.meter.paid_until(now),
                    running: loads.running(&settings.pool, &row.specs.machine, drains_since, now),
                    cached_tokens: 0,
                    replace: is_old(row, desk, now),
                    unwanted: row.doomed.is_some() || wish.drain.contains(&row.specs.machine),
                }
            })
        };
        let mut seen = Seen {
            load: self.ears.load(desk, now),
            machines: rows.iter().filter(|row| row.life != Life::Gone).map(standing).collect(),
            offers,
            serverless: self.ears.loads(|loads| loads.serverless(&settings.pool, &settings.models, now)),
            ahead_slots: 0,
            wish: match wish {
                _ if desk.orphaned => policy::Wish::Stop,
                Wish { stopped: true, .. } => policy::Wish::Stop,
                Wish { scale: Some(machines), .. } => policy::Wish::Scale(machines),
                Wish { .. } => policy::Wish::None,
            },
            unit: rules.unit,
            minimum: rules.unit,
            parks: rules.parking == Parking::Offered,
        };
        let peer = Peer::of(&seen, &settings.policy, &settings.models, &self.memory.starts, now);
        seen.ahead_slots = self.ears.ahead(desk, &peer, now);
        (seen, peer)
    }

    fn wanted(&self, desk: &Desk, purchase: &Purchase, because: String, now: Micros) -> Row {
        let quoted = |quote: &&Quote| quote.place == purchase.place && quote.sku == purchase.sku;
        let parked =
            self.quotes.iter().find(quoted).map_or(UsdNanos::ZERO, |quote| quote.parked_usd_per_hour);
        let specs = Specs {
            machine: uuid::Uuid::now_v7()
                .simple()
                .to_string()
                .parse()
                .expect("hexadecimal digits are a token"),
            pool: desk.settings.pool.clone(),
            landlord: desk.settings.account.clone(),
            sku: purchase.sku.clone(),
            place: purchase.place.clone(),
            slots: purchase.slots,
            usd_per_hour: purchase.usd_per_hour,
            usd_per_hour_max: purchase.usd_per_hour_max,
            parked_usd_per_hour: parked,
            job_usd_per_hour: desk.settings.job_usd_per_hour,
        };
        Row::wanted(specs, desk.account.rules().unit, because, now)
    }

    async fn tell(&mut self, desk: &Desk, plan: &Plan, status: Status) {
        let pool = &desk.settings.pool;
        let alarm = plan.reasons.iter().any(policy::Reason::is_alarm);
        if alarm && !self.alarmed {
            warn!(%pool, why = plan.why(), "jobs may be late");
        }
        self.alarmed = alarm;
        for line in status.warnings.iter().filter(|line| !self.warned.contains(line)) {
            error!(%pool, "{line}");
        }
        self.warned.clone_from(&status.warnings);
        let fresh = |until: Instant| Instant::now() < until;
        if self.told.as_ref().is_some_and(|(told, until)| status.says_what(told) && fresh(*until)) {
            return;
        }
        desk.store.put(&Status::key(pool), &status).await;
        self.told = Some((status, Instant::now() + TELL_EVERY));
    }

    fn status(&self, desk: &Desk, plan: &Plan, rows: &[&Row], figures: Figures, now: Micros) -> Status {
        let quoted = |quote: &Quote| Quoted {
            place: quote.place.clone(),
            sku: quote.sku.clone(),
            usd_per_hour: quote.usd_per_hour,
            available: quote.available,
        };
        let cooling = |quote: &Quote| {
            let until_us = self.memory.starts.rests(&quote.sku, &quote.place, now)?;
            let because = "the last machine ordered there could not be had, or did not serve".to_owned();
            Some(Cooling { place: quote.place.clone(), until_us, because })
        };
        Status {
            keeper: desk.keeper.clone(),
            pool: Some(desk.settings.pool.clone()),
            at_us: now,
            want: plan.want,
            reason: plan.why(),
            usd_per_hour: seen_usd(rows),
            quotes: self.quotes.iter().map(quoted).collect(),
            closed: self.closed.as_ref().map(|closed| closed.because.clone()),
            cooling: self.quotes.iter().filter_map(cooling).collect(),
            cost_usd: figures.machines,
            jobs_usd: figures.jobs,
            standing_usd: figures.standing,
            warnings: self.warnings(desk, rows, now),
            wish_us: self.ears.wish().at_us,
            ..Status::default()
        }
    }

    /// What is wrong and what to do.
    fn warnings(&self, desk: &Desk, rows: &[&Row], now: Micros) -> Vec<String> {
        let because = self.closed.as_ref().map(|closed| closed.because.as_str());
        warnings::lines(&desk.settings, desk.orphaned, because, &self.quotes, rows, now)
    }
}

fn seen_usd(rows: &[&Row]) -> UsdNanos {
    fleet::usd_per_hour(rows.iter().copied())
}

/// Whether a machine is to be replaced: the pool rents another type now, or its time ends before a successor could be there.
fn is_old(row: &Row, desk: &Desk, now: Micros) -> bool {
    let (settings, ahead) =
        (&desk.settings, desk.account.rules().start_within + desk.settings.policy.drain_limit);
    row.specs.sku != settings.sku || row.expires_us.is_some_and(|until| until <= now + ahead)
}

/// What a farewell means for a machine.
fn farewell(leave: &Leave, row: &Row, park: bool) -> Vec<Event> {
    let because = match leave.why {
        LeaveWhy::Fewer => "fewer machines are enough",
        LeaveWhy::Replaced => "its successor works",
        LeaveWhy::Asked => "an operator asked for it",
        LeaveWhy::NeverStarted => "it took too long to start",
        LeaveWhy::Drained => "it is drained",
        LeaveWhy::DrainLimit => "its jobs have had their time",
        LeaveWhy::ParkedLong => "it was parked for longer than a new one costs",
    };
    let unwanted = |park| Event::Unwanted { because: because.to_owned(), park };
    match (leave.how, row.life.state()) {
        (How::Park, MachineState::Draining) => vec![Event::Drained],
        (How::End, MachineState::Draining) => vec![unwanted(false), Event::Drained],
        (How::Drain, _) => vec![unwanted(park && leave.why == LeaveWhy::Fewer)],
        (How::Park, _) => vec![unwanted(true)],
        (How::Forget | How::End, _) => vec![unwanted(false)],
    }
}

fn memory_key(desk: &Desk) -> String {
    format!("memory.{}.{}", desk.settings.pool.region, desk.settings.pool.provider)
}
