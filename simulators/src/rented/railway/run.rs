//! Carries out queries and mutations.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    edge,
    shop::{Service, Shop},
};
use crate::rented::{account::NewMachine, machine::Stage};

/// An error of one field; its text.
pub(super) struct Trouble(pub(super) String);

type Outcome = Result<Value, Trouble>;

fn text<'a>(arguments: &'a Value, name: &str) -> &'a str {
    arguments[name].as_str().unwrap_or_default()
}

fn trouble<T>(message: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble(message.into()))
}

impl Shop {
    pub(super) fn run(self: &Arc<Self>, field: &str, arguments: &Map<String, Value>) -> Outcome {
        let arguments = Value::Object(arguments.clone());
        let input = &arguments["input"];
        match field {
            "deployments" => self.deployments(input, &arguments),
            "deployment" => self.one_deployment(text(&arguments, "id")),
            "environment" => self.environment(text(&arguments, "id")),
            "projectToken" => Ok(json!({
                "projectId": self.config.project, "environmentId": self.config.environment,
            })),
            "regions" => Ok(self.regions()),
            "service" => Ok(self.service_value(&self.find(text(&arguments, "id"))?)),
            "serviceInstance" => Ok(self.instance_value(&self.find(text(&arguments, "serviceId"))?)),
            "usage" => self.usage(),
            "serviceCreate" => self.create(input),
            "serviceDelete" => self.delete(text(&arguments, "id")),
            "serviceDomainCreate" => self.domain(text(input, "serviceId")),
            "serviceInstanceUpdate" => self.update(text(&arguments, "serviceId"), input),
            "serviceInstanceLimitsUpdate" => {
                self.change(text(input, "serviceId"), |service| service.limits = input.clone())
            }
            "serviceInstanceDeployV2" => self.deploy(text(&arguments, "serviceId")),
            "deploymentRemove" => self.remove(text(&arguments, "id")),
            other => trouble(format!("{other} is not simulated")),
        }
    }

    fn find(&self, id: &str) -> Result<Service, Trouble> {
        let services = self.services();
        let alive = services.into_iter().find(|service| service.id == id && service.deleted_us.is_none());
        alive.ok_or_else(|| Trouble("Service not found".to_owned()))
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Service)) -> Outcome {
        self.find(id)?;
        if let Some(service) = self.state().services.iter_mut().find(|service| service.id == id) {
            change(service);
        }
        Ok(true.into())
    }

    fn deployments(&self, input: &Value, arguments: &Value) -> Outcome {
        if input["projectId"] != self.config.project.as_str() {
            return trouble("Not Authorized");
        }
        let words = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
        };
        let (only, not) = (words(&input["status"]["in"]), words(&input["status"]["notIn"]));
        let deleted_too = input["includeDeleted"] == true;
        let mut found = Vec::new();
        for service in self.services() {
            let wanted = input["serviceId"].as_str().is_none_or(|id| id == service.id);
            if !wanted || (service.deleted_us.is_some() && !deleted_too) {
                continue;
            }
            found.extend(service.deployments.iter().filter_map(|id| self.deployment(&service, id)));
        }
        found.retain(|deployment| {
            let status = text(deployment, "status").to_owned();
            (only.is_empty() || only.contains(&status)) && !not.contains(&status)
        });
        // The newest first.
        found.sort_by(|a, b| text(b, "createdAt").cmp(text(a, "createdAt")));
        let first = usize::try_from(arguments["first"].as_u64().unwrap_or(20)).unwrap_or(20);
        let skip: usize = text(arguments, "after").parse().unwrap_or(0);
        let (total, end) = (found.len(), skip + first);
        let page = found.into_iter().enumerate().skip(skip).take(first);
        let edges: Vec<Value> =
            page.map(|(place, node)| json!({ "cursor": (place + 1).to_string(), "node": node })).collect();
        let cursor = edges.last().map(|edge| edge["cursor"].clone());
        Ok(json!({ "edges": edges, "pageInfo": { "hasNextPage": total > end, "endCursor": cursor } }))
    }

    fn one_deployment(&self, id: &str) -> Outcome {
        let services = self.services();
        let found = services.iter().find_map(|service| {
            service.deployments.iter().find(|one| *one == id).and_then(|id| self.deployment(service, id))
        });
        found.ok_or_else(|| Trouble("Deployment not found".to_owned()))
    }

    fn environment(&self, id: &str) -> Outcome {
        if id != self.config.environment {
            return trouble("Not Authorized");
        }
        let services = self.services().into_iter().filter(|service| service.deleted_us.is_none());
        let services: Map<String, Value> = services
            .map(|service| (service.id, json!({ "source": service.settings["source"], "variables": {} })))
            .collect();
        Ok(json!({ "id": id, "name": "production", "config": { "services": services } }))
    }

    fn regions(&self) -> Value {
        let region = |(name, replaced): &(String, Option<String>)| {
            let deprecation = replaced
                .as_ref()
                .map(|by| json!({ "deprecationInfo": { "isDeprecated": true, "replacementRegion": by } }));
            json!({ "name": name, "location": name, "deploymentConstraints": deprecation })
        };
        self.config.regions.iter().map(region).collect()
    }

    fn usage(&self) -> Outcome {
        if !self.config.tells_usage {
            return trouble("Problem processing request");
        }
        let mut used = Vec::new();
        for service in self.services() {
            let names = ["CPU_USAGE", "MEMORY_USAGE_GB", "NETWORK_TX_GB"];
            for (name, billionths) in names.into_iter().zip(self.used(&service)) {
                let number = format!("{}.{:09}", billionths / 1_000_000_000, billionths % 1_000_000_000);
                let value: f64 = number.parse().unwrap_or_default();
                used.push(
                    json!({ "measurement": name, "tags": { "serviceId": service.id }, "value": value }),
                );
            }
        }
        Ok(used.into())
    }

    fn create(&self, input: &Value) -> Outcome {
        let name = text(input, "name");
        if name.chars().count() > 32 {
            return trouble("Service name is too long");
        }
        if self.services().iter().any(|service| service.name == name && service.deleted_us.is_none()) {
            return trouble(format!("A service named \"{name}\" already exists in this project"));
        }
        let mut service = self.new_service(name);
        let variables = input["variables"].as_object().into_iter().flatten();
        service.variables = variables
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        if !input["source"].is_null() {
            service.settings["source"] = input["source"].clone();
        }
        let (id, value) = (service.id.clone(), self.service_value(&service));
        self.state().services.push(service);
        // As Railway does: a service with a source is deployed at once.
        if !input["source"].is_null() {
            self.deploy(&id)?;
        }
        Ok(value)
    }

    fn update(&self, id: &str, input: &Value) -> Outcome {
        let region = input["region"].as_str();
        if region.is_some_and(|region| !self.config.regions.iter().any(|(name, _)| name == region)) {
            return trouble("Region not found");
        }
        self.change(id, |service| {
            for (name, value) in input.as_object().into_iter().flatten() {
                // An explicit null clears a setting.
                service.settings[name] = value.clone();
            }
        })
    }

    fn domain(self: &Arc<Self>, id: &str) -> Outcome {
        self.find(id)?;
        let place = self.services().iter().position(|service| service.id == id).unwrap_or_default();
        let address = edge::open(self, place);
        self.change(id, |service| service.domain = Some(address))?;
        Ok(json!({ "id": format!("domain-{id}"), "serviceId": id, "domain": address.to_string() }))
    }

    pub(super) fn deploy(&self, id: &str) -> Outcome {
        let service = self.find(id)?;
        if service.settings["source"]["image"].is_null() {
            return trouble("Service has no source");
        }
        let deployment = self.next_id(2);
        let marked = service.variables.get("BEACON_MACHINE").cloned();
        let key = service.variables.get("VLLM_API_KEY").cloned();
        let sleeps = service.settings["sleepApplication"] == true;
        self.change(id, |service| {
            service.deployments.push(deployment.clone());
            (service.sleeps, service.last_traffic) = (sleeps, Instant::now());
        })?;
        self.account.order(NewMachine {
            id: deployment.clone(),
            mark: marked,
            sku: format!("{}x{}", service.limits["vCPUs"], service.limits["memoryGB"]),
            place: text(&service.settings, "region").to_owned(),
            key,
            price_per_hour_nanos: 0,
            parked_per_hour_nanos: 0,
            papers: json!({ "service": id, "settings": service.settings }),
        });
        Ok(deployment.into())
    }

    fn remove(&self, id: &str) -> Outcome {
        self.one_deployment(id)?;
        Ok(self.account.end(id, "deploymentRemove").is_some().into())
    }

    fn delete(&self, id: &str) -> Outcome {
        let service = self.find(id)?;
        for deployment in &service.deployments {
            let stage = self.account.machine(deployment).map(|seen| seen.stage);
            if !matches!(stage, None | Some(Stage::Ending | Stage::Gone)) {
                self.account.end(deployment, "serviceDelete");
            }
        }
        let now = self.account.now_us();
        self.change(id, |service| service.deleted_us = Some(now))
    }
}
