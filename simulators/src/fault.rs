//! Faults: what goes wrong, how often, and for how many requests.
//!
//! This module decides whether a request is hit. The code that makes the answer decides what the fault does on the wire.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A fault: its kind, its rate and its end. JSON: `{"kind":"status","code":503,"rate":0.5,"count":10}`.
///
/// It hits inference calls: completions, `POST /v1/run`, `POST /v1/jobs`, creating predictions. `status`, `refuse` and
/// `hang` also hit Modal's result and cancel calls, and Replicate's get, list and cancel. A `refuse` with neither `rate` nor `count` closes every route but the control
/// endpoints, health included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Fault {
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// The share of requests that are hit, 0 to 1. Default 1.
    pub rate: f64,
    /// How many requests are hit before the fault clears itself. Without it the fault stays until it is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What goes wrong with a request. `after_tokens` is cut down to the length of the answer, so a fault always strikes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// An HTTP error before anything starts. Not billed.
    Status {
        /// The status, 400 to 599.
        code: u16,
        /// The body; without it the provider's usual one for this status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
        /// Seconds for a `Retry-After` header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u64>,
    },
    /// The connection is closed without an answer. Not billed.
    Refuse,
    /// No answer, ever, and no admission. Not billed.
    Hang,
    /// The run takes this many times as long.
    Slow {
        /// The factor on the service time, 0 to 1,000,000.
        factor: f64,
    },
    /// The connection breaks in the middle of the answer.
    ResetMidStream {
        /// Tokens sent before.
        after_tokens: u32,
    },
    /// Nothing more is sent, and the connection stays open.
    StallMidStream {
        /// Tokens sent before.
        after_tokens: u32,
    },
    /// An error event, then `[DONE]`. Without streaming the body is the error object, with status 200.
    ErrorFrame {
        /// Tokens sent before.
        after_tokens: u32,
    },
    /// The answer ends cleanly with neither `finish_reason` nor `[DONE]`.
    SilentEnd {
        /// Tokens sent before.
        after_tokens: u32,
    },
    /// Something that is no JSON where JSON belongs. The run itself goes well and is billed.
    GarbageJson,
    /// The body breaks off half way. Billed.
    TruncatedBody,
    /// The model does not fit: status 500 with vLLM's text, not billed; a failed result for Modal's jobs, billed.
    Oom,
    /// The machine dies in the middle of the run: Modal's edge answers 502; elsewhere the connection breaks. Billed.
    ContainerDies,
}

/// Why a fault makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Not a fault at all.
    #[error("not a fault")]
    Undecodable(#[source] serde_json::Error),
    /// A value is out of range.
    #[error("fault: {key} must be {rule}")]
    Range {
        /// The key at fault.
        key: &'static str,
        /// The rule for its value.
        rule: &'static str,
    },
}

impl Fault {
    /// Hits every request until it is replaced.
    pub fn always(kind: FaultKind) -> Self {
        Self { kind, rate: 1.0, count: None }
    }

    /// Hits the next `count` requests, then clears itself.
    pub fn times(kind: FaultKind, count: u64) -> Self {
        Self { kind, rate: 1.0, count: Some(count) }
    }

    /// Hits this share of all requests, 0 to 1, until it is replaced.
    pub fn share(kind: FaultKind, rate: f64) -> Self {
        Self { kind, rate, count: None }
    }

    fn check(&self) -> Result<(), FaultError> {
        let range = |fine: bool, key, rule| {
            if fine { Ok(()) } else { Err(FaultError::Range { key, rule }) }
        };
        range((0.0..=1.0).contains(&self.rate), "rate", "between 0 and 1")?;
        range(self.count != Some(0), "count", "at least 1")?;
        match &self.kind {
            FaultKind::Status { code, .. } => range((400..600).contains(code), "code", "between 400 and 599"),
            FaultKind::Slow { factor } => {
                range((0.0..=1_000_000.0).contains(factor), "factor", "between 0 and 1000000")
            }
            FaultKind::Refuse
            | FaultKind::Hang
            | FaultKind::ResetMidStream { .. }
            | FaultKind::StallMidStream { .. }
            | FaultKind::ErrorFrame { .. }
            | FaultKind::SilentEnd { .. }
            | FaultKind::GarbageJson
            | FaultKind::TruncatedBody
            | FaultKind::Oom
            | FaultKind::ContainerDies => Ok(()),
        }
    }
}

/// Where a fault strikes a Modal call, and what it does there. Elsewhere the script of the answer decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Strike {
    /// Before the request reaches a model.
    Edge,
    /// The run takes this many times as long.
    Slower(f64),
    /// The run goes well and its answer gets lost.
    Answer(Spoil),
    /// The run does not go well.
    Run(Breakdown),
}

/// How an answer gets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// The connection breaks before it.
    Cut,
    /// The connection breaks in the middle of it.
    BreakOff,
    /// It is no JSON.
    Garbage,
    /// It is empty.
    Empty,
}

/// How a run fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breakdown {
    /// It never ends.
    Stall,
    /// The engine fails.
    Engine {
        /// After so many tokens.
        after_tokens: u32,
    },
    /// The accelerator's memory is full.
    Memory,
    /// The container dies.
    Death,
}

/// How a run goes under the fault that its request drew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Course {
    /// The factor on the service time.
    pub(crate) slowdown: f64,
    /// How the run fails, if it does.
    pub(crate) breakdown: Option<Breakdown>,
}

impl Course {
    /// The course under a fault; undisturbed without one.
    pub(crate) fn under(fault: Option<&FaultKind>) -> Self {
        Self {
            slowdown: fault.map_or(1.0, FaultKind::slowdown),
            breakdown: fault.and_then(FaultKind::breakdown),
        }
    }
}

impl FaultKind {
    /// Where it strikes.
    pub(crate) fn strike(&self) -> Strike {
        match self {
            Self::Status { .. } | Self::Refuse | Self::Hang => Strike::Edge,
            Self::Slow { factor } => Strike::Slower(*factor),
            Self::ResetMidStream { .. } => Strike::Answer(Spoil::Cut),
            Self::TruncatedBody => Strike::Answer(Spoil::BreakOff),
            Self::GarbageJson => Strike::Answer(Spoil::Garbage),
            Self::SilentEnd { .. } => Strike::Answer(Spoil::Empty),
            Self::StallMidStream { .. } => Strike::Run(Breakdown::Stall),
            Self::ErrorFrame { after_tokens } => {
                Strike::Run(Breakdown::Engine { after_tokens: *after_tokens })
            }
            Self::Oom => Strike::Run(Breakdown::Memory),
            Self::ContainerDies => Strike::Run(Breakdown::Death),
        }
    }

    /// Whether it strikes before the request reaches a model.
    pub(crate) fn is_at_the_edge(&self) -> bool {
        self.strike() == Strike::Edge
    }

    /// The factor on the service time.
    pub(crate) fn slowdown(&self) -> f64 {
        match self.strike() {
            Strike::Slower(factor) => factor,
            Strike::Edge | Strike::Answer(_) | Strike::Run(_) => 1.0,
        }
    }

    /// How it loses the answer to a call that goes well.
    pub(crate) fn spoil(&self) -> Option<Spoil> {
        match self.strike() {
            Strike::Answer(spoil) => Some(spoil),
            Strike::Edge | Strike::Slower(_) | Strike::Run(_) => None,
        }
    }

    /// How it makes a call fail.
    fn breakdown(&self) -> Option<Breakdown> {
        match self.strike() {
            Strike::Run(breakdown) => Some(breakdown),
            Strike::Edge | Strike::Slower(_) | Strike::Answer(_) => None,
        }
    }
}

/// By hand, because serde's `flatten` would let a misspelt key pass.
impl TryFrom<Map<String, Value>> for Fault {
    type Error = FaultError;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, FaultError> {
        let rate = map.remove("rate").unwrap_or(Value::from(1.0));
        let count = map.remove("count").unwrap_or(Value::Null);
        let fault = Self {
            rate: serde_json::from_value(rate).map_err(FaultError::Undecodable)?,
            count: serde_json::from_value(count).map_err(FaultError::Undecodable)?,
            kind: serde_json::from_value(Value::Object(map)).map_err(FaultError::Undecodable)?,
        };
        fault.check()?;
        Ok(fault)
    }
}

/// The fault in force, if any.
#[derive(Debug, Default)]
pub(crate) struct FaultBox(Mutex<Option<Fault>>);

impl FaultBox {
    /// Replaces the fault in force.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// The fault in force, with the rest of its count.
    pub(crate) fn get(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every route is closed.
    pub(crate) fn refuses_all(&self) -> bool {
        let fault = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *fault == Some(Fault::always(FaultKind::Refuse))
    }

    /// Decides whether the next request is hit, and counts it if so. `roll` gives a number from 0 up to 1 and is
    /// asked only when the rate leaves something to chance. Faults that are not `eligible` are passed over.
    pub(crate) fn draw(
        &self,
        eligible: impl FnOnce(&FaultKind) -> bool,
        roll: impl FnOnce() -> f64,
    ) -> Option<FaultKind> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = current.as_mut().filter(|fault| eligible(&fault.kind))?;
        if fault.rate < 1.0 && roll() >= fault.rate {
            return None;
        }
        let kind = fault.kind.clone();
        if let Some(left) = &mut fault.count {
            *left = left.saturating_sub(1);
            if *left == 0 {
                *current = None;
            }
        }
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fault, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_fault_reads_as_documented_and_survives_a_round_trip() {
        let fault = parse(r#"{"kind":"status","code":429,"retry_after_s":2,"count":3}"#).unwrap();
        let kind = FaultKind::Status { code: 429, body: None, retry_after_s: Some(2) };
        assert_eq!(fault, Fault::times(kind, 3));
        assert_eq!(parse(&serde_json::to_string(&fault).unwrap()).unwrap(), fault);
        assert_eq!(parse(r#"{"kind":"refuse"}"#).unwrap(), Fault::always(FaultKind::Refuse));
    }

    #[test]
    fn a_fault_that_makes_no_sense_is_refused() {
        for text in [
            r#"{"kind":"status","code":200}"#,
            r#"{"kind":"refuse","rate":1.5}"#,
            r#"{"kind":"slow","factor":-1}"#,
            r#"{"kind":"slow"}"#,
            r#"{"kind":"slow","factor":2,"cuont":1}"#,
            r#"{"kind":"oom","count":0}"#,
            r#"{"kind":"earthquake"}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_counted_fault_clears_itself() {
        let faults = FaultBox::default();
        faults.set(Some(Fault::times(FaultKind::Hang, 2)));
        let hits = (0..5).filter(|_| faults.draw(|_| true, || 0.0).is_some()).count();
        assert_eq!((hits, faults.get()), (2, None));
    }

    #[test]
    fn the_rate_leaves_the_rest_alone() {
        let faults = FaultBox::default();
        faults.set(Some(Fault::share(FaultKind::Oom, 0.25)));
        assert_eq!(faults.draw(|_| true, || 0.25), None);
        assert_eq!(faults.draw(|_| true, || 0.24), Some(FaultKind::Oom));
        assert_eq!(faults.draw(FaultKind::is_at_the_edge, || 0.0), None);
    }
}
