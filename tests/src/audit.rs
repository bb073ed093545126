//! The auditor: every accepted job has exactly one terminal result, and what its attempts cost is known.

use std::collections::{BTreeMap, HashMap, HashSet};

use producer::{Producer, Reply};
use schemas::{
    JobId, UsdNanos,
    cost::{CostEvent, Purpose},
    reply::{JobResult, Status},
};
use simulators::Bill;

use crate::wait;

/// The name that an attempt's run has at its provider.
///
/// # Panics
/// For standing cost, which no run caused.
pub fn run_of(cost: &CostEvent) -> String {
    let (job, key) = (cost.job.expect("a job's cost"), cost.attempt_key.expect("a job's cost"));
    format!("{job}-{}-{key}", cost.attempt)
}

/// What a mailbox holds.
#[derive(Debug, Default)]
pub struct Audit {
    /// Stored results by job; one each when all is well.
    pub results: HashMap<JobId, Vec<JobResult>>,
    /// Stored cost events.
    pub costs: Vec<CostEvent>,
}

impl Audit {
    /// Reads the producer's mailbox as it is stored now.
    pub async fn read(producer: &mut Producer) -> Self {
        let mut audit = Self::default();
        let mut replies = producer.replies(None, false);
        while let Some(reply) = replies.recv().await {
            match reply.unwrap() {
                Reply::Result(result) => audit.results.entry(result.job).or_default().push(*result),
                Reply::Cost(cost) => audit.costs.push(*cost),
            }
        }
        audit
    }

    /// Waits until every job of `jobs` has a stored result, and the useful cost of every one that succeeded is stored, which
    /// follows its result. Then checks that each has exactly one of both.
    pub async fn all_ended(producer: &mut Producer, jobs: &[JobId]) -> Self {
        let end = tokio::time::Instant::now() + wait::DEADLINE;
        loop {
            let audit = Self::read(producer).await;
            let missing = jobs.iter().filter(|j| !audit.results.contains_key(j)).count();
            let unbooked = audit.unbooked();
            if missing == 0 && unbooked == 0 {
                audit.check_once(jobs);
                return audit;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "of {} jobs {missing} have no result, {unbooked} a result without its useful cost",
                jobs.len()
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// How many jobs succeeded and have no useful cost yet.
    fn unbooked(&self) -> usize {
        let useful = |c: &&CostEvent| c.purpose == Purpose::Useful;
        let booked: HashSet<JobId> = self.costs.iter().filter(useful).filter_map(|c| c.job).collect();
        let succeeded = self.results.values().flatten().filter(|r| r.status == Status::Succeeded);
        succeeded.filter(|result| !booked.contains(&result.job)).count()
    }

    /// Exactly one result per job, none that nobody asked for, and at most one useful cost per job.
    pub fn check_once(&self, jobs: &[JobId]) {
        for (job, results) in &self.results {
            assert_eq!(results.len(), 1, "job {job} has {} results", results.len());
            assert!(jobs.contains(job), "a result for a job that was not submitted: {job}");
        }
        assert_eq!(self.results.len(), jobs.len());
        let mut useful = HashMap::new();
        for cost in self.costs.iter().filter(|c| c.purpose == Purpose::Useful) {
            *useful.entry(cost.job).or_insert(0) += 1;
        }
        assert!(useful.values().all(|count| *count == 1), "a job has several useful costs: {useful:?}");
    }

    /// How many jobs ended so.
    pub fn count(&self, status: Status) -> usize {
        self.results.values().flatten().filter(|r| r.status == status).count()
    }

    /// What was paid to each `provider@region`.
    pub fn paid(&self) -> BTreeMap<String, UsdNanos> {
        let mut paid: BTreeMap<String, UsdNanos> = BTreeMap::new();
        for cost in &self.costs {
            let sum = paid.entry(format!("{}@{}", cost.provider, cost.region)).or_default();
            *sum = sum.checked_add(cost.amount_usd).unwrap();
        }
        paid
    }

    /// The runs whose bill and ledger differ, each with what was billed and what is booked, nano-dollars.
    pub fn differing_runs(&self, bill: &Bill) -> Vec<(String, u64, u64)> {
        let mut runs: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for line in &bill.lines {
            if let Some(run) = &line.run {
                runs.entry(run.clone()).or_default().0 += line.amount_nanos;
            }
        }
        for cost in &self.costs {
            if let Some(sums) = runs.get_mut(&run_of(cost)) {
                sums.1 += cost.amount_usd.get();
            }
        }
        let differs = |(run, (billed, booked)): (String, (u64, u64))| {
            (billed != booked).then_some((run, billed, booked))
        };
        runs.into_iter().filter_map(differs).collect()
    }

    /// How many attempts were paid for and gave a result.
    pub fn useful(&self) -> usize {
        self.costs.iter().filter(|c| c.purpose == Purpose::Useful).count()
    }
}
