//! Does what [`Jobs`](crate::jobs::Jobs) wants done: a message, or a task beside the loop that tells when it has ended.

use routing::pool::Change;
use schemas::{ModelToken, PoolId, failure::FailureClass, lease, time::Clock as _};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use transport::SystemClock;

use super::{Dispatcher, Told};
use crate::{
    jobs::{Effect, Event},
    look_up::LookUp,
    lost, metrics, nats, untried,
};

/// Look-ups at once. More would only queue at the server; what is left waits in hand, its lease kept.
const LOOK_UPS_MAX: usize = 8;
/// Mailboxes whose lost attempts are booked at once; apart from look-ups, since a booking goes on until the server takes it. What waits is
/// no more than the attempts that were open.
const BOOKINGS_MAX: usize = 4;
/// Jobs ended at once: each reads its text for its dead letter, of a message's size at most. The others wait without their text, and are
/// no more than the server lets out of its consumers.
const ENDINGS_MAX: usize = 16;

impl Dispatcher {
    /// Does what [`Jobs`] wants done.
    pub(super) async fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out_one(effect).await;
        }
        self.effects = effects;
        for demand in self.demands.drain(..) {
            nats::tell_demand(&self.role.control.client, &demand).await;
        }
        while self.ending < ENDINGS_MAX
            && let Some(ending) = self.endings.pop_front()
        {
            self.ending += 1;
            let (publisher, acks) = (self.role.publisher.clone(), self.role.acks.clone());
            let (client, key) = (self.role.control.client.clone(), self.jobs.key(ending.lease()));
            self.tasks.spawn(async move {
                ending.publish(client, publisher, acks).await;
                Told::Ended(key)
            });
        }
        while self.looking_up < LOOK_UPS_MAX
            && let Some(suspects) = self.look_ups.pop_front()
        {
            self.looking_up += 1;
            let look_up = self.look_up.clone();
            self.tasks.spawn(async move { Told::Found(look_up.run(suspects).await) });
        }
        while self.booking < BOOKINGS_MAX
            && let Some(lost) = self.lost.pop_front()
        {
            self.booking += 1;
            let LookUp { client, publisher, journals } = self.look_up.clone();
            self.tasks.spawn(async move {
                lost::book(client, publisher, journals, lost).await;
                Told::Booked
            });
        }
    }

    async fn carry_out_one(&mut self, effect: Effect) {
        let (client, control) = (&self.role.bulk.client, &self.role.control.client);
        match effect {
            Effect::Pull { feed, number, batch } => {
                let reply = format!("{}.{feed}.{number}", self.inbox);
                nats::pull(client, &self.jobs.feeds()[feed], batch, reply).await;
            }
            Effect::Repair => {
                self.repair_at.get_or_insert_with(Instant::now);
            }
            Effect::Offer { pool, handover, parcel } => {
                if let Err(error) = nats::offer(client, &pool, &self.accept, *handover, parcel).await {
                    // It lapses like one that nobody heard.
                    debug!(%error, "offer not sent");
                }
            }
            Effect::Order { pool, worker, order } => nats::order(control, &pool, &worker, &order).await,
            Effect::Ack(lease) => self.role.acks.ack(lease).await,
            Effect::GiveBack { lease, untried: None } => nats::give_back(control, &lease).await,
            Effect::GiveBack { lease, untried: Some(head) } => {
                let (client, journals) = (control.clone(), self.look_up.journals.clone());
                // Half of the time by which a lease is given back before it could run out.
                let within = lease::margin(self.config.topology.ack_wait) / 2;
                self.tasks.spawn(async move {
                    untried::note(&journals, &head, &lease, within).await;
                    nats::give_back(&client, &lease).await;
                    Told::Nothing
                });
            }
            Effect::Extend { job, lease } => {
                let client = control.clone();
                self.tasks.spawn(async move {
                    let asked = SystemClock.now();
                    if !nats::extend(&client, &lease).await {
                        return Told::Nothing;
                    }
                    Told::Event(Event::Extended { job, delivery: lease.consumer_seq, asked })
                });
            }
            Effect::LookUp(suspects) => self.look_ups.push_back(suspects),
            Effect::End(ending) => self.endings.push_back(ending),
            Effect::BookLost(lost) => lost::queue(&mut self.lost, *lost),
            Effect::Tell { pool, model, change, class } => tell(&pool, &model, change, class),
        }
    }
}

fn tell(pool: &PoolId, model: &ModelToken, change: Change, class: Option<FailureClass>) {
    match change {
        Change::None => {}
        Change::Opened => {
            metrics::breaker_opened();
            let class = class.map_or("", FailureClass::as_str);
            warn!(%pool, %model, class, "breaker opened");
        }
        Change::Closed => info!(%pool, %model, "breaker closed"),
        Change::Suspect => {
            metrics::suspected();
            warn!(%pool, %model, "much slower than it was and than others; it is only tried from now on");
        }
    }
}
