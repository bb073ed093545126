//! The task of a dispatcher: a switchboard between messages and [`Jobs`], which knows and decides everything.
//!
//! ```text
//!  deliveries, answers, heartbeats, returns, look-ups, ticks ─▶ Event ─▶ Jobs::apply ─▶ Effect ─▶ a message, or a task that
//!                                                                 ▲                              tells when it has ended
//!                                                                 └──────────────────────────────────────┘
//! ```

mod carry;
mod returns;
mod start;
mod streams;
mod tell;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt, stream::SelectAll};
use schemas::{
    Micros,
    demand::Demand,
    failure::{Failure, FailureClass},
    handover::Acceptances,
    heartbeat::Heartbeat,
    subjects::JobSubject,
    time::Clock as _,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::{SystemClock, api::ApiError, role::Role, topology::TopologyError};

pub use self::start::StartError;

use crate::{
    banker::Banker,
    config::DispatcherConfig,
    demand::Teller,
    ending::Ending,
    jobs::{Effect, Event, Finding, JobKey, Jobs, Lost, Suspect},
    look_up::LookUp,
    nats::{self, Delivery, Parcel},
    tenants, why,
};

/// How often open offers, leases in hand and lost pulls are looked at.
const TICK: Duration = Duration::from_millis(20);
/// Events handled before the next look at the other sources.
const BURST: usize = 256;
/// How often whose jobs wait behind a backlog is asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Why a running dispatcher stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A consumer is gone and must not be made anew without a person.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The connection was closed for good.
    #[error("the NATS connection was closed")]
    Closed,
}

/// What tasks beside the loop tell when they end.
enum Told {
    /// Look-ups.
    Found(Vec<Finding>),
    /// A job was ended, or a message that is no job.
    Ended(Option<JobKey>),
    /// Anything else that is an event by itself.
    Event(Event),
    /// The map of streams is right again, and when each region's job stream was made; or it is not.
    Repaired(Result<Vec<Micros>, TopologyError>),
    /// Whose jobs wait in the streams.
    Newest(Result<Vec<(JobSubject, u64)>, ApiError>),
    /// How many jobs wait at consumers, by index.
    Pending(Vec<(usize, u64)>),
    /// The job of a return that came without its text.
    Read(Box<schemas::handover::Return>, Option<Parcel>),
    /// The lost attempts of a mailbox are booked.
    Booked,
    /// Nothing to tell.
    Nothing,
}

/// A connected dispatcher.
pub struct Dispatcher {
    config: Arc<DispatcherConfig>,
    role: Role,
    /// Where pulls are answered.
    inbox: String,
    /// Where workers answer offers.
    accept: String,
    deliveries: Subscriber,
    /// Whether everything that was delivered has come; only after the dispatcher was told to stop.
    drained: bool,
    answers: Subscriber,
    beats: Subscriber,
    returns: SelectAll<Subscriber>,
    questions: SelectAll<Subscriber>,
    /// Advisories that a stream was deleted.
    deletions: Subscriber,
    look_up: LookUp,
    banker: Banker,
    jobs: Jobs,
    /// What [`Jobs`] wants done; kept to be used again.
    effects: Vec<Effect>,
    /// What runs beside the loop and tells when it has ended.
    tasks: JoinSet<Told>,
    /// Jobs to be ended that wait for others to be, and how many are being ended.
    endings: VecDeque<Box<Ending>>,
    ending: usize,
    /// Messages that are no jobs, whose ends are on their way.
    broken: HashSet<JobKey>,
    /// Look-ups that wait for others to end.
    look_ups: VecDeque<Vec<Suspect>>,
    looking_up: usize,
    /// Attempts of vanished workers that are to be booked, by mailbox, and how many mailboxes are being read for that.
    lost: VecDeque<Vec<Lost>>,
    booking: usize,
    /// When each region's job stream was made.
    born: Vec<Micros>,
    /// When to make the map of streams right again.
    repair_at: Option<Instant>,
    repairing: bool,
    /// When the map was looked at last.
    checked_at: Instant,
    /// When the server was asked last whose jobs wait.
    asked_at: Instant,
    teller: Teller,
    /// Whether the server is being asked what waits.
    asking: bool,
    /// What waits, to be told.
    demands: Vec<Demand>,
}

impl Dispatcher {
    /// Dispatches until `shutdown`, then gives back what it holds and settles open offers within the grace period.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        info!(dispatcher = %self.config.id, regions = self.config.regions.len(), "dispatching");
        let outcome = self.dispatch(Some(&shutdown)).await;
        let deadline = Instant::now() + self.config.grace;
        self.wind_down(deadline).await;
        // Results that are stored last are acknowledged last: acks and publisher end after everything else.
        self.role.close(deadline.saturating_duration_since(Instant::now())).await;
        info!(dispatcher = %self.config.id, "dispatcher stopped");
        outcome
    }

    /// Handles events: until `shutdown`, or, without one, until nothing is left that a stopping dispatcher waits for.
    async fn dispatch(&mut self, shutdown: Option<&CancellationToken>) -> Result<(), RunError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reconnects = self.role.bulk.reconnects.clone();
        reconnects.mark_unchanged();
        let mut cancels = self.role.cancels.clone();
        loop {
            tokio::select! {
                biased; // Stop, then what frees slots, then what fills them.
                () = stopped(shutdown) => return Ok(()),
                answer = self.answers.next() => {
                    self.answered(&answer.ok_or(RunError::Closed)?);
                    for _ in 0..BURST {
                        let Some(Some(answer)) = self.answers.next().now_or_never() else { break };
                        self.answered(&answer);
                    }
                }
                Some(beat) = self.beats.next() => self.heard(&beat),
                Some(back) = self.returns.next() => self.returned(nats::read_return(back)),
                delivery = self.deliveries.next(), if !self.drained => {
                    let Some(delivery) = delivery else {
                        self.drained = true;
                        if shutdown.is_some() { return Err(RunError::Closed) }
                        continue;
                    };
                    self.delivered(delivery);
                    for _ in 0..BURST {
                        let Some(Some(delivery)) = self.deliveries.next().now_or_never() else { break };
                        self.delivered(delivery);
                    }
                }
                Some(told) = self.tasks.join_next() => self.told(told)?,
                Some(question) = self.questions.next() => self.explain(question).await,
                Some(deleted) = self.deletions.next() => self.stream_deleted(deleted.subject.as_str()),
                Some(heard) = self.banker.next() => {
                    if self.banker.tell(self.jobs.budgets_mut(), heard, &SystemClock) {
                        self.apply(Event::Stirred);
                    }
                }
                () = cancels.changed() => self.apply(Event::Stirred),
                Ok(()) = reconnects.changed() => self.apply(Event::Reconnected),
                _ = tick.tick() => self.tick(),
            }
            self.jobs.settle(SystemClock.now(), &mut self.effects);
            self.carry_out().await;
            // Jobs that were on their way here when we stopped listening have come, and were given back.
            let quiet = self.drained && self.returns.is_empty();
            if shutdown.is_none() && quiet && self.jobs.is_settled() && self.tasks.is_empty() {
                return Ok(());
            }
        }
    }

    fn apply(&mut self, event: Event) {
        self.jobs.apply(event, SystemClock.now(), &mut self.effects);
    }

    fn delivered(&mut self, message: Message) {
        if let Some(status) = message.status {
            if let Some((feed, number, end)) = nats::read_status(&message, status) {
                self.apply(Event::PullEnded { feed, number, end });
            }
            return;
        }
        match nats::read_delivery(message, SystemClock.now()) {
            Delivery::Alien(error) => warn!(%error, "a message that no pull of ours brought"),
            Delivery::Broken(parts) => {
                let (message, lease, error) = *parts;
                let Some(key) = self.jobs.key(&lease) else { return };
                let Some(feed) = self.jobs.counted(&lease) else { return };
                let (region, model) = (feed.region.clone(), feed.model.clone());
                // Its end may take longer than its lease; it ends once all the same.
                if !self.broken.insert(key) {
                    return;
                }
                warn!(stream = lease.stream(), seq = lease.stream_seq, %error, "not a job");
                let failure = Failure::new(FailureClass::Undecodable, error.to_string());
                let ending = Ending::broken(&message, lease, failure, region, model);
                self.effects.push(Effect::End(Box::new(ending)));
            }
            Delivery::Job(delivered) => self.apply(Event::Delivered(delivered)),
        }
    }

    fn answered(&mut self, message: &Message) {
        match serde_json::from_slice::<Acceptances>(&message.payload) {
            Ok(news) => self.apply(Event::Answered(news)),
            Err(error) => warn!(%error, "acceptances do not read"),
        }
    }

    fn heard(&mut self, message: &Message) {
        match serde_json::from_slice::<Heartbeat>(&message.payload) {
            Ok(beat) => self.apply(Event::Heard(beat)),
            Err(error) => warn!(subject = message.subject.as_str(), %error, "heartbeat does not read"),
        }
    }

    /// A task beside the loop has ended.
    fn told(&mut self, told: Result<Told, tokio::task::JoinError>) -> Result<(), RunError> {
        match told {
            Ok(Told::Found(findings)) => {
                self.looking_up -= 1;
                self.apply(Event::Found(findings));
            }
            Ok(Told::Ended(key)) => {
                self.ending -= 1;
                if let Some(key) = key.filter(|key| !self.broken.remove(key)) {
                    self.apply(Event::Concluded(key));
                }
            }
            Ok(Told::Event(event)) => self.apply(event),
            Ok(Told::Repaired(outcome)) => self.repaired(outcome)?,
            Ok(Told::Newest(Ok(newest))) => self.jobs.waiting_behind(newest, SystemClock.now()),
            Ok(Told::Newest(Err(error))) => debug!(%error, "whose jobs wait is not known now"),
            Ok(Told::Pending(pending)) => {
                self.asking = false;
                self.jobs.pending(pending);
            }
            Ok(Told::Read(back, parcel)) => self.joined(*back, parcel),
            Ok(Told::Booked) => self.booking -= 1,
            Ok(Told::Nothing) => {}
            Err(error) => error!(%error, "a task of the dispatcher panicked"),
        }
        Ok(())
    }

    /// Somebody asks why a job waits.
    async fn explain(&mut self, message: Message) {
        let Some(reply) = message.reply else { return };
        let ask = match serde_json::from_slice(&message.payload) {
            Ok(ask) => ask,
            Err(error) => {
                warn!(%error, "a question does not read");
                return;
            }
        };
        let answer = why::answer(&mut self.jobs, &self.config, &ask, SystemClock.now());
        let body = serde_json::to_vec(&answer).expect("an answer has only string keys and no failing parts");
        if let Err(error) = self.role.control.client.publish(reply, body.into()).await {
            debug!(%error, "question not answered");
        }
    }

    fn tick(&mut self) {
        let now = SystemClock.now();
        self.tell_demand(now);
        self.apply(Event::Tick);
        for draw in self.jobs.budgets_mut().draws(now) {
            self.banker.ask(draw);
        }
        self.look_at_streams();
        if self.asked_at.elapsed() >= ASK_EVERY {
            self.asked_at = Instant::now();
            // While nothing waits in the streams, everybody's jobs are seen as they come.
            let mut regions: Vec<_> =
                self.jobs.feeds().iter().filter(|f| f.backlog > 0).map(|f| f.region.clone()).collect();
            regions.dedup();
            for region in regions {
                let client = self.role.control.client.clone();
                self.tasks.spawn(async move { Told::Newest(tenants::newest(client, region).await) });
            }
        }
    }

    /// Takes no more, gives back what is in hand, waits for open offers and terminal results until `deadline`.
    async fn wind_down(&mut self, deadline: Instant) {
        // Other dispatchers hear of returns from now on.
        for subscription in self.returns.iter_mut().chain([&mut self.deliveries]) {
            if let Err(error) = subscription.drain().await {
                debug!(%error, "subscription not drained");
            }
        }
        self.apply(Event::Stop);
        // Nothing is asked of the server any more that nobody uses.
        self.asking = true;
        self.carry_out().await;
        match tokio::time::timeout_at(deadline, self.dispatch(None)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "stopped in the middle; what has not ended is delivered again"),
            Err(_) => warn!("grace period over; what has not ended is delivered again"),
        }
        self.tasks.shutdown().await;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        self.banker.close(self.jobs.budgets_mut(), &SystemClock, left).await;
    }
}

async fn stopped(shutdown: Option<&CancellationToken>) {
    match shutdown {
        Some(shutdown) => shutdown.cancelled().await,
        None => std::future::pending().await,
    }
}
