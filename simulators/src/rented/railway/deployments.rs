//! Services, and where their deployments stand.

use std::net::SocketAddr;

use chrono::DateTime;
use serde_json::{Value, json};

use super::shop::{Service, Shop};
use crate::rented::machine::Stage;

/// Where the edge sends a connection.
pub(super) enum Route {
    To(SocketAddr),
    Asleep(String),
    Nowhere,
}

/// RFC 3339.
pub(super) fn time(micros: u64) -> String {
    let at = i64::try_from(micros).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

impl Shop {
    /// A deployment as the API tells it; `None` while lists do not show it.
    pub(super) fn deployment(&self, service: &Service, id: &str) -> Option<Value> {
        let seen = self.account.machine(id).filter(|seen| seen.listed)?;
        let serves = self.account.server(id).is_some();
        let status = match &seen.stage {
            // Live when the health check has passed once.
            Stage::Up if serves || seen.foreign => "SUCCESS",
            Stage::Booting | Stage::Up => "DEPLOYING",
            Stage::Parking => "SUCCESS",
            Stage::Parked => "SLEEPING",
            Stage::Ending => "REMOVING",
            Stage::Gone => "REMOVED",
            Stage::Broken(word) => word,
        };
        let url = service.domain.map(|domain| domain.to_string());
        Some(json!({
            "id": id,
            "status": status,
            "createdAt": time(seen.history.first().map_or(0, |(_, at)| *at)),
            "deploymentStopped": false,
            "serviceId": service.id,
            "staticUrl": url,
            "url": url,
            "service": self.service_value(service),
        }))
    }

    pub(super) fn service_value(&self, service: &Service) -> Value {
        json!({
            "id": service.id,
            "name": service.name,
            "projectId": self.config.project,
            "createdAt": time(service.created_us),
            "deletedAt": service.deleted_us.map(time),
        })
    }

    pub(super) fn instance_value(&self, service: &Service) -> Value {
        let latest = service.deployments.last().and_then(|id| self.deployment(service, id));
        let domain = |domain: SocketAddr| json!({ "id": format!("domain-{}", service.id), "serviceId": service.id, "domain": domain.to_string() });
        json!({
            "id": format!("instance-{}", service.id),
            "serviceName": service.name,
            "region": service.settings["region"],
            "numReplicas": service.settings["numReplicas"],
            "sleepApplication": service.settings["sleepApplication"],
            "latestDeployment": latest,
            "domains": { "serviceDomains": service.domain.map(domain).into_iter().collect::<Vec<_>>() },
        })
    }

    /// Old deployments go when a new one is live.
    pub(super) fn replace_old(&self) {
        for service in self.services() {
            let Some((newest, old)) = service.deployments.split_last() else { continue };
            if self.account.server(newest).is_none() {
                continue;
            }
            for id in old {
                let stands = |seen: &crate::rented::Seen| !matches!(seen.stage, Stage::Ending | Stage::Gone);
                if self.account.machine(id).as_ref().is_some_and(stands) {
                    self.account.end(id, "replaced");
                }
            }
        }
    }

    /// Where the edge sends a connection for the service in this place.
    pub(super) fn route(&self, place: usize) -> Route {
        let services = self.services();
        let Some(service) = services.get(place) else { return Route::Nowhere };
        self.traffic(place);
        for id in service.deployments.iter().rev() {
            let Some(seen) = self.account.machine(id) else { continue };
            if seen.stage == Stage::Parked {
                return Route::Asleep(id.clone());
            }
            if self.account.server(id).is_some() {
                return Route::To(seen.address);
            }
        }
        Route::Nowhere
    }

    /// What a service used so far, in billionths of a unit: vCPU-units, GB-units, GB sent.
    pub(super) fn used(&self, service: &Service) -> [u64; 3] {
        let now = self.account.now_us();
        let mut micros: u64 = 0;
        for id in service.deployments.iter().filter(|_| !service.foreign) {
            let Some(seen) = self.account.machine(id) else { continue };
            for (place, (stage, from)) in seen.history.iter().enumerate() {
                let until = seen.history.get(place + 1).map_or(now, |(_, at)| *at);
                if matches!(stage, Stage::Booting | Stage::Up | Stage::Parking | Stage::Ending) {
                    micros += until - from;
                }
            }
        }
        let unit_us = u128::from(self.config.usage_unit_s) * 1_000_000;
        let of = |thousandths: u64| {
            let billionths = u128::from(micros) * u128::from(thousandths) * 1_000_000 / unit_us;
            u64::try_from(billionths).expect("a test does not run for years")
        };
        [of(self.config.milli_vcpus_used), of(self.config.milli_gb_used), service.sent_gb_billionths]
    }

    /// What that costs, rounded up once: prices are for 30 days.
    pub(super) fn cost(&self, service: &Service) -> u64 {
        let [cpu, memory, sent] = self.used(service).map(u128::from);
        let month = u128::from(2_592_000 / self.config.usage_unit_s);
        let [vcpu_month, gb_month, egress_gb] = self.config.prices_nanos.map(u128::from);
        let sum = cpu * vcpu_month + memory * gb_month + sent * egress_gb * month;
        u64::try_from(sum.div_ceil(month * 1_000_000_000)).expect("a test does not run for years")
    }
}
