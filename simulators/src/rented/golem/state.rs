//! Everything that the daemon and its market know. The rules of time are in [`super::clockwork`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{config::GolemNode, glm};
use crate::rented::machine::Running;

/// Microseconds since the Unix epoch as RFC 3339.
pub(super) fn rfc3339(us: u64) -> String {
    let at = i64::try_from(us).ok().and_then(chrono::DateTime::from_timestamp_micros).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// RFC 3339 as microseconds.
pub(super) fn micros_of(text: &str) -> Option<u64> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(at.timestamp_micros()).ok()
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) total: u128,
    pub(super) spent: u128,
    pub(super) timeout_us: Option<u64>,
    pub(super) made_us: u64,
    pub(super) released: bool,
}

#[derive(Debug)]
pub(super) struct Demand {
    pub(super) body: Value,
    pub(super) ends_us: u64,
    pub(super) next_us: u64,
    pub(super) offered: BTreeSet<usize>,
    pub(super) events: VecDeque<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    Initial,
    /// Ours, on its way to the provider.
    Countered(u64),
    Draft,
    Used,
    Rejected,
}

#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) demand: String,
    pub(super) node: usize,
    pub(super) stance: Stance,
    /// Our side of it, once we countered.
    pub(super) ours: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Proposal,
    Pending,
    Approved,
    Rejected,
    Cancelled,
    Expired,
    Terminated,
}

impl Word {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Proposal => "Proposal",
            Self::Pending => "Pending",
            Self::Approved => "Approved",
            Self::Rejected => "Rejected",
            Self::Cancelled => "Cancelled",
            Self::Expired => "Expired",
            Self::Terminated => "Terminated",
        }
    }
}

#[derive(Debug)]
pub(super) struct Agreement {
    pub(super) node: usize,
    pub(super) ours: Value,
    pub(super) word: Word,
    pub(super) session: Option<String>,
    pub(super) made_us: u64,
    pub(super) valid_to_us: u64,
    pub(super) answer_us: u64,
    pub(super) approved_us: Option<u64>,
    /// Since when no activity lives.
    pub(super) idle_us: u64,
    pub(super) ended_us: Option<u64>,
    pub(super) last_notes: bool,
    pub(super) invoiced: u32,
    pub(super) end: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) commands: Vec<Value>,
    /// When the first command that has not ended will.
    pub(super) next_us: u64,
    pub(super) results: Vec<Value>,
    pub(super) finished: bool,
}

#[derive(Debug)]
pub(super) struct Activity {
    pub(super) agreement: String,
    pub(super) word: &'static str,
    pub(super) next: Option<&'static str>,
    pub(super) made_us: u64,
    pub(super) ended_us: Option<u64>,
    pub(super) next_note_us: u64,
    pub(super) batches: BTreeMap<String, Batch>,
    pub(super) server: Option<Running>,
}

#[derive(Debug)]
pub(super) struct Note {
    pub(super) id: String,
    pub(super) agreement: String,
    pub(super) activity: String,
    pub(super) used_us: Vec<u64>,
    pub(super) due: u128,
    pub(super) at_us: u64,
    pub(super) accepted_us: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Bill {
    pub(super) id: String,
    pub(super) agreement: String,
    pub(super) amount: u128,
    pub(super) at_us: u64,
    pub(super) status: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) nodes: BTreeMap<String, String>,
}

/// What the test turned on.
#[derive(Debug, Default)]
pub(super) struct Switches {
    pub(super) no_offers: bool,
    pub(super) invoices_held: bool,
    pub(super) second_invoices: u32,
    pub(super) unresponsive: bool,
    pub(super) driver: Vec<Value>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) switches: Switches,
    pub(super) allocations: BTreeMap<String, Allocation>,
    pub(super) demands: BTreeMap<String, Demand>,
    pub(super) proposals: BTreeMap<String, Proposal>,
    pub(super) agreements: BTreeMap<String, Agreement>,
    /// When, of which agreement, and what.
    pub(super) agreement_events: Vec<(u64, String, Value)>,
    pub(super) activities: BTreeMap<String, Activity>,
    pub(super) notes: Vec<Note>,
    pub(super) invoices: Vec<Bill>,
    pub(super) networks: BTreeMap<String, Network>,
    pub(super) scans: BTreeMap<String, Value>,
    /// Rules of the protocol that a client broke.
    pub(super) broken_rules: Vec<String>,
    /// Servers that are to be started: activity and key.
    pub(super) to_serve: Vec<(String, Option<String>)>,
    numbers: u64,
    last_us: u64,
    /// Tunnels of this life of the daemon.
    pub(super) sockets: CancellationToken,
}

impl State {
    /// A new id of so many hexadecimal digits.
    pub(super) fn id(&mut self, digits: usize) -> String {
        self.numbers += 1;
        // Spread, so that ids do not sort by age.
        let spread = self.numbers.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{spread:016x}{:0width$x}", self.numbers, width = digits - 16)
    }

    /// A time that no other event has.
    pub(super) fn stamp(&mut self, now: u64) -> u64 {
        self.last_us = now.max(self.last_us + 1);
        self.last_us
    }

    /// An agreement comes to its end.
    pub(super) fn terminate(&mut self, id: &str, by: &str, reason: &Value, now: u64) {
        let at = self.stamp(now);
        let Some(agreement) = self.agreements.get_mut(id) else { return };
        agreement.word = Word::Terminated;
        agreement.ended_us = Some(at);
        agreement.end = Some(json!({ "terminator": by, "reason": reason }));
        let event = json!({
            "eventType": "AgreementTerminatedEvent",
            "eventDate": rfc3339(at),
            "agreementId": id,
            "terminator": by,
            "signature": "simulated",
            "reason": reason,
        });
        self.agreement_events.push((at, id.to_owned(), event));
        for activity in self.activities.values_mut().filter(|one| one.agreement == id) {
            activity.end(at);
        }
    }

    /// What an activity has used by now, in microseconds.
    pub(super) fn used(&self, nodes: &[GolemNode], activity: &Activity, now: u64) -> Vec<u64> {
        let span = activity.ended_us.unwrap_or(now).saturating_sub(activity.made_us);
        let node = &nodes[self.agreements[&activity.agreement].node];
        let counter = |name: &String| match name.as_str() {
            "duration_sec" => span,
            "cpu_sec" => span * node.threads / 2,
            _ => 0,
        };
        node.counters.iter().map(counter).collect()
    }

    /// What an agreement's activities really cost.
    pub(super) fn owed(&self, nodes: &[GolemNode], id: &str, now: u64) -> u128 {
        let Some(agreement) = self.agreements.get(id) else { return 0 };
        let node = &nodes[agreement.node];
        let activities = self.activities.values().filter(|one| one.agreement == id);
        activities.map(|one| node.due(&self.used(nodes, one, now))).sum()
    }

    /// What was accepted of an activity so far.
    pub(super) fn accepted(&self, activity: &str) -> u128 {
        let notes = self.notes.iter().filter(|note| note.activity == activity && note.accepted_us.is_some());
        notes.map(|note| note.due).max().unwrap_or(0)
    }

    /// What was accepted of an agreement by debit notes.
    pub(super) fn accepted_by_notes(&self, agreement: &str) -> u128 {
        let activities = self.activities.iter().filter(|(_, one)| one.agreement == agreement);
        activities.map(|(id, _)| self.accepted(id)).sum()
    }

    /// The address of the server of a node's machine, if it listens.
    pub(super) fn server_of(&self, nodes: &[GolemNode], node_id: &str) -> Option<SocketAddr> {
        let lives = self.activities.values().filter(|one| one.ended_us.is_none());
        let mut of_node = lives.filter(|one| nodes[self.agreements[&one.agreement].node].id == node_id);
        of_node.find_map(|one| one.server.as_ref().map(|running| running.simulator.address()))
    }
}

impl Activity {
    pub(super) fn end(&mut self, at: u64) {
        if self.ended_us.is_none() {
            self.ended_us = Some(at);
            (self.word, self.next) = ("Terminated", None);
            if let Some(running) = self.server.take() {
                running.shutdown.cancel();
            }
        }
    }
}

impl GolemNode {
    /// What counters cost.
    pub(super) fn due(&self, used_us: &[u64]) -> u128 {
        let mut prices: Vec<u128> = self
            .prices
            .iter()
            .map(|text| glm::parts(text).expect("a price of at most 18 decimals"))
            .collect();
        let start = prices.pop().unwrap_or(0);
        glm::due(&prices, start, used_us)
    }

    /// The properties of its offer.
    pub(super) fn properties(&self) -> Map<String, Value> {
        let number = |text: &String| serde_json::from_str::<Value>(text).expect("a price is a number");
        let names: Vec<String> = self.counters.iter().map(|name| format!("golem.usage.{name}")).collect();
        let mut all = Map::new();
        for (key, value) in [
            ("golem.com.pricing.model", json!("linear")),
            ("golem.com.pricing.model.linear.coeffs", self.prices.iter().map(number).collect()),
            ("golem.com.scheme", json!("payu")),
            ("golem.com.usage.vector", json!(names)),
            ("golem.inf.cpu.threads", json!(self.threads)),
            ("golem.inf.mem.gib", json!(16.0)),
            ("golem.inf.storage.gib", json!(100.0)),
            ("golem.node.debug.subnet", json!("public")),
            ("golem.node.id.name", json!(format!("simulated-{}", self.id))),
            ("golem.runtime.name", json!(self.runtime)),
            ("golem.runtime.capabilities", json!(["vpn", "!exp:gpu"])),
        ] {
            all.insert(key.to_owned(), value);
        }
        if let Some(gpu) = &self.gpu {
            all.insert("golem.!exp.gap-35.v1.inf.gpu.model".to_owned(), json!(gpu));
        }
        all
    }
}
