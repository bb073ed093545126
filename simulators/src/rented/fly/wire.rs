//! Fly's JSON: errors, Machines, events, leases.

use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::shop::FlyConfig;
use crate::{
    clock::micros,
    rented::{account::Seen, machine::Stage},
    reply,
};

/// A failure.
pub(super) fn error(status: u16, word: &str, text: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply::answer(status, &json!({ "error": text, "status": word }))
}

pub(super) fn ok() -> Response {
    reply::answer(StatusCode::OK, &json!({ "ok": true }))
}

/// A lease that begins now.
pub(super) fn lease(now_us: u64, ttl_s: u64, owner: &str, description: &str) -> Value {
    json!({
        "nonce": format!("{now_us:012x}"),
        "expires_at": now_us / 1_000_000 + ttl_s,
        "owner": owner,
        "description": description,
        "version": "01SIMULATED",
    })
}

/// Whether a lease is still held.
pub(super) fn holds(lease: &Value, now_us: u64) -> bool {
    lease["expires_at"].as_u64().is_some_and(|at| now_us < at * 1_000_000)
}

/// The state of a Machine; `None` once nothing of it is shown any more.
pub(super) fn state(seen: &Seen, config: &FlyConfig, now_us: u64) -> Option<&'static str> {
    let suspends = seen.papers["parking"] == "suspend";
    Some(match &seen.stage {
        Stage::Booting if seen.history.len() == 1 => "created",
        Stage::Booting => "starting",
        Stage::Up => "started",
        Stage::Parking if suspends => "suspending",
        Stage::Parking => "stopping",
        Stage::Parked if suspends => "suspended",
        Stage::Parked => "stopped",
        Stage::Ending => "destroying",
        Stage::Gone => {
            let since = seen.history.last().map_or(0, |(_, at)| *at);
            return (now_us < since + micros(config.destroyed_shown)).then_some("destroyed");
        }
        Stage::Broken(word) if word == "launch_failed" => "launch_failed",
        Stage::Broken(_) => "failed",
    })
}

/// What happened to a Machine, the newest first.
pub(super) fn events(seen: &Seen) -> Vec<Value> {
    let suspends = seen.papers["parking"] == "suspend";
    let parking =
        if suspends { ("suspend", "suspending", "suspended") } else { ("stop", "stopping", "stopped") };
    let mut events: Vec<Value> = Vec::new();
    for (number, (stage, at_us)) in seen.history.iter().enumerate() {
        let (kind, status) = match stage {
            Stage::Booting if number == 0 => ("launch", "created"),
            Stage::Booting => ("start", "starting"),
            Stage::Up => ("start", "started"),
            Stage::Parking => (parking.0, parking.1),
            Stage::Parked => ("exit", parking.2),
            Stage::Ending => ("destroy", "destroying"),
            Stage::Gone => ("destroy", "destroyed"),
            Stage::Broken(_) => ("exit", "failed"),
        };
        let mut event = json!({
            "id": format!("01SIM{}{number:08}", seen.id),
            "type": kind,
            "status": status,
            "source": if kind == "exit" { "flyd" } else { "user" },
            "timestamp": at_us / 1_000,
        });
        if kind == "exit" {
            let exit = json!({ "exit_code": 0, "oom_killed": false, "requested_stop": true });
            event["request"] = json!({ "exit_event": exit });
        }
        events.insert(0, event);
    }
    events
}

/// A Machine as the API shows it; `None` once nothing of it is shown any more.
pub(super) fn machine(seen: &Seen, config: &FlyConfig, now_us: u64) -> Option<Value> {
    let state = state(seen, config, now_us)?;
    let at = |us: u64| {
        let time = DateTime::from_timestamp_micros(i64::try_from(us).unwrap_or(0)).unwrap_or_default();
        time.to_rfc3339_opts(SecondsFormat::Secs, true)
    };
    let (first, last) = (seen.history.first(), seen.history.last());
    let passing = if seen.stage == Stage::Up { "passing" } else { "critical" };
    Some(json!({
        "id": seen.id,
        "name": seen.papers["name"],
        "state": state,
        "region": seen.place,
        "instance_id": format!("01SIMULATED{}", seen.id),
        // A real one is an IPv6 address of the organisation's own network.
        "private_ip": seen.address.ip().to_string(),
        "image_ref": { "registry": "registry-1.docker.io", "repository": "simulated", "tag": "latest", "digest": "sha256:0" },
        "config": seen.papers["config"],
        "created_at": at(first.map_or(0, |(_, at)| *at)),
        "updated_at": at(last.map_or(0, |(_, at)| *at)),
        "events": events(seen),
        "checks": [{ "name": "servicecheck-00-http-8080", "status": passing, "output": "simulated", "updated_at": at(now_us) }],
        "host_status": seen.papers["host_status"].as_str().unwrap_or("ok"),
        "cordoned": seen.papers["cordoned"] == true,
    }))
}
