//! An order at Railway: five calls, each noted before the next, so that a broken-off order goes on where it stopped.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    landlord::{CallError, Notes, Order, Ordered, Steps},
    landlords::{
        pen::Pen,
        railway::{
            census::note,
            config::{RailwayPool, Size},
            documents::{self, Document},
            project::Project,
            wire::{self, Created, Domain, Instance, Settings},
        },
    },
};

/// A silence that an order waits for in the middle, instead of being given up; and how often.
const PATIENCE: (Duration, u32) = (Duration::from_secs(30), 3);

/// An order under way.
pub(crate) struct Course<'a> {
    project: &'a Project,
    pool: &'a RailwayPool,
    order: &'a Order,
    size: Size,
    pen: Pen<'a>,
}

impl<'a> Course<'a> {
    pub(crate) fn new(
        project: &'a Project,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> Result<Self, CallError> {
        let pool = project.pool(&order.pool)?;
        let size = Size::parse(&order.sku)?;
        Ok(Self { project, pool, order, size, pen: Pen::new(steps, &order.notes) })
    }

    pub(crate) async fn run(mut self) -> Result<Ordered, CallError> {
        let (service, is_new) = match self.pen.notes().get(note::SERVICE) {
            Some(service) => (service.clone(), false),
            None => self.service().await?,
        };
        match self.machine(&service, is_new).await {
            Ok(()) => Ok(Ordered { id: service, notes: self.pen.into_notes() }),
            // The service exists, so it is not true any more that nothing was done.
            Err(error) => Err(match error {
                CallError::Unclear(_) => error,
                CallError::RateLimited(..)
                | CallError::Capacity(_)
                | CallError::Price { .. }
                | CallError::Authentication(_)
                | CallError::Misconfigured(_)
                | CallError::Unreachable(_) => {
                    CallError::Unclear(format!("service {service} exists, and then: {error}"))
                }
            }),
        }
    }

    /// The service of this order, and whether it was made just now.
    async fn service(&mut self) -> Result<(String, bool), CallError> {
        let name = self.project.marks.name(&self.order.pool, &self.order.machine)?;
        if self.pen.notes().contains_key(note::ASKED) {
            if let Some(service) = self.project.find(&name).await? {
                self.own(&service).await?;
                return Ok((service, false));
            }
        } else {
            self.afford()?;
            self.pen.write(note::ASKED, &name).await?;
        }
        let input = wire::create_input(&self.project.config, self.pool, self.order, &name);
        let created = self.project.graph.ask(&documents::CREATE, json!({ "input": input })).await;
        let created = created.and_then(|mut reply| reply.take::<Created>("serviceCreate"));
        let error = match created {
            Ok(created) => {
                self.own(&created.id).await?;
                return Ok((created.id, true));
            }
            Err(error) => error,
        };
        match error {
            // A name clash has no code of its own, and an answer may have been lost: the name tells.
            CallError::Unclear(_) | CallError::Misconfigured(_) => {
                match self.project.find(&name).await {
                    Ok(Some(service)) => {
                        self.own(&service).await?;
                        Ok((service, false))
                    }
                    Ok(None) => Err(error),
                    // It may exist, so the refusal is not the last word.
                    Err(look) => Err(CallError::Unclear(format!("{error}; {look}"))),
                }
            }
            CallError::RateLimited(..)
            | CallError::Capacity(_)
            | CallError::Price { .. }
            | CallError::Authentication(_)
            | CallError::Unreachable(_) => Err(error),
        }
    }

    /// Everything after the service: settings, limits, address, deployment.
    async fn machine(&mut self, service: &str, is_new: bool) -> Result<(), CallError> {
        let project = self.project;
        let environment = &project.config.environment;
        let place = json!({ "service": service, "environment": environment });
        let done = |notes: &Notes| notes.contains_key(note::DOMAIN) && notes.contains_key(note::DEPLOYMENT);
        let left: Option<Instance> = if is_new || done(self.pen.notes()) {
            None
        } else {
            Some(self.ask(&documents::INSTANCE, &place, "serviceInstance").await?)
        };
        if !self.pen.notes().contains_key(note::SETTINGS) {
            let input = Settings::new(self.order, self.pool, project.config.sleep);
            let update = json!({ "service": service, "environment": environment, "input": input });
            self.agree(&documents::UPDATE, &update, "serviceInstanceUpdate").await?;
            let limits = json!({ "input": wire::limits_input(&project.config, service, self.size) });
            self.agree(&documents::LIMITS, &limits, "serviceInstanceLimitsUpdate").await?;
            self.pen.write(note::SETTINGS, "written").await?;
        }
        if !self.pen.notes().contains_key(note::DOMAIN) {
            let there = left.as_ref().and_then(|left| left.domains.service_domains.first());
            let domain = if let Some(domain) = there {
                domain.domain.clone()
            } else {
                let port = self.pool.port;
                let input = json!({ "environmentId": environment, "serviceId": service, "targetPort": port });
                let input = json!({ "input": input });
                self.ask::<Domain>(&documents::DOMAIN, &input, "serviceDomainCreate").await?.domain
            };
            self.pen.write(note::DOMAIN, &domain).await?;
        }
        if !self.pen.notes().contains_key(note::DEPLOYMENT) {
            let there = left.and_then(|left| left.latest_deployment).filter(wire::is_worth_keeping);
            let deployment = match there {
                Some(deployment) => deployment.id,
                None => self.ask(&documents::DEPLOY, &place, "serviceInstanceDeployV2").await?,
            };
            self.pen.write(note::DEPLOYMENT, &deployment).await?;
        }
        Ok(())
    }

    fn afford(&self) -> Result<(), CallError> {
        let (now, max) = (self.project.usd_per_hour(self.size)?, self.order.usd_per_hour_max);
        if now > max { Err(CallError::Price { now, max }) } else { Ok(()) }
    }

    /// Asks for one field, and sits out short silences.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        document: &Document,
        variables: &(impl Serialize + Sync),
        field: &str,
    ) -> Result<T, CallError> {
        let mut tries = 0;
        loop {
            let asked = self.project.graph.ask(document, variables).await;
            match asked.and_then(|mut reply| reply.take(field)) {
                Err(CallError::RateLimited(_, Some(wait))) if wait <= PATIENCE.0 && tries < PATIENCE.1 => {
                    tries += 1;
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
    }

    /// As [`Self::ask`], for mutations that answer `true`.
    async fn agree(&self, document: &Document, variables: &Value, field: &str) -> Result<(), CallError> {
        if self.ask(document, variables, field).await? {
            Ok(())
        } else {
            Err(CallError::Unclear(format!("{}: `{field}` is false", document.name)))
        }
    }

    async fn own(&mut self, service: &str) -> Result<(), CallError> {
        self.pen.id(service).await?;
        self.pen.write(note::SERVICE, service).await
    }
}
