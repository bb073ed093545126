//! The words Beacon's parts share: types, wire formats, subjects, topology as data.
//!
//! Nothing here awaits, logs, reads a clock or touches the network. Reading order: the small types ([`token`], [`ids`],
//! [`money`], [`time`], [`line`]), then messages ([`job`], [`reply`], [`journal`], [`cost`], [`handover`], [`heartbeat`],
//! [`demand`], [`live`], [`machine`], [`dead`], [`cancel`], [`recurring`], [`why`]), then decisions ([`failure`], [`lease`], [`prefix`]), then the map
//! ([`subjects`], [`catalog`], [`topology`], [`prices`]), then what providers say of themselves ([`quoted`], [`repricing`], [`check`]).

pub mod cancel;
pub mod catalog;
pub mod check;
pub mod codec;
pub mod cost;
pub mod dead;
pub mod decision;
pub mod demand;
pub mod failure;
pub mod handover;
pub mod headers;
pub mod heartbeat;
pub mod ids;
pub mod job;
pub mod journal;
pub mod lease;
pub mod line;
pub mod live;
pub mod machine;
pub mod money;
pub mod prefix;
pub mod prices;
pub mod quoted;
pub mod recurring;
pub mod reply;
pub mod repricing;
pub mod subjects;
pub mod time;
pub mod token;
pub mod topology;
pub mod why;

pub use codec::Codec;
pub use ids::{AttemptKey, JobId};
pub use money::UsdNanos;
pub use time::Micros;
pub use token::{Lane, MachineId, Mailbox, ModelToken, PoolId, ProviderId, Region, Tenant, WorkerId};
