//! What Render's answers look like, and where they say that a machine stands.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    landlord::{Notes, Order, Phase},
    landlords::render::config::{RenderConfig, RenderPool},
};

/// Notes of a row. An empty text counts as none, since a note cannot be taken back.
pub(crate) mod note {
    /// That the service was asked for.
    pub(crate) const ASKED: &str = "asked";
    /// The service's id.
    pub(crate) const SERVICE: &str = "service";
    /// The deploy that must become live, or one after it.
    pub(crate) const DEPLOY: &str = "deploy";
    /// The newest deploy before the one that was asked for and not named; `none` if there was none.
    pub(crate) const BEFORE: &str = "before";
    /// The deploy that was seen live: nothing more is asked about it.
    pub(crate) const LIVE: &str = "live";
}

/// What [`note::BEFORE`] says of a service without deploys.
pub(crate) const NONE_BEFORE: &str = "none";

#[derive(Debug, Deserialize)]
pub(crate) struct ServiceItem {
    pub(crate) service: Service,
    pub(crate) cursor: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) suspended: String,
    #[serde(default)]
    pub(crate) suspenders: Vec<String>,
    /// Absent for kinds of services that we do not have.
    #[serde(default, rename = "serviceDetails")]
    pub(crate) details: Details,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Details {
    #[serde(default)]
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) region: Option<String>,
    #[serde(default)]
    pub(crate) plan: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Created {
    pub(crate) service: Service,
    #[serde(default)]
    pub(crate) deploy_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DeployItem {
    pub(crate) deploy: Deploy,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Deploy {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) status: String,
}

impl Service {
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended == "suspended"
    }

    /// Whether only a user of the workspace suspended it, as we do; nobody tells us from a person.
    pub(crate) fn is_ours_to_resume(&self) -> bool {
        self.suspenders.iter().all(|suspender| suspender == "user")
    }
}

/// The body of `POST /services`.
pub(crate) fn create_body(config: &RenderConfig, pool: &RenderPool, order: &Order, name: &str) -> Value {
    let variable = |key: &str, value: &str| json!({ "key": key, "value": value });
    let mut variables: Vec<Value> = pool.variables.iter().map(|(key, value)| variable(key, value)).collect();
    variables.push(variable("PORT", &pool.port.to_string()));
    variables.push(variable("BEACON_MACHINE", order.machine.as_str()));
    variables.push(variable("BEACON_POOL", &order.pool.to_string()));
    if let Some(key) = &order.server_key {
        variables.push(variable(&pool.key_variable, key.expose()));
    }
    let mut body = json!({
        "type": "web_service",
        "name": name,
        "ownerId": config.owner,
        "autoDeploy": "no",
        "image": { "ownerId": config.owner, "imagePath": pool.image },
        "envVars": variables,
        "serviceDetails": {
            "runtime": "image",
            "region": order.place,
            "plan": order.sku,
            // One instance: the edge balances at random, so each would need an address of its own.
            "numInstances": 1,
            "healthCheckPath": pool.health_path,
            "maxShutdownDelaySeconds": pool.shutdown_delay_s,
        },
    });
    if let Some(credential) = &pool.registry_credential {
        body["image"]["registryCredentialId"] = json!(credential);
    }
    if let Some(command) = &pool.start_command {
        body["serviceDetails"]["envSpecificDetails"] = json!({ "dockerCommand": command });
    }
    body
}

/// Where the deploy that was asked for stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rollout {
    pub(crate) state: RolloutState,
    /// The deploy that was asked for, once it has shown itself.
    pub(crate) awaited: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RolloutState {
    /// Nothing newer than what was there before is live yet.
    UnderWay,
    /// This one is live: the one that was asked for, or a later one.
    Live(String),
    /// It ended badly and nothing newer is under way.
    Failed(String),
    /// A status that we do not know.
    Unknown(String),
}

/// A note that says something.
pub(crate) fn noted<'a>(notes: &'a Notes, name: &str) -> Option<&'a str> {
    notes.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// Reads a list of deploys, the newest first. An older version that still answers is not what was asked for.
pub(crate) fn rollout(deploys: &[Deploy], notes: &Notes) -> Rollout {
    let place = |id: &str| deploys.iter().position(|deploy| deploy.id == id);
    let since = match (noted(notes, note::DEPLOY), noted(notes, note::BEFORE)) {
        // Not listed yet.
        (Some(awaited), _) => place(awaited).map_or(0, |place| place + 1),
        (None, Some(before)) => place(before).unwrap_or(deploys.len()),
        // Nobody knows what was asked for: the newest.
        (None, None) => deploys.len().min(1),
    };
    let since = &deploys[..since];
    let awaited = since.last().map(|deploy| deploy.id.clone());
    let live = since.iter().find(|deploy| deploy.status == "live");
    let is_failure = |status: &str| status == "canceled" || status.ends_with("_failed");
    let state = match (live, since.first()) {
        (Some(live), _) => RolloutState::Live(live.id.clone()),
        (None, None) => RolloutState::UnderWay,
        (None, Some(newest)) => match newest.status.as_str() {
            "created" | "queued" | "build_in_progress" | "pre_deploy_in_progress" | "update_in_progress" => {
                RolloutState::UnderWay
            }
            status if is_failure(status) => RolloutState::Failed(status.to_owned()),
            status => RolloutState::Unknown(status.to_owned()),
        },
    };
    Rollout { state, awaited }
}

/// Where a suspended service stands.
pub(crate) fn suspended(service: &Service) -> Phase {
    if service.is_ours_to_resume() {
        Phase::Parked
    } else {
        Phase::Broken(format!("suspended by {}", service.suspenders.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploys(list: &[(&str, &str)]) -> Vec<Deploy> {
        list.iter()
            .map(|(id, status)| Deploy { id: (*id).to_owned(), status: (*status).to_owned() })
            .collect()
    }

    fn notes(list: &[(&str, &str)]) -> Notes {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn state(list: &[(&str, &str)], known: &[(&str, &str)]) -> RolloutState {
        rollout(&deploys(list), &notes(known)).state
    }

    #[test]
    fn an_older_version_that_is_live_is_not_the_one_that_was_asked_for() {
        let known = [("deploy", "dep-2")];
        let live = |id: &str| RolloutState::Live(id.to_owned());
        assert_eq!(state(&[("dep-1", "live")], &known), RolloutState::UnderWay);
        assert_eq!(state(&[("dep-2", "queued"), ("dep-1", "live")], &known), RolloutState::UnderWay);
        assert_eq!(state(&[("dep-2", "live"), ("dep-1", "deactivated")], &known), live("dep-2"));
        // Somebody deployed later.
        assert_eq!(state(&[("dep-3", "live"), ("dep-2", "deactivated")], &known), live("dep-3"));
        assert_eq!(state(&[("dep-3", "update_failed"), ("dep-2", "live")], &known), live("dep-2"));
        assert_eq!(state(&[("dep-3", "queued"), ("dep-2", "canceled")], &known), RolloutState::UnderWay);
        let failed = RolloutState::Failed("update_failed".to_owned());
        assert_eq!(state(&[("dep-2", "update_failed"), ("dep-1", "live")], &known), failed);
        assert_eq!(state(&[("dep-2", "dreaming")], &known), RolloutState::Unknown("dreaming".to_owned()));
    }

    #[test]
    fn a_deploy_without_an_id_is_the_first_one_after_the_last_that_was_known() {
        let known = [("deploy", ""), ("before", "dep-1")];
        let waiting = rollout(&deploys(&[("dep-1", "live")]), &notes(&known));
        assert_eq!(waiting, Rollout { state: RolloutState::UnderWay, awaited: None });
        let list = deploys(&[("dep-3", "queued"), ("dep-2", "live"), ("dep-1", "deactivated")]);
        let found = rollout(&list, &notes(&known));
        assert_eq!(found.awaited.as_deref(), Some("dep-2"));
        assert_eq!(found.state, RolloutState::Live("dep-2".to_owned()));
        let first = rollout(&deploys(&[("dep-1", "created")]), &notes(&[("before", NONE_BEFORE)]));
        assert_eq!(first.awaited.as_deref(), Some("dep-1"));
    }

    #[test]
    fn without_notes_the_newest_deploy_decides() {
        assert_eq!(state(&[("dep-2", "created"), ("dep-1", "live")], &[]), RolloutState::UnderWay);
        assert_eq!(state(&[], &[]), RolloutState::UnderWay);
    }
}
