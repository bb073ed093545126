//! Jobs that wait here for a place: a fair line for each (region, model). Pure.
//!
//! Most jobs wait in the server and pass through here in a moment. Those stay for which no pool is open or a budget has nothing
//! left, and, while several tenants want the same slots, as many as it takes to see beyond those of the one that came first.

use std::{collections::HashMap, time::Duration};

use routing::fair::{LENIENT, Line};
use schemas::{Micros, ModelToken, Region, Tenant};

use crate::flight::Flight;

/// A tenant of whom nothing came for so long does not compete any more.
const COMPETES: Duration = Duration::from_secs(60);

/// All lines.
#[derive(Debug)]
pub struct Waiting {
    groups: Vec<Group>,
    weights: HashMap<Tenant, u32>,
}

/// The line of one (region, model).
#[derive(Debug)]
pub struct Group {
    /// Where its jobs were published to.
    pub region: Region,
    /// For which model.
    pub model: ModelToken,
    /// Who waits.
    pub line: Line<Box<Flight>>,
    /// Whose jobs came lately, and when the last did.
    tenants: HashMap<Tenant, Micros>,
}

impl Waiting {
    /// Nobody waits. Tenants without a weight have 1.
    pub fn new(weights: HashMap<Tenant, u32>) -> Self {
        Self { groups: Vec::new(), weights }
    }

    /// Adds a job that is held since `now`.
    pub fn push(&mut self, mut flight: Flight, now: Micros) {
        flight.held_since = now;
        let subject = flight.job.subject.clone();
        let weight = self.weights.get(&subject.tenant).copied().unwrap_or(1);
        let group = self.group(&subject.region, &subject.model);
        if let Some(last) = group.tenants.get_mut(&subject.tenant) {
            *last = now;
        } else {
            group.tenants.insert(subject.tenant.clone(), now);
        }
        // One that comes again keeps its place among its tenant's: it counts from when it was stored.
        let due = flight.job.deadline.unwrap_or(flight.lease.stored_at + LENIENT);
        group.line.push(subject.lane, &subject.tenant, weight, Some(due), now, Box::new(flight));
    }

    /// The line of a region and model.
    pub fn group(&mut self, region: &Region, model: &ModelToken) -> &mut Group {
        let found = self.groups.iter().position(|g| g.region == *region && g.model == *model);
        let index = found.unwrap_or_else(|| {
            let (region, model) = (region.clone(), model.clone());
            self.groups.push(Group { region, model, line: Line::default(), tenants: HashMap::new() });
            self.groups.len() - 1
        });
        &mut self.groups[index]
    }

    /// All lines, by index.
    pub fn groups_mut(&mut self) -> &mut [Group] {
        &mut self.groups
    }

    /// All lines.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Everyone who waits.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.groups.iter_mut().flat_map(|g| g.line.iter_mut().map(|(_, _, flight)| flight.as_mut()))
    }

    /// Takes out all that `out` names.
    pub fn remove_if(&mut self, mut out: impl FnMut(&Flight) -> bool) -> Vec<Flight> {
        let removed = |g: &mut Group| g.line.remove_if(|_, flight| out(flight));
        self.groups.iter_mut().flat_map(removed).map(|entry| *entry.item).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|g| g.line.len()).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|g| g.line.is_empty())
    }
}

impl Group {
    /// Whether several tenants want the same slots, so that it matters who is next.
    pub fn contested(&mut self, now: Micros) -> bool {
        if self.tenants.len() > 1 {
            self.tenants.retain(|_, last| now.since(*last) < COMPETES);
        }
        self.tenants.len() > 1
    }

    /// Somebody's jobs are on their way here.
    pub fn expect(&mut self, tenant: Tenant, now: Micros) {
        self.tenants.insert(tenant, now);
    }
}
