//! Asks RunPod about an endpoint and its account: the endpoint's health, and REST v2. No job is made, and no route that a worker
//! answers is called.

use futures_util::future::join_all;
use reqwest::Url;
use schemas::{
    UsdNanos,
    check::{Aspect, Checked, Finding, Foreign, foreign},
    quoted::Quoted,
};

use super::{
    RunPod,
    catalog::Catalog,
    told::{Endpoint, Endpoints, Pods, Workers},
    wire::EndpointHealth,
};
use crate::{
    adapters::{
        http::BaseUrl,
        probe::{Probe, Reply, not_asked},
        secret::Secret,
    },
    check::Asked,
};

/// Other endpoints of the account whose workers are asked for: a call each, of 60 a minute.
const OTHERS: usize = 8;
/// The findings that need REST v2.
const MANAGED: [Aspect; 4] = [Aspect::Model, Aspect::Region, Aspect::Quota, Aspect::Foreign];
const NO_API: &str = "REST v2 is not where this endpoint is";

impl RunPod {
    pub(super) async fn check_up(&self, asked: &Asked) -> Checked {
        let secrets: Vec<&Secret> = self.config.api_key.iter().collect();
        let probe = Probe::new(&self.client, &self.headers, &secrets);
        let health_url = self.base.join("/health");
        let health = probe.get(health_url.clone()).await;
        let mut findings = vec![key(&health, !secrets.is_empty())];
        let mut prices = Quoted::Failed("RunPod was not asked".into());
        match health {
            Reply::Refused(_) => {
                findings.extend(not_asked(&[Aspect::App], "the key is refused"));
                findings.extend(not_asked(&MANAGED, "the key is refused"));
            }
            Reply::Missing(text) => {
                let todo = "correct the endpoint's id in base_url, or make the endpoint";
                findings.push(Finding::wrong(
                    Aspect::App,
                    format!("there is no such endpoint ({text})"),
                    todo,
                ));
                findings.extend(not_asked(&MANAGED, "there is no endpoint"));
            }
            Reply::Silent(why) => {
                let todo = "check base_url and the network";
                findings.push(Finding::wrong(Aspect::App, format!("nothing answers: {why}"), todo));
                findings.extend(not_asked(&MANAGED, "nothing answers"));
                return Checked { findings, prices };
            }
            health @ (Reply::Good(_) | Reply::Busy(_) | Reply::Odd(_)) => match &self.management {
                Some(api) => prices = self.managed(probe, api, asked, health, &mut findings).await,
                None => {
                    findings.push(alive(
                        health,
                        Finding::unknown(Aspect::App, "the endpoint is there", "its image is not told"),
                    ));
                    findings.extend(not_asked(&MANAGED, NO_API));
                    prices = Quoted::Failed(NO_API.into());
                }
            },
        }
        findings.push(probe.round_trip(&health_url).await);
        Checked { findings, prices }
    }

    /// RunPod's prices now.
    pub(super) async fn quoted(&self) -> Quoted {
        let secrets: Vec<&Secret> = self.config.api_key.iter().collect();
        match &self.management {
            Some(api) => {
                let probe = Probe::new(&self.client, &self.headers, &secrets);
                quoted(&probe.get(api.join("/v2/catalog/gpus")).await)
            }
            None => Quoted::Failed(NO_API.into()),
        }
    }

    pub(super) async fn way(&self) -> Option<std::time::Duration> {
        Probe::new(&self.client, &self.headers, &[]).way(&self.base.join("/health")).await
    }

    /// The findings that REST v2 tells.
    async fn managed(
        &self,
        probe: Probe<'_>,
        api: &BaseUrl,
        asked: &Asked,
        health: Reply,
        findings: &mut Vec<Finding>,
    ) -> Quoted {
        let id = self.base.last_segment();
        let (own, workers) = (api.join_segment("/v2/serverless", &id), of_endpoint(api, &id));
        let (endpoint, workers, catalog, all, pods) = tokio::join!(
            probe.get(own),
            probe.get(workers),
            probe.get(api.join("/v2/catalog/gpus")),
            probe.get(api.join("/v2/serverless")),
            probe.get(api.join("/v2/pods")),
        );
        let workers = workers.json::<Workers>("the list of workers").ok();
        match endpoint.json::<Endpoint>("the endpoint") {
            Ok(endpoint) => {
                findings.push(alive(health, endpoint.app(workers.as_ref())));
                findings.push(endpoint.model(asked));
                let astray = workers.as_ref().and_then(|workers| workers.astray(asked));
                findings.push(astray.unwrap_or_else(|| endpoint.region(asked)));
                findings.push(endpoint.quota(asked));
            }
            Err(reply) => {
                findings.push(alive(health, reply.unread(Aspect::App, "the endpoint's image")));
                let rest = [
                    (Aspect::Model, "which model is served"),
                    (Aspect::Region, "where it runs"),
                    (Aspect::Quota, "how many workers it may have"),
                ];
                findings.extend(rest.map(|(aspect, what)| reply.unread(aspect, what)));
            }
        }
        findings.push(others(probe, api, asked, (all, pods), &catalog).await);
        quoted(&catalog)
    }
}

/// The workers of an endpoint.
fn of_endpoint(api: &BaseUrl, id: &str) -> Url {
    let mut url = api.join_segment("/v2/serverless", id);
    if let Ok(mut path) = url.path_segments_mut() {
        path.push("workers");
    }
    url
}

fn key(health: &Reply, configured: bool) -> Finding {
    match health {
        // An endpoint that does not exist was looked for with a key that was taken.
        Reply::Missing(_) if configured => Finding::ok(Aspect::Key, "the provider takes the key"),
        Reply::Good(_)
        | Reply::Refused(_)
        | Reply::Missing(_)
        | Reply::Busy(_)
        | Reply::Odd(_)
        | Reply::Silent(_) => {
            health.key(configured, "make an API key, and give it with api_key_env or api_key_file")
        }
    }
}

/// The endpoint's own word about its workers comes before what is configured for them.
fn alive(health: Reply, configured: Finding) -> Finding {
    match health.json::<EndpointHealth>("the endpoint's health") {
        Ok(health) => match health.workers.trouble() {
            Some(failure) => {
                let todo = "look at the endpoint's logs; other GPUs or data centers may have room";
                Finding::wrong(Aspect::App, failure.message, todo)
            }
            None => configured,
        },
        Err(reply) => reply.unread(Aspect::App, "how the endpoint's workers are"),
    }
}

fn quoted(catalog: &Reply) -> Quoted {
    match catalog {
        Reply::Good(body) => match Catalog::read(body) {
            Ok(catalog) => catalog.quoted(),
            Err(why) => Quoted::Failed(why),
        },
        Reply::Refused(_) | Reply::Missing(_) | Reply::Busy(_) | Reply::Odd(_) | Reply::Silent(_) => {
            Quoted::Failed(catalog.told())
        }
    }
}

/// Endpoints with workers, and pods, that are no pool's of ours.
async fn others(
    probe: Probe<'_>,
    api: &BaseUrl,
    asked: &Asked,
    (all, pods): (Reply, Reply),
    catalog: &Reply,
) -> Finding {
    let what = "what else runs in the account";
    let endpoints = match all.json::<Endpoints>("the list of endpoints") {
        Ok(all) => all.endpoints,
        Err(reply) => return reply.unread(Aspect::Foreign, what),
    };
    let catalog = match catalog {
        Reply::Good(body) => Catalog::read(body).ok(),
        _ => None,
    };
    let theirs: Vec<Endpoint> = endpoints.into_iter().filter(|one| !asked.ours.contains(&one.id)).collect();
    let mut found = Vec::new();
    let looks = theirs.iter().take(OTHERS).map(|one| probe.get(of_endpoint(api, &one.id)));
    for (endpoint, workers) in theirs.iter().zip(join_all(looks).await) {
        let workers = workers.json::<Workers>("the list of workers").map(|workers| workers.workers);
        let running: Vec<_> =
            workers.unwrap_or_default().into_iter().filter(|worker| worker.runs()).collect();
        if running.is_empty() && endpoint.always_on() == 0 {
            continue;
        }
        let price = |id: &Option<String>, count: Option<u64>| -> Option<UsdNanos> {
            catalog.as_ref()?.gpu(id.as_deref()?)?.times(count?)
        };
        let each = running.iter().map(|worker| price(&worker.gpu_type_id, worker.gpu_count));
        let usd = each.collect::<Option<Vec<UsdNanos>>>().and_then(schemas::money::total);
        found.push(Foreign {
            id: endpoint.id.clone(),
            what: format!("endpoint {}, {} workers running", endpoint.name, running.len()),
            usd_per_hour: usd.filter(|_| !running.is_empty()),
        });
    }
    let unseen = theirs.len().saturating_sub(OTHERS);
    let pods = match &pods {
        Reply::Good(body) => serde_json::from_slice::<Pods<'_>>(body).ok(),
        _ => None,
    };
    let Some(pods) = pods else {
        let list: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
        let found = format!("pods are not told; endpoints not ours that run: {}", list.len());
        return Finding::unknown(Aspect::Foreign, found, "allow the key to list pods, or look by hand");
    };
    for pod in pods.pods.iter().filter(|pod| pod.stands()) {
        let what = format!("pod {}, {}", pod.name, pod.status.to_lowercase());
        found.push(Foreign { id: pod.id.clone(), what, usd_per_hour: pod.usd_per_hour() });
    }
    if found.is_empty() && unseen > 0 {
        let found = format!("nothing runs in the first {OTHERS} endpoints; {unseen} more were not looked at");
        return Finding::unknown(Aspect::Foreign, found, "look at the others by hand");
    }
    foreign(found)
}
