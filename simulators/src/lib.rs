//! Local HTTP servers that speak each provider's own API, fail when told to, and keep their own bill.
//!
//! A simulator stands in a provider's place: the same routes, the same authentication, the same error bodies, with
//! a service time, cold starts, a capacity and faults that the caller chooses. It writes down what it would have
//! charged, to the nano-dollar, so that a test can hold Beacon's ledger against it. It shares no code with what it
//! checks, money arithmetic included. All text it generates begins with `[simulated]`.
//!
//! ```text
//!  client ─▶ server ─▶ openai, modal, … ─▶ service (queue, seat) ─▶ script (what is sent when) ─▶ playback
//!                │                            │                                                    │
//!             control ◀────────────────────  bill, board  ◀────────────────────────────────────────┘
//! ```

mod config;
mod fault;

mod bill;
mod board;

mod container;
mod room;
mod service;
mod slots;

mod frames;
mod playback;
mod request;
mod script;
mod text;

mod calls;
mod control;
mod modal;
mod openai;
mod replicate;
mod runpod;

mod connection;
mod edge;
mod outgoing;
mod server;
mod tape;

pub use bill::{Bill, BillKind, BillLine, GpuUsage, Price};
pub use board::Stats;
pub use config::{
    ConfigError, Kind, MaxTokensKey, ModalSettings, OutputShape, ReplicateBilling, ReplicateSettings,
    RunPodSettings, SimulatedModel, SimulatorConfig, WorkerAge,
};
pub use fault::{Fault, FaultError, FaultKind};
pub use server::{Simulator, StartError, start};
pub use tape::Exchange;
