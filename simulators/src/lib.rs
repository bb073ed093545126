//! Local HTTP servers that speak each provider's own API, fail when told to, and keep their own bill.
//!
//! A simulator stands in a provider's place: the same routes, the same authentication, the same error bodies, with
//! a service time, cold starts, a capacity and faults that the caller chooses. It keeps the bill of its provider, to the
//! nano-dollar, so that a test can compare Beacon's ledger with it. It shares no code with the crates that it checks,
//! money arithmetic included. All text that it generates begins with `[simulated]`.
//!
//! ```text
//!  client ─▶ server ─▶ edge ─▶ openai, modal, … ─▶ model (queue, run) ─▶ script (what is sent when) ─▶ playback
//!                                                    │                                                   │
//!             control ◀──────────────────────────  bill, board  ◀────────────────────────────────────────┘
//! ```

// The configuration.
mod config;
mod signature;

// Time, faults, money, counts.
mod bill;
mod board;
mod clock;
mod fault;
mod limit;
mod tape;

// Requests, and the text and timing of their answers.
mod frames;
mod request;
mod script;
mod text;

// Capacity, and the models on it.
mod containers;
mod fleet;
mod model;
mod slots;

mod service;

// The wire.
mod connection;
mod edge;
mod errors;
mod outgoing;
mod playback;
mod prefixes;
mod reply;

// The providers, each on its own; none imports another.
mod modal;
mod openai;
mod replicate;
mod runpod;

mod control;
mod server;

// Accounts at providers that rent machines.
pub mod rented;

pub use bill::{Bill, BillKind, BillLine, GpuUsage, Price};
pub use board::Stats;
pub use config::{
    ConfigError, Kind, MaxTokensKey, MetricsPage, ModalSettings, OpenAiSettings, OutputShape,
    ReplicateBilling, ReplicateSettings, RunPodAccount, RunPodSettings, Server, SimulatedModel,
    SimulatorConfig, WorkerAge,
};
pub use fault::{Fault, FaultError, FaultKind};
pub use server::{Simulator, StartError, start};
pub use tape::Exchange;
