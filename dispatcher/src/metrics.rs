//! Every number this crate reports.

use std::collections::BTreeMap;

use metrics::{counter, gauge};
use routing::budget::Rule;
use schemas::{Region, UsdNanos, decision::Refusal, failure::FailureClass, reply::Status};

use crate::jobs::Count;

/// A job was delivered to us; `again` when not for the first time.
pub fn delivered(again: bool) {
    counter!("dispatcher_jobs_delivered_total", "again" => if again { "true" } else { "false" }).increment(1);
}

/// A job was offered to a pool.
pub fn offered() {
    counter!("dispatcher_offers_total").increment(1);
}

/// An offer was taken.
pub fn accepted(count: usize) {
    counter!("dispatcher_offers_accepted_total").increment(count as u64);
}

/// An offer was refused.
pub fn refused(count: usize) {
    counter!("dispatcher_offers_refused_total").increment(count as u64);
}

/// Nobody answered an offer.
pub fn lapsed() {
    counter!("dispatcher_offers_lapsed_total").increment(1);
}

/// A job came back after a failed attempt.
pub fn returned(class: FailureClass) {
    counter!("dispatcher_jobs_returned_total", "class" => class.as_str()).increment(1);
}

/// A job ended here without a worker.
pub fn ended(status: Status) {
    counter!("dispatcher_jobs_ended_total", "status" => status.as_str()).increment(1);
}

/// A run of a recurring job was stored ahead of its time.
pub fn recurring_run() {
    counter!("dispatcher_recurring_runs_total").increment(1);
}

/// A redelivered job had a stored result already.
pub fn found_done() {
    counter!("dispatcher_jobs_found_done_total").increment(1);
}

/// A delivery that the server had forgotten making; left to whoever holds it.
pub fn forgotten_delivery() {
    counter!("dispatcher_deliveries_forgotten_total").increment(1);
}

/// We held a lease too long and let it go.
pub fn lease_lost() {
    counter!("dispatcher_leases_lost_total").increment(1);
}

/// A breaker opened.
pub fn breaker_opened() {
    counter!("dispatcher_breakers_opened_total").increment(1);
}

/// A job got a second attempt beside its first.
pub fn hedged() {
    counter!("dispatcher_jobs_hedged_total").increment(1);
}

/// The first of two attempts ended: the `second` one or not, well or not.
pub fn race(second: bool, won: bool) {
    let by = if second { "second" } else { "first" };
    counter!("dispatcher_races_total", "by" => by, "won" => if won { "true" } else { "false" }).increment(1);
}

/// A pool is much slower than it should be.
pub fn suspected() {
    counter!("dispatcher_pools_suspected_total").increment(1);
}

/// How a budget stands. There are as many as the configuration has.
pub fn budget(rule: &Rule, taken: UsdNanos, limit: UsdNanos) {
    let rule = rule.to_string();
    gauge!("dispatcher_budget_taken_nanodollars", "rule" => rule.clone()).set(taken.get() as f64);
    gauge!("dispatcher_budget_limit_nanodollars", "rule" => rule).set(limit.get() as f64);
}

/// How many jobs the baseline's share is behind in a region.
pub fn share_deficit(region: &Region, jobs: f64) {
    gauge!("dispatcher_share_deficit_jobs", "region" => region.to_string()).set(jobs);
}

/// Jobs purged from the log.
pub fn trimmed(count: u64) {
    counter!("dispatcher_jobs_trimmed_total").increment(count);
}

/// How much this process knows now.
pub fn holding(count: &Count) {
    gauge!("dispatcher_jobs_parked").set(count.waiting as f64);
    gauge!("dispatcher_jobs_looked_up").set(count.looked_up as f64);
    gauge!("dispatcher_jobs_away").set(count.away as f64);
    gauge!("dispatcher_jobs_ending").set(count.ending as f64);
    gauge!("dispatcher_jobs_offered").set(count.offered as f64);
    gauge!("dispatcher_attempts_running").set(count.running as f64);
    gauge!("dispatcher_text_in_hand_bytes").set(count.bytes as f64);
}

/// Jobs that are in hand for long, by the gate that holds the oldest of their line. Gates that hold nothing any more go to 0.
pub fn held_long(by_gate: &BTreeMap<&'static str, u32>) {
    for gate in Refusal::ALL.map(Refusal::as_str).into_iter().chain(["look_up", "open"]) {
        let count = by_gate.get(gate).copied().unwrap_or(0);
        gauge!("dispatcher_jobs_held_long", "gate" => gate).set(f64::from(count));
    }
}

/// A stream of ours was deleted while we ran.
pub fn stream_deleted() {
    counter!("dispatcher_streams_deleted_total").increment(1);
}

/// An attempt has ended, and the news of that was lost.
pub fn unheard() {
    counter!("dispatcher_attempts_unheard_total").increment(1);
}

/// The worker of an attempt has vanished.
pub fn vanished() {
    counter!("dispatcher_attempts_vanished_total").increment(1);
}

/// An attempt of a vanished worker was booked as possibly wasted.
pub fn booked_lost() {
    counter!("dispatcher_attempts_booked_lost_total").increment(1);
}
