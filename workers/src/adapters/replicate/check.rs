//! Asks Replicate about account, models and deployments. No prediction is made.

use futures_util::future::join_all;
use reqwest::Url;
use schemas::{
    check::{Aspect, Checked, Finding, Foreign, foreign},
    quoted::Quoted,
};
use serde::Deserialize;
use serde_json::Value;

use super::{PRICES, Replicate, Target};
use crate::{
    adapters::{
        openai::Billing,
        probe::{Probe, Reply, not_asked},
        secret::Secret,
    },
    check::{Asked, AskedModel},
};

#[derive(Deserialize)]
struct Account {
    username: String,
}

#[derive(Deserialize)]
struct Hardware {
    sku: Option<String>,
}

#[derive(Deserialize)]
struct Deployments {
    results: Vec<Deployment>,
}

#[derive(Deserialize)]
struct Deployment {
    owner: Option<String>,
    name: Option<String>,
    current_release: Option<Release>,
}

#[derive(Deserialize)]
struct Release {
    #[serde(default)]
    configuration: Configuration,
}

#[derive(Default, Deserialize)]
struct Configuration {
    hardware: Option<String>,
    min_instances: Option<u64>,
    max_instances: Option<u64>,
}

impl Deployment {
    fn full_name(&self) -> String {
        format!("{}/{}", self.owner.as_deref().unwrap_or("?"), self.name.as_deref().unwrap_or("?"))
    }

    fn configuration(&self) -> Option<&Configuration> {
        self.current_release.as_ref().map(|release| &release.configuration)
    }
}

impl Replicate {
    pub(super) async fn check_up(&self, asked: &Asked) -> Checked {
        let secrets: Vec<&Secret> = self.config.api_key.iter().collect();
        let probe = Probe::new(&self.client, &self.headers, &secrets);
        let account_url = self.base.join("/v1/account");
        let account = probe.get(account_url.clone()).await;
        let give = "make an API token, and give it with api_key_env or api_key_file";
        let (configured, refused) = (!secrets.is_empty(), matches!(account, Reply::Refused(_)));
        let (key, because) = match account.clone().json::<Account>("the account") {
            Ok(account) => (Finding::ok(Aspect::Key, format!("the account is {}", account.username)), None),
            Err(_) if refused => (account.key(configured, give), Some("the key is refused")),
            Err(reply) => (reply.key(configured, give), Some("the account does not answer")),
        };
        let mut findings = vec![key];
        findings.push(Finding::unknown(
            Aspect::Region,
            "Replicate has no regions",
            "put the pool into the region to which its round trip is shortest",
        ));
        match because {
            Some(because) => {
                let aspects = [Aspect::App, Aspect::Model, Aspect::Quota, Aspect::Foreign];
                findings.extend(not_asked(&aspects, because));
            }
            None => {
                let (models, others) = tokio::join!(self.models(probe, asked), self.others(probe, asked));
                findings.extend(models);
                findings.push(others);
            }
        }
        findings.push(probe.round_trip(&account_url).await);
        Checked { findings, prices: Quoted::Untold { page: PRICES } }
    }

    pub(super) async fn way(&self) -> Option<std::time::Duration> {
        Probe::new(&self.client, &self.headers, &[]).way(&self.base.join("/v1/account")).await
    }

    /// Each model of the pool, as far as the pool's target names something that can be asked about.
    async fn models(&self, probe: Probe<'_>, asked: &Asked) -> Vec<Finding> {
        let looks = asked.models.iter().map(|model| async move {
            match self.model_url(&model.served_as) {
                Some(url) => (model, Some(probe.get(url).await)),
                None => (model, None),
            }
        });
        let (looks, hardware) = tokio::join!(join_all(looks), probe.get(self.base.join("/v1/hardware")));
        let (mut model, mut quota) = (Vec::new(), None);
        for (asked, reply) in looks {
            let Some(reply) = reply else {
                let found =
                    format!("{}: a bare version names no model that could be looked at", asked.served_as);
                model.push(Finding::unknown(Aspect::Model, found, "name it owner/name:version"));
                continue;
            };
            if self.config.target == Target::Deployment {
                let (of_model, of_quota) = deployment(asked, reply);
                model.push(of_model);
                quota = quota.or(of_quota);
            } else {
                model.push(self.read_model(asked, reply));
            }
        }
        let skus = hardware.json::<Vec<Hardware>>("the list of hardware");
        let app = match (self.config.billing, skus) {
            (Billing::PerSecond, Ok(skus)) => booked(asked, &skus),
            (Billing::PerSecond, Err(reply)) => reply.unread(Aspect::App, "which hardware there is"),
            (Billing::PerToken | Billing::PerInference, _) => {
                Finding::ok(Aspect::App, "Replicate hosts the model; there is no app of ours")
            }
        };
        let untold = || {
            let found = "the API does not tell the account's limits or credit";
            Finding::unknown(Aspect::Quota, found, "see replicate.com/account/billing")
        };
        // One line per question: the worst model speaks for all.
        let worst = model.into_iter().max_by_key(|finding| finding.voice);
        vec![app, quota.unwrap_or_else(untold)].into_iter().chain(worst).collect()
    }

    fn model_url(&self, served_as: &str) -> Option<Url> {
        let (name, version) =
            served_as.split_once(':').map_or((served_as, None), |(name, version)| (name, Some(version)));
        let (owner, name) = name.split_once('/')?;
        let mut url = self.base.join(match self.config.target {
            Target::Deployment => "/v1/deployments",
            Target::Model | Target::Version => "/v1/models",
        });
        let mut path = url.path_segments_mut().ok()?;
        path.push(owner).push(name);
        if let Some(version) = version {
            path.push("versions").push(version);
        }
        drop(path);
        Some(url)
    }

    /// A model or a version: that it exists, and has the inputs by their configured names.
    fn read_model(&self, asked: &AskedModel, reply: Reply) -> Finding {
        let name = &asked.served_as;
        let body: Value = match reply.json("the model") {
            Ok(body) => body,
            Err(Reply::Missing(text)) => {
                let found = format!("{name} does not exist, or the account may not use it ({text})");
                return Finding::wrong(Aspect::Model, found, "correct served_as or target");
            }
            Err(reply) => return reply.unread(Aspect::Model, &format!("whether {name} exists")),
        };
        let schema = |body: &Value| {
            body["openapi_schema"]["components"]["schemas"]["Input"]["properties"].as_object().cloned()
        };
        let Some(inputs) = schema(&body).or_else(|| schema(&body["latest_version"])) else {
            let found = format!("{name} exists; the names of its inputs are not told");
            return Finding::unknown(Aspect::Model, found, "compare [pools.input] with the model's page");
        };
        let keys = &self.config.input;
        let missing: Vec<&str> = [&keys.prompt, &keys.max_tokens]
            .into_iter()
            .filter(|key| !key.is_empty() && !inputs.contains_key(key.as_str()))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Finding::ok(
                Aspect::Model,
                format!("{name} exists and has the inputs that are configured"),
            );
        }
        let there: Vec<&str> = inputs.keys().map(String::as_str).take(12).collect();
        let found = format!("{name} has no input {} (it has {})", missing.join(", "), there.join(", "));
        Finding::wrong(Aspect::Model, found, "correct the names in [pools.input]; an empty one sends nothing")
    }

    /// Deployments of the account that no pool names, and that keep instances up.
    async fn others(&self, probe: Probe<'_>, asked: &Asked) -> Finding {
        let listed = probe.get(self.base.join("/v1/deployments")).await;
        let listed = match listed.json::<Deployments>("the list of deployments") {
            Ok(listed) => listed.results,
            Err(reply) => return reply.unread(Aspect::Foreign, "which deployments the account has"),
        };
        let theirs = listed.into_iter().filter(|one| !asked.ours.contains(&one.full_name()));
        let up = theirs.filter_map(|one| {
            let configuration = one.configuration()?;
            let min = configuration.min_instances.filter(|min| *min > 0)?;
            let hardware = configuration.hardware.as_deref().unwrap_or("unknown hardware");
            let what = format!("deployment, at least {min} instances on {hardware}");
            Some(Foreign { id: one.full_name(), what, usd_per_hour: None })
        });
        foreign(up.collect())
    }
}

/// A deployment: that it exists, what it runs on, and how many instances it may have.
fn deployment(asked: &AskedModel, reply: Reply) -> (Finding, Option<Finding>) {
    let name = &asked.served_as;
    let deployment: Deployment = match reply.json("the deployment") {
        Ok(deployment) => deployment,
        Err(Reply::Missing(text)) => {
            let found = format!("there is no deployment {name} ({text})");
            return (
                Finding::wrong(
                    Aspect::Model,
                    found,
                    "make it at replicate.com/deployments, or correct served_as",
                ),
                None,
            );
        }
        Err(reply) => {
            return (reply.unread(Aspect::Model, &format!("whether deployment {name} exists")), None);
        }
    };
    let Some(configuration) = deployment.configuration() else {
        let found = format!("{name} exists; its release is not told");
        return (Finding::unknown(Aspect::Model, found, "look at replicate.com/deployments"), None);
    };
    let quota = configuration.max_instances.map(|most| match most {
        0 => Finding::wrong(Aspect::Quota, format!("{name} may have 0 instances"), "raise its max_instances"),
        _ => Finding::ok(Aspect::Quota, format!("{name}: at most {most} instances")),
    });
    let model = match &configuration.hardware {
        Some(hardware) if *hardware != asked.sku => Finding::warning(
            Aspect::Model,
            format!("{name} runs on {hardware}, and is booked as {}", asked.sku),
            "correct the model's sku, or the deployment's hardware",
        ),
        Some(hardware) => Finding::ok(Aspect::Model, format!("{name} exists, on {hardware}")),
        None => Finding::unknown(
            Aspect::Model,
            format!("{name} exists; its hardware is not told"),
            "look at replicate.com/deployments",
        ),
    };
    (model, quota)
}

/// Whether Replicate knows the hardware by which the pool's jobs are booked.
fn booked(asked: &Asked, skus: &[Hardware]) -> Finding {
    let known = |sku: &str| skus.iter().any(|one| one.sku.as_deref() == Some(sku));
    match asked.models.iter().find(|model| !known(&model.sku)) {
        None => Finding::ok(Aspect::App, "Replicate hosts the model, and knows its hardware"),
        Some(model) => {
            let there: Vec<&str> = skus.iter().filter_map(|one| one.sku.as_deref()).take(12).collect();
            let found = format!("Replicate knows no hardware {} (it has {})", model.sku, there.join(", "));
            Finding::warning(Aspect::App, found, "correct the model's sku: its price is booked by it")
        }
    }
}
