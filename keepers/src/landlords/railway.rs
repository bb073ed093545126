//! Railway: a machine is a service with one replica, the steps of its making are noted one by one.
//!
//! Its name is the only handle: unique in the project, and all that a list shows of us. The list is that of deployments, so a
//! service without one shows in the environment's settings only. Use is measured by Railway and told by a query.

mod census;
mod config;
mod documents;
mod graph;
mod order;
mod project;
mod survey;
mod usage;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use schemas::{MachineId, PoolId, UsdNanos};
use serde_json::{Value, json};

pub use config::{RailwayConfig, RailwayPool, RailwayPrices, RailwayToken, UsageUnit};

use crate::{
    landlord::{
        Billed, CallError, Census, Ending, Known, Landlord, Order, Ordered, Parking, Quote, Rules, Sighting,
        Steps,
    },
    landlords::{http, mark},
    survey::Survey,
};
use census::{Found, note, service_of};
use config::Size;
use project::{PAGE, Project};
use wire::{Deployment, DeploymentsInput};

/// Use is asked for from this long before the oldest machine was ordered: clocks differ.
const BEFORE: Duration = Duration::from_secs(3_600);

/// One environment of one project.
#[derive(Debug)]
pub struct Railway(Project);

impl Railway {
    /// Checks the settings; asks nobody.
    pub fn new(config: RailwayConfig) -> Result<Self, CallError> {
        Project::new(config).map(Self)
    }
}

impl Project {
    /// All deployments, and what each service cost so far, where that is told.
    async fn survey(
        &self,
        known: &[Known],
    ) -> Result<(Vec<Deployment>, BTreeMap<String, UsdNanos>), CallError> {
        let input = DeploymentsInput::standing(&self.config);
        let Some(since) = known.iter().filter_map(|known| mark::ordered_at(&known.machine)).min() else {
            return Ok((self.deployments(&input).await?, BTreeMap::new()));
        };
        let since = (since - BEFORE).to_datetime();
        let variables =
            json!({ "input": input, "first": PAGE, "project": self.config.project, "since": since });
        let mut reply = self.graph.ask(&documents::MACHINES_AND_USE, variables).await?;
        let page = reply.take("deployments")?;
        // A list without the use is worth having: the next one tells it.
        let used: Vec<usage::Used> = reply.take("usage").unwrap_or_default();
        let charges = usage::charges(&used, &self.config.prices, self.config.usage_unit);
        Ok((self.pages(&input, page).await?, charges))
    }

    /// Whether the list lags behind the deployment that we asked for, or a later one took its place.
    async fn lags(&self, missing: &str) -> Result<bool, CallError> {
        let mut reply = self.graph.ask(&documents::DEPLOYMENT, json!({ "id": missing })).await?;
        let deployment: Deployment = reply.take("deployment")?;
        Ok(wire::is_worth_keeping(&deployment))
    }

    /// A machine that is in a row and not in the list: the past of its service may have the last word.
    async fn look_back(
        &self,
        known: &Known,
        charges: &BTreeMap<String, UsdNanos>,
    ) -> Result<Option<Sighting>, CallError> {
        let Some(service) = service_of(known) else { return Ok(None) };
        let deployments = match self.deployments(&DeploymentsInput::ever(&self.config, service)).await {
            // The key opened the list just now, so it is said about what does not exist.
            Err(CallError::Authentication(_)) => return Ok(None),
            deployments => deployments?,
        };
        let found = census::sort(deployments, std::slice::from_ref(known), &self.marks);
        Ok(found.into_iter().next().map(|found: Found| found.ended(charges.get(service).copied())))
    }

    async fn census(&self, known: &[Known]) -> Result<Census, CallError> {
        let (deployments, charges) = self.survey(known).await?;
        let strays = census::strays(&deployments, known, &self.marks);
        let mut census = Census { whole: true, strays, ..Census::default() };
        let mut listed: Vec<MachineId> = Vec::new();
        for found in census::sort(deployments, known, &self.marks) {
            listed.push(found.machine.clone());
            let lags = match found.missing() {
                None => Ok(false),
                Some(missing) => self.lags(missing).await,
            };
            let Ok(lags) = lags else {
                census.unanswered.push(found.machine);
                continue;
            };
            let charged = charges.get(&found.service.id).copied();
            census.sightings.push(found.sighting(&self.config.edge_scheme, lags, charged));
        }
        for known in known.iter().filter(|known| !listed.contains(&known.machine)) {
            match self.look_back(known, &charges).await {
                Ok(sighting) => census.sightings.extend(sighting),
                Err(_) => census.unanswered.push(known.machine.clone()),
            }
        }
        Ok(census)
    }

    async fn quotes(&self, id: &PoolId) -> Result<Vec<Quote>, CallError> {
        let pool = self.pool(id)?;
        let usd_per_hour = self.usd_per_hour(Size::parse(&pool.sku)?)?;
        if let RailwayToken::Project(_) = self.config.token {
            let scope: wire::Scope =
                self.graph.ask(&documents::WHOSE_TOKEN, json!({})).await?.take("projectToken")?;
            if (&scope.project_id, &scope.environment_id) != (&self.config.project, &self.config.environment)
            {
                let text = "the token belongs to another project or environment than is configured";
                return Err(CallError::Misconfigured(text.to_owned()));
            }
        }
        let place = json!({ "project": self.config.project, "environment": self.config.environment });
        let mut reply = self.graph.ask(&documents::CHECK, place).await?;
        reply.take::<Value>("environment")?;
        let regions: Vec<wire::Region> = reply.take("regions")?;
        let quote = |place: &String| {
            let region = regions.iter().find(|region| region.name == *place).ok_or_else(|| {
                let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
                let text = format!("pool {id}: no region `{place}`; there are {}", names.join(", "));
                CallError::Misconfigured(text)
            })?;
            let constraints = region.deployment_constraints.as_ref();
            if let Some(deprecation) =
                constraints.and_then(|constraints| constraints.deprecation_info.as_ref())
                && deprecation.is_deprecated
            {
                let text = format!("pool {id}: region `{place}` became `{}`", deprecation.replacement_region);
                return Err(CallError::Misconfigured(text));
            }
            Ok(Quote {
                place: place.clone(),
                sku: pool.sku.clone(),
                usd_per_hour,
                // A sleeping service uses nothing, and we attach no volumes.
                parked_usd_per_hour: UsdNanos::ZERO,
                available: None,
            })
        };
        pool.places.iter().map(quote).collect()
    }

    /// Removes what runs, then the service. An error of either is answered by what is there afterwards.
    async fn remove(&self, machine: &Known) -> Result<Ending, CallError> {
        let service = match service_of(machine) {
            Some(service) => service.to_owned(),
            None => match self.find(&self.marks.name(&machine.pool, &machine.machine)?).await? {
                Some(service) => service,
                // Nothing is there yet; whether nothing will come is for the list to say.
                None => return Ok(Ending::Accepted),
            },
        };
        let past = DeploymentsInput::ever(&self.config, &service);
        let deployments = match self.deployments(&past).await {
            Err(CallError::Authentication(_)) => {
                // "Not Authorized" is also said about what does not exist. If the key opens the list, this is meant.
                let standing = self.deployments(&DeploymentsInput::standing(&self.config)).await?;
                let of_it = |one: &Deployment| one.service.as_ref().is_some_and(|of| of.id == service);
                let standing: Vec<Deployment> = standing.into_iter().filter(of_it).collect();
                if standing.is_empty() {
                    return Ok(Ending::Accepted);
                }
                standing
            }
            deployments => deployments?,
        };
        if let Some(ending) = ended(&deployments) {
            return Ok(ending);
        }
        let standing = deployments.iter().filter(|deployment| deployment.status != "REMOVED");
        let mut trouble = None;
        for deployment in standing.filter(|deployment| deployment.status != "REMOVING") {
            let removed = self.graph.ask(&documents::REMOVE, json!({ "id": deployment.id })).await;
            trouble = removed.and_then(|mut reply| reply.take::<bool>("deploymentRemove")).err().or(trouble);
        }
        let deleted = self.graph.ask(&documents::DELETE, json!({ "id": service })).await;
        match deleted.and_then(|mut reply| reply.take::<bool>("serviceDelete")) {
            Ok(true) => Ok(Ending::Accepted),
            Ok(false) => self.after(&past, trouble.unwrap_or_else(|| said_no(&service))).await,
            Err(error) => self.after(&past, error).await,
        }
    }

    /// What an ending came to that was not agreed to.
    async fn after(&self, past: &DeploymentsInput, error: CallError) -> Result<Ending, CallError> {
        let deployments = self.deployments(past).await.map_err(|_| error.clone())?;
        ended(&deployments).ok_or(error)
    }

    async fn knock(&self, machine: &Known) -> Result<(), CallError> {
        let host = if let Some(host) = machine.notes.get(note::DOMAIN) {
            host.clone()
        } else {
            let service = service_of(machine).unwrap_or_default();
            let place = json!({ "service": service, "environment": self.config.environment });
            let mut reply = self.graph.ask(&documents::INSTANCE, place).await?;
            let instance: wire::Instance = reply.take("serviceInstance")?;
            let domain = instance.domains.service_domains.into_iter().next();
            let text = || CallError::Misconfigured(format!("service {service} has no domain"));
            domain.ok_or_else(text)?.domain
        };
        let path = &self.pool(&machine.pool)?.health_path;
        let url = format!("{}://{host}{path}", self.config.edge_scheme);
        // The first request wakes it, and often gets a 502.
        http::call(self.graph.client().get(url)).await.map(|_| ())
    }
}

fn ended(deployments: &[Deployment]) -> Option<Ending> {
    let service = deployments.iter().find_map(|deployment| deployment.service.as_ref())?;
    service.deleted_at.map(|_| Ending::Gone)
}

fn said_no(service: &str) -> CallError {
    CallError::Unclear(format!("Railway would not delete service {service}"))
}

impl Landlord for Railway {
    fn rules(&self) -> Rules {
        Rules {
            provider: "railway",
            // One call for all machines; the smallest plan that deploys has 1,000 calls an hour.
            list_every: Duration::from_secs(60),
            looks: 3,
            looks_span: Duration::from_secs(60),
            // Pulling the image and loading the model.
            start_within: Duration::from_secs(900),
            broken_for: Duration::from_secs(60),
            billed: Billed::AsTold,
            unit: Duration::from_secs(60),
            parking: if self.0.config.sleep { Parking::Offered } else { Parking::NotOffered },
        }
    }

    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>> {
        self.0.quotes(pool).boxed()
    }

    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(self.0.look_over())
    }

    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>> {
        async move { order::Course::new(&self.0, order, steps)?.run().await }.boxed()
    }

    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>> {
        self.0.census(known).boxed()
    }

    fn end<'a>(
        &'a self,
        machine: &'a Known,
        _steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ending, CallError>> {
        self.0.remove(machine).boxed()
    }

    /// A machine that is left alone falls asleep, 10 minutes after its last answer; there is no call for it.
    fn park<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        let sleep = self.0.config.sleep;
        async move {
            let text = || format!("machine {} never sleeps: `sleep` is off", machine.machine);
            if sleep { Ok(()) } else { Err(CallError::Misconfigured(text())) }
        }
        .boxed()
    }

    fn wake<'a>(&'a self, machine: &'a Known, _steps: &'a dyn Steps) -> BoxFuture<'a, Result<(), CallError>> {
        self.0.knock(machine).boxed()
    }
}
