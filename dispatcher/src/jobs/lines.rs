//! The lines in which jobs wait for a pool: a fair line for each (region, model).
//!
//! Most jobs wait in the server and pass through here in a moment. Those stay for which no pool is open or a budget has nothing
//! left, and, while several tenants want the same slots, as many as it takes to see beyond those of the one that came first.
//! A line holds the keys of jobs. A key whose job has left by another way stays as a leftover until its turn comes.

use std::{collections::HashMap, time::Duration};

use routing::fair::{LENIENT, Line, Ticket};
use schemas::{Micros, ModelToken, Region, Tenant};

use super::{JobKey, record::Record};

/// A tenant of whom nothing came for so long does not compete any more.
const COMPETES: Duration = Duration::from_secs(60);

/// All lines.
#[derive(Debug)]
pub struct Lines {
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
    pub line: Line<JobKey>,
    /// Whose jobs came lately, and when the last did.
    tenants: HashMap<Tenant, Micros>,
}

impl Lines {
    /// Nobody waits. Tenants without a weight have 1.
    pub fn new(weights: HashMap<Tenant, u32>) -> Self {
        Self { groups: Vec::new(), weights }
    }

    /// Puts a job into its line and gives its place there.
    pub fn push(&mut self, key: JobKey, record: &Record, now: Micros) -> Ticket {
        let subject = &record.head.subject;
        let weight = self.weights.get(&subject.tenant).copied().unwrap_or(1);
        let group = self.group(&subject.region, &subject.model);
        group.expect(&subject.tenant, now);
        // A job that comes again keeps its place among its tenant's: it counts from when it was stored.
        let due = record.head.deadline.unwrap_or(record.lease.stored_at + LENIENT);
        group.line.push(subject.lane, &subject.tenant, weight, Some(due), now, key)
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
}

impl Group {
    /// Whether several tenants want the same slots, so that it matters who is next.
    pub fn contested(&mut self, now: Micros) -> bool {
        if self.tenants.len() > 1 {
            self.tenants.retain(|_, last| now.since(*last) < COMPETES);
        }
        self.tenants.len() > 1
    }

    /// A tenant's jobs are here, or on their way here.
    pub fn expect(&mut self, tenant: &Tenant, now: Micros) {
        if let Some(last) = self.tenants.get_mut(tenant) {
            *last = now;
        } else {
            self.tenants.insert(tenant.clone(), now);
        }
    }
}
