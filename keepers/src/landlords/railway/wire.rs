//! What Railway's answers look like, and where they say that a machine stands.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    landlord::{Order, Phase},
    landlords::railway::config::{RailwayConfig, RailwayPool, Size},
};

/// A list with pages.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deployments {
    pub(crate) edges: Vec<Edge>,
    pub(crate) page_info: PageInfo,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Edge {
    pub(crate) node: Deployment,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageInfo {
    pub(crate) has_next_page: bool,
    pub(crate) end_cursor: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) created_at: DateTime<Utc>,
    #[serde(default, rename = "deploymentStopped")]
    pub(crate) is_stopped: bool,
    #[serde(default)]
    pub(crate) static_url: Option<String>,
    /// Only where it was asked for.
    #[serde(default)]
    pub(crate) service: Option<Service>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) deleted_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instance {
    pub(crate) latest_deployment: Option<Deployment>,
    pub(crate) domains: Domains,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Domains {
    pub(crate) service_domains: Vec<Domain>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Domain {
    pub(crate) domain: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Created {
    pub(crate) id: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Environment {
    /// A scalar, of which Railway's own command line reads `services`, by their ids.
    pub(crate) config: EnvironmentConfig,
}

#[derive(Debug, Deserialize)]
pub(crate) struct EnvironmentConfig {
    #[serde(default)]
    pub(crate) services: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Region {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) deployment_constraints: Option<Constraints>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Constraints {
    #[serde(default)]
    pub(crate) deprecation_info: Option<Deprecation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deprecation {
    pub(crate) is_deprecated: bool,
    pub(crate) replacement_region: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scope {
    pub(crate) project_id: String,
    pub(crate) environment_id: String,
}

/// Which deployments are asked for. What is not set is left out: an explicit `null` means something else at Railway.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeploymentsInput {
    pub(crate) project_id: String,
    pub(crate) environment_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) include_deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Value>,
}

impl DeploymentsInput {
    /// All that stand in the environment, or failed there. What was removed or skipped does not replace anything.
    pub(crate) fn standing(config: &RailwayConfig) -> Self {
        Self {
            project_id: config.project.clone(),
            environment_id: config.environment.clone(),
            status: Some(json!({ "notIn": ["REMOVED", "SKIPPED"] })),
            ..Self::default()
        }
    }

    /// All of one service, its past included.
    pub(crate) fn ever(config: &RailwayConfig, service: &str) -> Self {
        Self {
            project_id: config.project.clone(),
            environment_id: config.environment.clone(),
            service_id: Some(service.to_owned()),
            include_deleted: Some(true),
            status: None,
        }
    }
}

/// What a machine of this order is to be; takes effect with its next deployment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    source: Value,
    region: String,
    num_replicas: u32,
    sleep_application: bool,
    healthcheck_path: String,
    healthcheck_timeout: u32,
    draining_seconds: u32,
    restart_policy_type: &'static str,
    restart_policy_max_retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_command: Option<String>,
}

impl Settings {
    pub(crate) fn new(order: &Order, pool: &RailwayPool, sleep: bool) -> Self {
        Self {
            source: json!({ "image": pool.image }),
            region: order.place.clone(),
            // One replica: the edge balances at random, so each would need an address of its own.
            num_replicas: 1,
            sleep_application: sleep,
            healthcheck_path: pool.health_path.clone(),
            healthcheck_timeout: pool.health_timeout_s,
            draining_seconds: pool.draining_s,
            restart_policy_type: "ON_FAILURE",
            restart_policy_max_retries: 10,
            start_command: pool.start_command.clone(),
        }
    }
}

/// The input of `serviceCreate`. There is no source in it: with one, Railway deploys at once, without the settings.
pub(crate) fn create_input(config: &RailwayConfig, pool: &RailwayPool, order: &Order, name: &str) -> Value {
    let mut variables: BTreeMap<&str, String> =
        pool.variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    variables.insert("PORT", pool.port.to_string());
    variables.insert("BEACON_MACHINE", order.machine.to_string());
    variables.insert("BEACON_POOL", order.pool.to_string());
    if let Some(key) = &order.server_key {
        variables.insert(&pool.key_variable, key.expose().to_owned());
    }
    json!({
        "projectId": config.project,
        "environmentId": config.environment,
        "name": name,
        "variables": variables,
    })
}

/// The input of `serviceInstanceLimitsUpdate`.
pub(crate) fn limits_input(config: &RailwayConfig, service: &str, size: Size) -> Value {
    json!({
        "environmentId": config.environment,
        "serviceId": service,
        "vCPUs": size.vcpus,
        "memoryGB": size.memory_gb,
    })
}

/// Whether a broken-off order goes on with this deployment instead of asking for another.
pub(crate) fn is_worth_keeping(deployment: &Deployment) -> bool {
    !matches!(deployment.status.as_str(), "REMOVED" | "REMOVING" | "FAILED" | "CRASHED" | "SKIPPED")
}

/// Where a machine stands whose newest deployment this is. `url` is where it is reached, if that is known.
pub(crate) fn phase(deployment: &Deployment, url: Option<String>) -> Phase {
    match deployment.status.as_str() {
        "QUEUED" | "INITIALIZING" | "BUILDING" | "DEPLOYING" | "WAITING" => Phase::Starting,
        "SUCCESS" if deployment.is_stopped => Phase::Broken("all instances have stopped".to_owned()),
        // The address comes with the order; without it nothing can be asked.
        "SUCCESS" => url.map_or(Phase::Starting, Phase::Up),
        "SLEEPING" => Phase::Parked,
        "REMOVING" => Phase::Ending,
        "CRASHED" | "FAILED" | "NEEDS_APPROVAL" => Phase::Broken(deployment.status.to_lowercase()),
        "REMOVED" | "SKIPPED" => Phase::Broken("its deployment was removed".to_owned()),
        other => Phase::Unknown(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(status: &str) -> Deployment {
        serde_json::from_value(json!({
            "id": "d", "status": status, "createdAt": "2026-01-01T00:00:00Z", "staticUrl": null,
            "deploymentStopped": false,
        }))
        .unwrap()
    }

    #[test]
    fn each_status_says_where_the_machine_stands() {
        let url = || Some("https://x".to_owned());
        for status in ["QUEUED", "INITIALIZING", "BUILDING", "DEPLOYING", "WAITING"] {
            assert_eq!(phase(&deployment(status), url()), Phase::Starting, "{status}");
        }
        assert_eq!(phase(&deployment("SUCCESS"), url()), Phase::Up("https://x".to_owned()));
        assert_eq!(phase(&deployment("SUCCESS"), None), Phase::Starting);
        assert_eq!(phase(&deployment("SLEEPING"), url()), Phase::Parked);
        assert_eq!(phase(&deployment("REMOVING"), url()), Phase::Ending);
        for status in ["CRASHED", "FAILED", "NEEDS_APPROVAL", "REMOVED"] {
            assert!(matches!(phase(&deployment(status), url()), Phase::Broken(_)), "{status}");
        }
        assert_eq!(phase(&deployment("DREAMING"), url()), Phase::Unknown("DREAMING".to_owned()));
        let stopped = Deployment { is_stopped: true, ..deployment("SUCCESS") };
        assert!(matches!(phase(&stopped, url()), Phase::Broken(_)));
    }

    #[test]
    fn what_is_not_set_is_left_out() {
        let pool = RailwayPool::new("us-west2", "4x8", "ghcr.io/a/b");
        let order = Order {
            machine: "0198c0de00007000800000000000002a".parse().unwrap(),
            pool: "railway@us-west".parse().unwrap(),
            sku: "4x8".to_owned(),
            place: "us-west2".to_owned(),
            server_key: None,
            ordered_at: schemas::Micros::default(),
            usd_per_hour_max: schemas::UsdNanos::ZERO,
            notes: BTreeMap::new(),
        };
        let settings = serde_json::to_value(Settings::new(&order, &pool, false)).unwrap();
        assert!(settings.get("startCommand").is_none(), "{settings}");
        let input = serde_json::to_value(DeploymentsInput::default()).unwrap();
        assert!(!input.to_string().contains("null"), "{input}");
    }
}
