//! What is promised of rented machines, one file per promise. Apart from the other promises, since it links against nothing that
//! moves jobs and so builds in a moment.
#![allow(clippy::tests_outside_test_module, reason = "this is a file of tests")]

mod billed;
mod failures;
mod killed;
mod operator;
mod providers;
mod quiet;
mod served;
mod two_keepers;
mod typed;
mod watched;
mod wrong;
