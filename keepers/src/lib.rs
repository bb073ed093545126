//! Rented machines: found, started, watched, scaled, stopped and paid for.
//!
//! - The seam: [`landlord`] is what a provider must be able to do, `landlords` has a file for each, [`secret`] holds keys.
//! - What is wanted: [`demand`] is what waits, [`policy`] decides how many machines there are for it.

pub mod demand;
pub mod landlord;
pub mod landlords;
pub mod policy;
pub mod secret;
