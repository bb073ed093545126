//! What was taken back: single jobs by id, and everything that a filter matches and that was there when it was said.
//!
//! Each order is one value in the bucket `beacon-cancel`. Dispatchers and workers hold all of them as [`Cancels`] and
//! ask about every job they touch, so an order works on jobs that wait, run, or come back after a crash.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    JobId, Lane, Mailbox, Micros, ModelToken, Region, Tenant,
    failure::{Failure, FailureClass},
    job::Head,
};

/// Which jobs; every field that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Who pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// Where it was published to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Which model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelToken>,
    /// How urgent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// Where its replies go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<Mailbox>,
    /// Labels it must carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Filter {
    /// Whether it says nothing, and so would match everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it matches a job.
    pub fn matches(&self, job: &Head) -> bool {
        // Every field by name, so that a new one cannot be overlooked.
        let Self { tenant, region, model, lane, mailbox, labels } = self;
        let subject = &job.subject;
        tenant.as_ref().is_none_or(|t| *t == subject.tenant)
            && region.as_ref().is_none_or(|r| *r == subject.region)
            && model.as_ref().is_none_or(|m| *m == subject.model)
            && lane.is_none_or(|l| l == subject.lane)
            && mailbox.as_ref().is_none_or(|m| *m == job.mailbox)
            && labels.iter().all(|(key, value)| job.labels.get(key) == Some(value))
    }
}

/// What is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One job.
    Job(JobId),
    /// All that match and were stored before the order was given.
    Matching(Filter),
}

/// One order: a value of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which jobs.
    pub target: Target,
    /// Whose, where one job is meant: two tenants may use one id. Without it, the job of each tenant that has the id. A filter names
    /// its tenant itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// When it was given. A filter does not mean jobs stored later, nor jobs stored after the order itself, whatever this says.
    #[serde(default = "whenever_stored")]
    pub at_us: Micros,
    /// Why, in a person's words; repeated in the result.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A sender without a clock leaves the time to the server.
const fn whenever_stored() -> Micros {
    Micros::new(u64::MAX)
}

impl Order {
    /// What a job's result says of it.
    pub fn failure(&self) -> Failure {
        let reason = if self.reason.is_empty() { "somebody took the job back" } else { &self.reason };
        Failure::new(FailureClass::Cancelled, reason)
    }

    /// The key of the order in the bucket: an order for one job of a tenant replaces an earlier one.
    pub fn key(&self) -> String {
        match &self.target {
            Target::Job(job) => match &self.tenant {
                Some(tenant) => format!("job.{job}.{tenant}"),
                None => format!("job.{job}"),
            },
            Target::Matching(filter) => {
                // Two orders of one moment are two.
                let text =
                    serde_json::to_vec(filter).expect("a filter has only string keys and no failing parts");
                let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, &text).simple();
                format!("matching.{name}-{}", self.at_us.get())
            }
        }
    }
}

/// An order with the server's own time of storing it. Senders' clocks may be wrong, and some count nanoseconds.
#[derive(Clone, Debug)]
struct Stored {
    order: Order,
    at: Micros,
}

/// All orders that hold.
#[derive(Clone, Debug, Default)]
pub struct Cancels {
    /// By job, then by the order's key: one for each tenant that is named.
    jobs: HashMap<JobId, BTreeMap<String, Stored>>,
    matching: BTreeMap<String, Stored>,
}

impl Cancels {
    /// Takes in an order that the server stored under `key` at `at`.
    pub fn add(&mut self, key: &str, order: Order, at: Micros) {
        let orders = match order.target {
            Target::Job(job) => self.jobs.entry(job).or_default(),
            Target::Matching(_) => &mut self.matching,
        };
        orders.insert(key.to_owned(), Stored { order, at });
    }

    /// Forgets the order with that key.
    pub fn remove(&mut self, key: &str) {
        let named = key.strip_prefix("job.").and_then(|rest| rest.split('.').next()?.parse::<JobId>().ok());
        let Some(job) = named else { return drop(self.matching.remove(key)) };
        if let Some(orders) = self.jobs.get_mut(&job) {
            orders.remove(key);
            if orders.is_empty() {
                self.jobs.remove(&job);
            }
        }
    }

    /// Forgets orders stored before `at`: the bucket has, too.
    pub fn forget_before(&mut self, at: Micros) {
        self.jobs.retain(|_, orders| {
            orders.retain(|_, stored| stored.at >= at);
            !orders.is_empty()
        });
        self.matching.retain(|_, stored| stored.at >= at);
    }

    /// The order that takes this job back, if there is one. `stored_at` is when the job was stored.
    pub fn of(&self, job: &Head, stored_at: Micros) -> Option<&Order> {
        if self.jobs.is_empty() && self.matching.is_empty() {
            return None;
        }
        let meant = |stored: &&Stored| match &stored.order.target {
            Target::Matching(filter) => stored_at <= stored.order.at_us.min(stored.at) && filter.matches(job),
            Target::Job(_) => false,
        };
        let owned = |stored: &&Stored| stored.order.tenant.as_ref().is_none_or(|t| *t == job.subject.tenant);
        let named = self.jobs.get(&job.id).and_then(|orders| orders.values().find(owned));
        Some(&named.or_else(|| self.matching.values().find(meant))?.order)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.jobs.values().map(BTreeMap::len).sum::<usize>() + self.matching.len()
    }

    /// Whether nothing was taken back.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobHeaders;

    const ID: &str = "0198c0de-0000-7000-8000-000000000001";
    const AT: Micros = Micros::new(1_795_000_000_000_000);

    fn job() -> crate::job::Job {
        let body = format!(r#"{{"id":"{ID}","prompt":"x","mailbox":"inbox","labels":{{"run":"night"}}}}"#);
        let subject = "beacon.jobs.us-east.llama-3-2-1b.low.acme".parse().unwrap();
        crate::job::Job::read(subject, JobHeaders::default(), body.as_bytes(), AT).unwrap()
    }

    fn cancels(target: &str) -> Cancels {
        given(&format!(r#"{{"target":{target},"at_us":{}}}"#, AT.get()))
    }

    /// An order that the server stored at [`AT`].
    fn given(order: &str) -> Cancels {
        let mut cancels = Cancels::default();
        cancels.add("matching.any", serde_json::from_str(order).unwrap(), AT);
        cancels
    }

    #[test]
    fn a_filter_means_every_field_it_names() {
        for (filter, meant) in [
            (r#"{"tenant":"acme"}"#, true),
            (r#"{"tenant":"acme","lane":"low","labels":{"run":"night"}}"#, true),
            (r#"{"tenant":"other"}"#, false),
            (r#"{"tenant":"acme","lane":"high"}"#, false),
            (r#"{"labels":{"run":"day"}}"#, false),
            (r#"{"mailbox":"inbox","model":"llama-3-2-1b","region":"us-east"}"#, true),
        ] {
            let cancels = cancels(&format!(r#"{{"matching":{filter}}}"#));
            assert_eq!(cancels.of(&job(), AT).is_some(), meant, "{filter}");
        }
    }

    #[test]
    fn a_filter_means_only_what_was_there_when_it_was_said_and_an_id_means_its_job_always() {
        let later = AT + std::time::Duration::from_micros(1);
        assert!(cancels(r#"{"matching":{"tenant":"acme"}}"#).of(&job(), later).is_none());
        assert!(cancels(&format!(r#"{{"job":"{ID}"}}"#)).of(&job(), later).is_some());
    }

    #[test]
    fn an_order_means_nothing_that_was_stored_after_it_whatever_its_sender_says_the_time_is() {
        let later = AT + std::time::Duration::from_micros(1);
        let order = |at: String| format!(r#"{{"target":{{"matching":{{"tenant":"acme"}}}}{at}}}"#);
        let nanoseconds = order(format!(r#","at_us":{}000"#, AT.get()));
        let tomorrow = order(format!(r#","at_us":{}"#, AT.get() + 86_400_000_000));
        for order in [nanoseconds, tomorrow, order(String::new())] {
            let cancels = given(&order);
            assert!(cancels.of(&job(), AT).is_some() && cancels.of(&job(), later).is_none(), "{order}");
        }
        // A clock that stands far back means jobs from before then.
        assert!(given(&order(r#","at_us":5"#.into())).of(&job(), AT).is_none());
    }

    #[test]
    fn an_order_is_forgotten_when_the_bucket_forgets_it_whatever_its_sender_says_the_time_is() {
        for at in [5, u64::MAX] {
            let mut cancels = given(&format!(r#"{{"target":{{"job":"{ID}"}},"at_us":{at}}}"#));
            cancels.forget_before(AT);
            assert_eq!(cancels.len(), 1);
            cancels.forget_before(AT + std::time::Duration::from_micros(1));
            assert!(cancels.is_empty());
        }
    }

    #[test]
    fn an_order_for_an_id_means_the_job_of_the_tenant_it_names() {
        let order = |tenant: &str| -> Order {
            serde_json::from_str(&format!(r#"{{"target":{{"job":"{ID}"}}{tenant}}}"#)).unwrap()
        };
        let orders = [order(r#","tenant":"other""#), order(r#","tenant":"acme""#), order("")];
        assert_eq!(
            orders.each_ref().map(Order::key),
            [format!("job.{ID}.other"), format!("job.{ID}.acme"), format!("job.{ID}"),]
        );
        let mut cancels = Cancels::default();
        for (order, meant) in orders.iter().zip([false, true, true]) {
            cancels.add(&order.key(), order.clone(), AT);
            assert_eq!(cancels.of(&job(), AT).is_some(), meant, "{order:?}");
        }
        assert_eq!(cancels.len(), 3);
        for (order, meant) in orders.iter().zip([true, true, false]) {
            cancels.remove(&order.key());
            assert_eq!(cancels.of(&job(), AT).is_some(), meant, "{order:?}");
        }
        assert!(cancels.is_empty());
    }

    #[test]
    fn an_order_taken_back_no_longer_holds() {
        let order: Order = serde_json::from_str(&format!(r#"{{"target":{{"job":"{ID}"}}}}"#)).unwrap();
        let mut cancels = Cancels::default();
        cancels.add(&order.key(), order.clone(), AT);
        cancels.remove(&order.key());
        assert!(cancels.is_empty());
    }
}
