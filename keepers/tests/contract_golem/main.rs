//! Golem's landlord against a simulated daemon and market over loopback.
//!
//! A test's name says what must hold; a number in it is that of `keepers.md`, section 4.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod crashes;
mod described;
mod description;
mod desk;
mod failures;
mod money;
mod rental;
