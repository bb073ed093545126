//! Lambda's JSON: envelopes, errors, instances.

use axum::{http::StatusCode, response::Response};
use serde_json::{Value, json};

use super::shop::{LambdaConfig, Stock};
use crate::{
    clock::micros,
    rented::{account::Seen, machine::Stage},
    reply,
};

/// A success.
pub(super) fn data(value: &Value) -> Response {
    reply::answer(StatusCode::OK, &json!({ "data": value }))
}

/// A failure.
pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({ "error": { "code": code, "message": message, "suggestion": "Try something else." } });
    reply::answer(status, &body)
}

pub(super) fn region(name: &str) -> Value {
    json!({ "name": name, "description": format!("Simulated {name}") })
}

pub(super) fn instance_type(name: &str, cents: u64, gpus: u32) -> Value {
    json!({
        "name": name,
        "description": format!("{gpus}x simulated GPU"),
        "gpu_description": "Simulated (24 GB)",
        "price_cents_per_hour": cents,
        "specs": { "vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": gpus },
    })
}

/// The status that an instance shows at `now_us`; `None` once it is no longer shown at all.
pub(super) fn status(seen: &Seen, config: &LambdaConfig, now_us: u64) -> Option<String> {
    let word = match &seen.stage {
        Stage::Booting => "booting",
        Stage::Up => "active",
        // Lambda cannot park; these stages are never entered.
        Stage::Parking | Stage::Parked | Stage::Ending => "terminating",
        Stage::Gone => {
            let since = seen.history.last().map_or(0, |(_, at)| *at);
            return (now_us < since + micros(config.terminated_listed)).then(|| "terminated".to_owned());
        }
        Stage::Broken(word) => word,
    };
    Some(word.to_owned())
}

/// An instance as the API shows it; `None` once it is no longer shown.
pub(super) fn instance(seen: &Seen, config: &LambdaConfig, stock: &Stock, now_us: u64) -> Option<Value> {
    let status = status(seen, config, now_us)?;
    let up_at = seen.history.iter().find(|(stage, _)| *stage == Stage::Up).map(|(_, at)| *at);
    let addressed = up_at.is_some_and(|at| now_us >= at + micros(config.ip_after));
    let gpus = config.types.iter().find(|(name, ..)| *name == seen.sku).map_or(1, |(.., gpus)| *gpus);
    let cents = stock.prices.get(&seen.sku).copied().unwrap_or(0);
    let can_end = match status.as_str() {
        "booting" if !config.terminates_booting => Err("vm-has-not-launched"),
        "terminating" | "terminated" => Err("vm-is-terminating"),
        _ => Ok(()),
    };
    let able = match can_end {
        Ok(()) => json!({ "available": true }),
        Err(code) => json!({ "available": false, "reason_code": code, "reason_description": "Simulated." }),
    };
    let mut instance = json!({
        "id": seen.id,
        "status": status,
        "ssh_key_names": seen.papers["ssh_key_names"],
        "file_system_names": [],
        "region": region(&seen.place),
        "instance_type": instance_type(&seen.sku, cents, gpus),
        "actions": { "migrate": able, "rebuild": able, "restart": able, "cold_reboot": able, "terminate": able },
        // In Lambda's own examples, and not in its schema.
        "is_reserved": false,
    });
    for field in ["name", "hostname", "tags", "firewall_rulesets"] {
        if !seen.papers[field].is_null() {
            instance[field] = seen.papers[field].clone();
        }
    }
    if addressed {
        instance["ip"] = json!(seen.address.ip().to_string());
        instance["private_ip"] = json!("10.19.60.24");
        instance["jupyter_token"] = json!("simulated-secret-token");
        instance["jupyter_url"] =
            json!("https://jupyter-simulated.lambdaspaces.com/?token=simulated-secret-token");
    }
    Some(instance)
}
