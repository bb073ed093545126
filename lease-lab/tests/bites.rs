//! Bugs of the past are put back, one at a time, and the simulation finds each: a test that cannot fail proves nothing.
#![allow(clippy::tests_outside_test_module, reason = "this is a file of tests")]

use lease_lab::{Mutation, play, play_mutated};

/// Each bug is found within so many seeds.
const WITHIN: u64 = 1_000;

/// The first seed that finds a bug breaks one of these rules, and passes without the bug.
fn check(bug: Mutation, rules: &[&str]) {
    let found = (0..WITHIN).find_map(|seed| play_mutated(seed, bug).err().filter(|_| play(seed).is_ok()));
    let failure = found.unwrap_or_else(|| panic!("{bug:?} is not found within {WITHIN} seeds"));
    println!("{bug:?} is found by seed {}: {}", failure.seed, failure.violation.rule);
    assert!(rules.contains(&failure.violation.rule), "{failure}");
    assert!(failure.history.lines().count() > 3, "a failing seed tells its history");
}

#[test]
fn a_cost_that_is_booked_as_useful_before_the_result_is_stored() {
    check(
        Mutation::UsefulTooSoon,
        &[
            "a success has one useful cost, by the attempt whose result is stored",
            "an attempt is booked once",
        ],
    );
}

#[test]
fn attempts_that_are_counted_though_they_have_ended_unheard() {
    check(
        Mutation::DeafToRollCalls,
        &["everything ends when the faults do", "no attempt is billed that no cost event knows"],
    );
}

#[test]
fn a_lost_lease_that_is_given_back() {
    check(Mutation::NaksLostLease, &["a lease is given back only by who holds it"]);
}

#[test]
fn a_lease_that_is_finished_before_its_result_is_stored() {
    check(Mutation::AcksTooSoon, &["a lease is finished after its result is stored"]);
}

#[test]
fn a_text_that_does_not_fit_beside_its_handover() {
    check(Mutation::OffersTooMuch, &["everything ends when the faults do", "offers are answered"]);
}

#[test]
fn a_body_that_is_no_job_and_gets_no_result() {
    check(Mutation::DropsBroken, &["a lease is finished after its result is stored"]);
}

#[test]
fn a_call_that_begins_before_anybody_else_can_know_of_it() {
    check(Mutation::CallsUnannounced, &["no attempt is billed that no cost event knows"]);
}
