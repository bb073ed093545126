//! Rented machines: found, started, watched, scaled, stopped and paid for.
//!
//! - The seam: [`landlord`] is what a provider must be able to do, `landlords` has a file for each, [`secret`] holds keys.

pub mod landlord;
pub mod landlords;
pub mod secret;
