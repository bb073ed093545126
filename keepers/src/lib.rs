//! Rented machines: found, started, watched, scaled, stopped and paid for.
//!
//! - The seam: [`landlord`] is what a provider must be able to do, `landlords` has a file for each, [`secret`] holds keys,
//!   [`survey`] is what an account tells a person.
//! - What is wanted: [`demand`] is what waits, [`loads`] what workers say, [`policy`] decides how many machines there are,
//!   [`price`] is what the price book says of them.
//! - One machine: [`row`] is what is written down about it, [`meter`] what it cost, [`machine`] its life, [`probe`] whether it
//!   serves.
//! - A pool: [`fleet`] compares lists with rows, [`books`] is its money, [`lease`] says who keeps it, [`wish`] is what operators
//!   ask and are told.
//! - The process: [`config`] is what it is told, [`account`] lists, [`store`] is the bucket, [`keeper`] the loop, [`operator`] what
//!   commands do, `metrics` what it counts, [`tap`] a seam for tests.

pub mod account;
pub mod books;
mod call_error;
pub mod config;
mod connection;
pub mod demand;
pub mod fleet;
pub mod keeper;
pub mod landlord;
pub mod landlords;
pub mod lease;
pub mod loads;
pub mod machine;
pub mod meter;
mod metrics;
mod nats;
pub mod operator;
pub mod policy;
pub mod price;
pub mod probe;
pub mod row;
pub mod secret;
pub mod store;
pub mod survey;
pub mod tap;
pub mod wish;

pub use connection::ConnectionError;
