//! How a job gets its place: from its arrival through its line to an offer.

use routing::fair::Look;
use schemas::{Lane, journal::Journal};

use super::{Desk, Engine, Live, POLL, START, What, attempts::Attempt, small};
use crate::{
    arrivals::Arrival,
    ledger::End,
    router::{Line, Router, Sending, Step, Want},
    scenario::lane_index,
    slab::Key,
    world::Task,
};

impl<R: Router> Engine<'_, R> {
    pub(super) fn arrive(&mut self) {
        let Some(arrival) = self.next.take() else { return };
        self.await_arrival();
        let Arrival { region, model, tenant, lane, .. } = arrival;
        let scenario = self.scenario;
        let models = scenario.models.len();
        let subject = ((region * models + model) * 3 + lane_index(lane)) * scenario.tenants.len() + tenant;
        let deadline = self.now + scenario.deadline(lane);
        let key = self.jobs.add(Live {
            arrival,
            subject,
            arrived: self.now,
            deadline,
            journal: Journal::default(),
            avoid: Vec::new(),
            waits_since: self.now,
            not_before: START,
            rests_until: START,
            attempts: 0,
            seat: None,
            open: [None, None],
        });
        self.ledger.accepted(tenant, self.now);
        let desk = &mut self.desks[region];
        desk.router.arrived(&self.templates[subject], self.now);
        let spec = &scenario.tenants[tenant];
        let waited = desk.lines[model].len() > 0;
        desk.lines[model].push(lane, &spec.name, spec.weight, deadline, self.now, key);
        desk.waiting += 1;
        // If jobs wait already, nothing has changed that would give this one a place, unless those wait for their tenants' money. A
        // poll is on its way.
        if !waited || lane == Lane::High || !scenario.budgets.as_slice().is_empty() {
            self.drain_line(region, model);
            self.poll(region);
        }
    }

    /// Sends waiting jobs of a region as long as one can go.
    pub(super) fn drain(&mut self, region: usize) {
        let models = self.scenario.models.len();
        let turn = self.desks[region].turn;
        self.desks[region].turn = (turn + 1) % models;
        for step in 0..models {
            if self.desks[region].waiting == 0 {
                return;
            }
            self.drain_line(region, (turn + step) % models);
        }
        self.poll(region);
    }

    fn poll(&mut self, region: usize) {
        let desk = &mut self.desks[region];
        if desk.waiting > 0 && !desk.polling {
            desk.polling = true;
            self.after(POLL, What::Poll(small(region)));
        }
    }

    fn drain_line(&mut self, region: usize, model: usize) {
        while self.place_next(region, model) {}
    }

    /// Takes one job out of a line and sends it, or ends it. False if none can go now.
    fn place_next(&mut self, region: usize, model: usize) -> bool {
        let Self { desks, jobs, templates, ledger, now, .. } = self;
        let now = *now;
        let Desk { router, lines, .. } = &mut desks[region];
        let line = &mut lines[model];
        let ahead = u32::try_from(line.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let mut sending = None;
        let found = line.scan(|key| {
            let Some(job) = jobs.get_mut(key) else { return Look::Take };
            if now > job.deadline {
                return Look::Take;
            }
            if job.not_before > now {
                return Look::Skip;
            }
            let template = &mut templates[job.subject];
            template.head.deadline = Some(job.deadline);
            let want = Want {
                job: template,
                model,
                journal: &job.journal,
                avoid: &job.avoid,
                ahead,
                held_for: now.since(job.waits_since),
                rests: now < job.rests_until,
            };
            match router.choose(&want, now) {
                Step::Send(found) => {
                    sending = Some(found);
                    Look::Take
                }
                Step::Pause(span) => {
                    job.not_before = now + span;
                    Look::Skip
                }
                Step::WaitTenant(held) => {
                    ledger.held(held, now);
                    Look::SkipTenant
                }
                Step::Wait if job.journal.entries.is_empty() && job.avoid.is_empty() => Look::Stop,
                Step::Wait => {
                    // Pools that refused it a moment ago may be asked again.
                    job.avoid.clear();
                    Look::Skip
                }
            }
        });
        let Some((seat, key)) = found else { return false };
        self.desks[region].waiting -= 1;
        let Some(job) = self.jobs.get_mut(key) else { return true };
        match sending {
            Some(sent) => {
                self.desks[region].lines[model].started(&seat, sent.expected);
                job.seat = Some(seat);
                self.send(key, region, sent);
            }
            None => self.end_job(key, End::Expired),
        }
        true
    }

    pub(super) fn send(&mut self, key: Key, region: usize, sent: Sending) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        job.attempts += 1;
        let Arrival { number, model, tokens, .. } = job.arrival;
        let task = Task { number, attempt: job.attempts, model, tokens };
        let subject = job.subject;
        let attempt = Attempt {
            job: Some(key),
            region,
            subject,
            task,
            sent,
            call: None,
            over: None,
            taken: false,
            lapsed: false,
            sent_at: self.now,
        };
        let key = self.attempts.add(attempt);
        job.open[usize::from(sent.hedge)] = Some(key);
        self.ledger.attempts += 1;
        self.ledger.hedges += u64::from(sent.hedge);
        self.after(self.delay(region, sent.pool), What::Reach(key));
    }
}
