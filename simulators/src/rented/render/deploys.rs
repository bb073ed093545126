//! Services and their deploys.

use std::{net::SocketAddr, time::Duration};

use chrono::DateTime;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::shop::{Deploy, Service, Shop};
use crate::rented::{Seen, machine::Stage};

/// RFC 3339.
pub(super) fn time(micros: u64) -> String {
    let at = i64::try_from(micros).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

impl Shop {
    pub(super) fn add_service(&self, id: &str, name: &str, foreign: bool) {
        self.state().services.push(Service {
            id: id.to_owned(),
            name: name.to_owned(),
            foreign,
            deleted: false,
            suspenders: Vec::new(),
            has_no_instance: false,
            deploys: Vec::new(),
        });
    }

    pub(super) fn add_deploy(&self, service: &str, trigger: &'static str, takes: Duration) -> Deploy {
        let deploy = Deploy {
            id: self.next_id("dep"),
            trigger,
            created_us: self.account.now_us(),
            done_at: Instant::now() + takes,
            forced: None,
        };
        self.change(service, |service| service.deploys.push(deploy.clone()));
        deploy
    }

    /// The deploys of a service with their statuses, the oldest first. An older one stays live until a newer one is.
    pub(super) fn statuses(&self, service: &Service) -> Vec<(Deploy, String)> {
        let serves = self.account.server(&service.id).is_some() || service.foreign;
        let history = self.account.machine(&service.id).map(|seen| seen.history).unwrap_or_default();
        let now = Instant::now();
        let mut is_replaced = false;
        let mut statuses = Vec::new();
        for deploy in service.deploys.iter().rev() {
            // One that was there when the service was suspended had been live.
            let has_served =
                history.iter().any(|(stage, at)| *stage == Stage::Parking && *at >= deploy.created_us);
            let status = match &deploy.forced {
                Some(status) => status.clone(),
                None if is_replaced => "deactivated".to_owned(),
                None if now < deploy.done_at || !(serves || has_served) => "update_in_progress".to_owned(),
                None => {
                    is_replaced = true;
                    "live".to_owned()
                }
            };
            statuses.push((deploy.clone(), status));
        }
        statuses.reverse();
        statuses
    }

    pub(super) fn deploy_value(&self, service: &Service, id: &str) -> Option<Value> {
        let (deploy, status) = self.statuses(service).into_iter().find(|(deploy, _)| deploy.id == id)?;
        Some(json!({
            "id": deploy.id,
            "status": status,
            "trigger": deploy.trigger,
            "createdAt": time(deploy.created_us),
            "updatedAt": time(deploy.created_us),
        }))
    }

    /// A service as the API tells it; `None` while lists do not show it.
    pub(super) fn service_value(&self, service: &Service, seen: &Seen) -> Value {
        let created = seen.history.first().map_or(0, |(_, at)| *at);
        let updated = seen.history.last().map_or(0, |(_, at)| *at);
        let is_suspended =
            !service.suspenders.is_empty() && matches!(seen.stage, Stage::Parking | Stage::Parked);
        let suspenders = if is_suspended { service.suspenders.clone() } else { Vec::new() };
        json!({
            "id": service.id,
            "name": service.name,
            "slug": service.name,
            "ownerId": self.config.owner,
            "type": "web_service",
            "autoDeploy": "no",
            "notifyOnFail": "default",
            "rootDir": "",
            "dashboardUrl": format!("https://dashboard.render.example/web/{}", service.id),
            "createdAt": time(created),
            "updatedAt": time(updated),
            "suspended": if is_suspended { "suspended" } else { "not_suspended" },
            "suspenders": suspenders,
            "serviceDetails": details(seen, seen.address),
        })
    }
}

fn details(seen: &Seen, address: SocketAddr) -> Value {
    let made = &seen.papers["serviceDetails"];
    json!({
        "env": "image",
        "runtime": "image",
        "envSpecificDetails": { "dockerCommand": "", "dockerContext": "", "dockerfilePath": "" },
        "plan": seen.sku,
        "region": seen.place,
        "numInstances": made["numInstances"].as_u64().unwrap_or(1),
        "buildPlan": "starter",
        "healthCheckPath": made["healthCheckPath"].as_str().unwrap_or(""),
        "openPorts": [],
        "url": format!("http://{address}"),
        "maxShutdownDelaySeconds": made["maxShutdownDelaySeconds"].as_u64().unwrap_or(30),
    })
}
