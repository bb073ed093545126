//! Rented machines: found, started, watched, scaled, stopped and paid for.
//!
//! - The seam: [`landlord`] is what a provider must be able to do, `landlords` has a file for each, [`secret`] holds keys.
//! - One machine: [`row`] is what is written down about it, [`meter`] what it cost, [`machine`] its life, [`probe`] whether it
//!   serves.

pub mod landlord;
pub mod landlords;
pub mod machine;
pub mod meter;
pub mod probe;
pub mod row;
pub mod secret;
