//! What Fly's answers say. Fields may be absent or null, and unknown ones come along.

use std::{collections::BTreeMap, time::Duration};

use chrono::DateTime;
use reqwest::{StatusCode, header};
use schemas::Micros;
use serde::Deserialize;
use serde_json::Value;

use super::spans;
use crate::{
    landlord::{CallError, Phase},
    landlords::http::Answer,
};

/// The provider's clock, in whole seconds, by the answer's `Date`.
pub(super) fn date(answer: &Answer) -> Option<Micros> {
    let text = answer.headers.get(header::DATE)?.to_str().ok()?;
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    u64::try_from(at.timestamp_micros()).ok().map(Micros::new)
}

/// A Machine. Its environment, in which its key is, is not even read.
#[derive(Debug, Deserialize)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) region: Option<String>,
    state: Option<String>,
    private_ip: Option<String>,
    host_status: Option<String>,
    config: Option<Config>,
    /// What is left of the configuration while the host is unreachable.
    incomplete_config: Option<Config>,
    events: Option<Vec<Event>>,
}

#[derive(Debug, Deserialize)]
struct Config {
    metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Event {
    status: Option<String>,
    timestamp: Option<u64>,
}

impl Machine {
    /// A value of its metadata, if it has it.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        let configs = [&self.config, &self.incomplete_config];
        configs.into_iter().flatten().find_map(|config| config.metadata.as_ref()?.get(key)?.as_str())
    }

    /// What happened to it, as far back as it is shown.
    pub(super) fn events(&self) -> Vec<spans::Event> {
        let told = self.events.as_deref().unwrap_or_default();
        let read =
            |event: &Event| Some(spans::Event { at_ms: event.timestamp?, status: event.status.clone()? });
        // The newest is first; of two in one millisecond the later one comes last.
        told.iter().rev().filter_map(read).collect()
    }

    /// Where it stands. `address` knows the address of its server by its id and its private address.
    pub(super) fn phase(&self, address: impl FnOnce(&str, Option<&str>) -> Option<String>) -> Phase {
        let word = self.state.as_deref().unwrap_or("without a state");
        let phase = match word {
            "created" | "creating" | "starting" | "restarting" | "updating" | "replacing" => Phase::Starting,
            "started" => address(&self.id, self.private_ip.as_deref()).map_or(Phase::Starting, Phase::Up),
            "stopped" | "suspended" => Phase::Parked,
            "stopping" | "suspending" | "destroying" => return Phase::Ending,
            "destroyed" => return Phase::Gone,
            // Final, but not by our order: what is left of it is to be removed.
            "failed" | "launch_failed" | "replaced" | "migrated" => Phase::Broken(word.to_owned()),
            _ => Phase::Unknown(word.to_owned()),
        };
        match self.host_status.as_deref() {
            None | Some("ok") => phase,
            Some(host) => Phase::Broken(format!("host {host}")),
        }
    }

    /// Whether it is being stopped, and that for no longer than `within`.
    pub(super) fn is_stopping(&self, now: Option<Micros>, within: Duration) -> bool {
        let state = self.state.as_deref();
        let newest = self.events().last().map(|event| Micros::new(event.at_ms.saturating_mul(1_000)));
        let stuck = now.zip(newest).is_some_and(|(now, newest)| now.since(newest) > within);
        matches!(state, Some("stopping" | "suspending")) && !stuck
    }
}

/// All Machines of an app.
#[derive(Debug)]
pub(super) struct Machines {
    pub(super) machines: Vec<Machine>,
    /// Whether all of them read.
    pub(super) whole: bool,
}

pub(super) fn machines(answer: &Answer) -> Result<Machines, CallError> {
    let all: Vec<Value> = answer.json()?;
    let count = all.len();
    let read = |value| serde_json::from_value::<Machine>(value).ok().filter(|read| !read.id.is_empty());
    let machines: Vec<Machine> = all.into_iter().filter_map(read).collect();
    let whole = machines.len() == count;
    Ok(Machines { machines, whole })
}

pub(super) fn machine(answer: &Answer) -> Result<Machine, CallError> {
    let machine: Machine = answer.json()?;
    if machine.id.is_empty() {
        return Err(CallError::Unclear("fly: the machine has no id".into()));
    }
    Ok(machine)
}

/// The codes of all regions that are not deprecated. The Go client spells the field with a capital.
pub(super) fn regions(answer: &Answer) -> Result<Vec<String>, CallError> {
    #[derive(Deserialize)]
    struct Regions {
        #[serde(alias = "Regions")]
        regions: Vec<Region>,
    }
    #[derive(Deserialize)]
    struct Region {
        #[serde(alias = "Code")]
        code: Option<String>,
        #[serde(alias = "Deprecated")]
        deprecated: Option<bool>,
    }
    let regions = answer.json::<Regions>()?.regions;
    let current = regions.into_iter().filter(|region| region.deprecated != Some(true));
    Ok(current.filter_map(|region| region.code).collect())
}

/// The regions with room.
pub(super) fn placements(answer: &Answer) -> Result<Vec<String>, CallError> {
    #[derive(Deserialize)]
    struct Placements {
        regions: Option<Vec<Placement>>,
    }
    #[derive(Deserialize)]
    struct Placement {
        region: Option<String>,
        count: Option<u64>,
    }
    let regions = answer.json::<Placements>()?.regions.unwrap_or_default();
    let with_room = regions.into_iter().filter(|place| place.count.unwrap_or(0) > 0);
    Ok(with_room.filter_map(|place| place.region).collect())
}

/// An answer that is no success. The only codes are `status` words, of which few errors have one; for the rest the text is all
/// that tells a lease from a name that is taken, and a quota from a wrong key.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    word: String,
    text: String,
}

impl Failure {
    pub(super) fn read(answer: &Answer) -> Self {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |field: &str| body[field].as_str();
        // Older answers have `message`.
        let said = text("error").or(text("message")).map_or_else(|| answer.text(), str::to_owned);
        Self { status: answer.status, word: text("status").unwrap_or_default().to_owned(), text: said }
    }

    /// The id of the Machine that has the name already, if that is the failure.
    pub(super) fn taken_by(&self) -> Option<String> {
        if self.status != StatusCode::CONFLICT || !self.text.contains("already_exists") {
            return None;
        }
        let (_, rest) = self.text.split_once("machine ID ")?;
        let id: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
        (!id.is_empty()).then_some(id)
    }

    /// Another controller holds the lease.
    pub(super) fn is_lease(&self) -> bool {
        self.status == StatusCode::CONFLICT && !self.text.contains("already_exists")
    }

    /// The class of this failure. `shown` is the answer's beginning, for people.
    pub(super) fn as_error(&self, what: &str, shown: &str) -> CallError {
        let text = format!("{what}: status {}: {shown}", self.status.as_u16());
        if self.word == "insufficient_capacity" {
            return CallError::Capacity(text);
        }
        match self.status {
            // A quota of one region; the key is as good as before.
            StatusCode::FORBIDDEN if self.text.contains("quota") => CallError::Capacity(text),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CallError::Authentication(text),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => {
                CallError::Misconfigured(text)
            }
            StatusCode::CONFLICT if self.is_lease() => CallError::RateLimited(text, None),
            // 408 although committed, 412, 5xx, HTML, a redirect: open what was done.
            _ => CallError::Unclear(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: header::HeaderMap::new(), body: body.as_bytes().to_vec() }
    }

    fn phase(machine: &Machine) -> Phase {
        machine.phase(|_, ip| ip.map(str::to_owned))
    }

    #[test]
    fn fields_that_are_absent_null_or_new_do_not_matter() {
        let body = r#"[{"id":"a"},{"id":"b","state":"started","config":null,"events":null,"private_ip":null},
            {"id":"c","state":"started","private_ip":"fdaa::1","new":[],"config":{"metadata":{"k":"v","n":5},
             "services":[{"autostop":true}]}},{"id":"d","state":"hibernating"},
            {"id":"e","state":"started","host_status":"unreachable","incomplete_config":{"metadata":{"k":"w"}}}]"#;
        let list = machines(&answer(200, body)).unwrap();
        let phases: Vec<Phase> = list.machines.iter().map(phase).collect();
        assert_eq!(phases[0], Phase::Unknown("without a state".into()));
        assert_eq!(phases[1..3], [Phase::Starting, Phase::Up("fdaa::1".into())]);
        assert_eq!(phases[3], Phase::Unknown("hibernating".into()));
        assert_eq!(phases[4], Phase::Broken("host unreachable".into()));
        assert_eq!(list.machines[2].metadata("k"), Some("v"));
        assert_eq!(list.machines[4].metadata("k"), Some("w"));
        assert!(list.whole);
        assert!(!machines(&answer(200, r#"[{"state":"started"}]"#)).unwrap().whole);
    }

    #[test]
    fn what_is_no_list_is_unclear() {
        for body in ["", "null", "{}", "<html>502</html>", r#"{"error":"x"}"#] {
            assert!(machines(&answer(200, body)).unwrap_err().is_unclear(), "{body}");
        }
        assert!(machine(&answer(200, r#"{"id":""}"#)).unwrap_err().is_unclear());
    }

    #[test]
    fn regions_are_read_in_both_spellings() {
        let new = r#"{"nearest":"ams","regions":[{"code":"iad","deprecated":false},{"code":"old","deprecated":true}]}"#;
        let old = r#"{"Nearest":"ams","Regions":[{"Code":"iad"}]}"#;
        assert_eq!(regions(&answer(200, new)).unwrap(), ["iad"]);
        assert_eq!(regions(&answer(200, old)).unwrap(), ["iad"]);
    }

    #[test]
    fn a_taken_name_is_told_from_a_lease() {
        let taken =
            r#"{"error":"already_exists: unique machine name violation, machine ID 9185a00 already exists"}"#;
        let lease = r#"{"error":"lease currently held by somebody"}"#;
        assert_eq!(Failure::read(&answer(409, taken)).taken_by().as_deref(), Some("9185a00"));
        assert_eq!(Failure::read(&answer(409, lease)).taken_by(), None);
        assert!(Failure::read(&answer(409, lease)).is_lease());
        assert_eq!(Failure::read(&answer(422, taken)).taken_by(), None);
    }

    #[test]
    fn each_failure_has_its_class() {
        let class = |status: u16, body: &str| Failure::read(&answer(status, body)).as_error("t", "shown");
        let full = r#"{"error":"no room","status":"insufficient_capacity"}"#;
        let quota = r#"{"error":"To create more machines you are over the allowed quota for memory"}"#;
        for error in [class(422, full), class(503, full), class(403, quota)] {
            assert!(matches!(error, CallError::Capacity(_)), "{error}");
        }
        assert!(matches!(
            class(401, r#"{"error":"Authenticate: token validation error"}"#),
            CallError::Authentication(_)
        ));
        assert!(matches!(class(403, "forbidden"), CallError::Authentication(_)));
        for status in [400, 404, 422] {
            assert!(matches!(class(status, r#"{"message":"bad"}"#), CallError::Misconfigured(_)));
        }
        assert!(matches!(class(409, r#"{"error":"lease held"}"#), CallError::RateLimited(..)));
        for (status, body) in [(408, "{}"), (412, "{}"), (500, ""), (502, "<html>"), (301, ""), (200, "")] {
            assert!(class(status, body).is_unclear(), "{status}");
        }
    }

    #[test]
    fn a_stop_that_takes_too_long_is_stuck() {
        let body = r#"{"id":"a","state":"stopping","events":[{"status":"stopping","timestamp":10000}]}"#;
        let machine = machine(&answer(200, body)).unwrap();
        let at = |seconds: u64| Some(Micros::new(seconds * 1_000_000));
        assert!(machine.is_stopping(at(15), Duration::from_secs(10)));
        assert!(machine.is_stopping(None, Duration::from_secs(10)));
        assert!(!machine.is_stopping(at(21), Duration::from_secs(10)));
    }
}
