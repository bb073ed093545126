//! A stand-in for the worker's own books until they are there as a machine.

use std::{collections::BTreeMap, time::Duration};

use schemas::{
    Micros, PoolId, WorkerId,
    handover::{Acceptances, EndedAttempt, Handover, OfferKey, Order, RefusedBecause},
    heartbeat::{Heartbeat, ServedModel},
    time::micros,
};
use workers::{
    attempt::Settled,
    shift::{Decision, Message, Now},
};

use crate::setup;

pub(super) struct Shift {
    pool: PoolId,
    worker: WorkerId,
    started: Micros,
    slots: u32,
    served: ServedModel,
    open: BTreeMap<u64, (OfferKey, u64)>,
    answers: BTreeMap<String, (Acceptances, bool)>,
    next: u64,
    beat_at: Duration,
    pub(super) draining: bool,
}

impl Shift {
    pub(super) fn new(
        pool: PoolId,
        worker: WorkerId,
        started: Micros,
        slots: u32,
        served: ServedModel,
    ) -> Self {
        Self {
            pool,
            worker,
            started,
            slots,
            served,
            open: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 0,
            beat_at: Duration::ZERO,
            draining: false,
        }
    }

    fn answer(&mut self, accept: &str) -> &mut Acceptances {
        let empty = Acceptances {
            pool: self.pool.clone(),
            worker: self.worker.clone(),
            started_us: self.started,
            running: 0,
            open: None,
            accepted: Vec::new(),
            refused: Vec::new(),
            ended: Vec::new(),
        };
        let entry = self.answers.entry(accept.to_owned()).or_insert((empty, false));
        entry.1 = true;
        &mut entry.0
    }

    pub(super) fn offer(&mut self, now: Now, accept: &str, handover: &Handover) -> Decision {
        if now.wall > handover.accept_by_us {
            return Decision::Late;
        }
        let seq = handover.lease.stream_seq;
        let refusal = if self.draining {
            Some(RefusedBecause::Draining)
        } else if self.open.values().any(|(_, of)| *of == seq) {
            Some(RefusedBecause::Running)
        } else if self.open.len() >= self.slots as usize {
            Some(RefusedBecause::Busy)
        } else if handover.subject.model != setup::model() {
            Some(RefusedBecause::Model)
        } else {
            None
        };
        let offer = handover.offer;
        if let Some(because) = refusal {
            self.answer(accept).refused.push((offer, because));
            return Decision::Refuse(because);
        }
        self.answer(accept).accepted.push(offer);
        self.next += 1;
        self.open.insert(self.next, (OfferKey { accept: accept.to_owned(), offer }, seq));
        Decision::Accept(self.next)
    }

    pub(super) fn ended(&mut self, number: u64, settled: Settled) {
        let Some((key, _)) = self.open.remove(&number) else { return };
        self.answer(&key.accept).ended.push(EndedAttempt {
            offer: key.offer,
            failed: settled.failed,
            retry_after_us: settled.retry_after_us,
            service_us: micros(settled.service),
            cold_us: micros(settled.cold),
            cost_usd: settled.cost,
            kept: settled.kept,
        });
    }

    pub(super) fn order(&self, order: &Order) -> Option<u64> {
        let (Order::Hedged(key) | Order::Alone(key, _) | Order::Stop(key)) = order else { return None };
        self.open.iter().find(|(_, (of, _))| of == key).map(|(number, _)| *number)
    }

    pub(super) fn tick(&mut self, now: Now) -> Vec<Message> {
        let mut messages = Vec::new();
        let roll = now.steady >= self.beat_at;
        let changed = self.answers.values().any(|(_, changed)| *changed);
        if roll {
            for (key, _) in self.open.values().cloned().collect::<Vec<_>>() {
                self.answer(&key.accept);
            }
        }
        let running = self.running();
        let mut gone = Vec::new();
        for (accept, (answer, changed)) in &mut self.answers {
            if !*changed && !roll {
                continue;
            }
            *changed = false;
            let mut news = Acceptances { running, ..answer.clone() };
            if roll {
                let of = self.open.values().filter(|(key, _)| key.accept == *accept);
                let open: Vec<u64> = of.map(|(key, _)| key.offer).collect();
                if open.is_empty() {
                    gone.push(accept.clone());
                }
                news.open = Some(open);
            }
            (answer.accepted, answer.refused, answer.ended) = Default::default();
            messages.push(Message::Acceptances(accept.clone(), Box::new(news)));
        }
        gone.iter().for_each(|accept| drop(self.answers.remove(accept)));
        if roll || changed {
            messages.push(Message::Heartbeat(Box::new(self.beat(now))));
        }
        if roll {
            self.beat_at = now.steady + Duration::from_secs(1);
        }
        messages
    }

    fn beat(&self, now: Now) -> Heartbeat {
        Heartbeat {
            pool: self.pool.clone(),
            worker: self.worker.clone(),
            started_us: self.started,
            at_us: now.wall,
            slots: self.slots,
            running: self.running(),
            draining: self.draining,
            healthy: None,
            succeeded: 0,
            failed: 0,
            models: vec![ServedModel { running: self.running(), ..self.served.clone() }],
        }
    }

    pub(super) fn running(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn wake_at(&self) -> Duration {
        if self.answers.values().any(|(_, changed)| *changed) { Duration::ZERO } else { self.beat_at }
    }
}
