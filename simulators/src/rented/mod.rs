//! Simulated accounts at providers that rent machines: a control API, machines that really listen, and an invoice.
//!
//! ```text
//!  client ─▶ door (tape, faults) ─▶ lambda, fly, … ─▶ account ─▶ machine ─▶ an OpenAI-compatible simulator
//!                                                        │
//!                                                  meter, log
//! ```
//!
//! What all of them share is here; each provider has a file of its own and only translates: its words in, its words out.
//! A machine lives through [`Stage`]s whose durations its [`Life`] says. While it is up, a real server listens at an
//! address of its own (`127.77.x.y`, at the port of the control API), and asks for the key that the machine was
//! started with. Such addresses need no set-up on Linux.
//!
//! An account may hold machines of somebody else ([`Account::add_foreign`]). Whatever changes one of them is in the
//! [`Account::log`] as [`Act::Touched`].

mod account;
mod door;
pub(crate) mod fault;
mod fly;
mod golem;
pub mod graphql;
mod house;
mod lambda;
mod life;
mod log;
mod machine;
mod meter;
mod railway;
mod render;
#[cfg(test)]
mod tests;

pub use account::{Account, Seen};
pub use fault::{Canned, ControlFault};
pub use fly::{Fly, FlyConfig};
pub use golem::{Golem, GolemBill, GolemConfig, GolemNode, Manner};
pub use house::{AccountConfig, AccountError, AccountKind, House, NodeConfig};
pub use lambda::{Lambda, LambdaConfig};
pub use life::{Life, Serves};
pub use log::{Act, Action};
pub use machine::Stage;
pub use meter::{BilledFrom, BilledUntil, Invoice, InvoiceLine, Tariff};
pub use railway::{Railway, RailwayConfig};
pub use render::{Render, RenderConfig};
