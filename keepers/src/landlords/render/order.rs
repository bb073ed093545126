//! Orders, deploys and waking at Render: what was asked for is noted before, what was answered after.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    landlord::{CallError, Known, Order, Ordered, Steps},
    landlords::{
        pen::Pen,
        render::{
            rest::Budget,
            wire::{self, Created, Deploy, NONE_BEFORE, Service, note, noted},
            workspace::Workspace,
        },
    },
};

/// Between two looks for the deploy that resuming makes.
const LOOK_EVERY: time::Duration = time::Duration::from_secs(1);

impl Workspace {
    pub(crate) async fn carry_out(&self, order: &Order, steps: &dyn Steps) -> Result<Ordered, CallError> {
        let mut pen = Pen::new(steps, &order.notes);
        let service = match noted(pen.notes(), note::SERVICE) {
            Some(service) => service.to_owned(),
            None => self.create(order, &mut pen).await?,
        };
        match self.ensure_deploy(&service, &mut pen).await {
            Ok(()) => Ok(Ordered { id: service, notes: pen.into_notes() }),
            // The service exists, so it is not true any more that nothing was done.
            Err(error) if error.is_unclear() => Err(error),
            Err(error) => Err(CallError::Unclear(format!("service {service} exists, and then: {error}"))),
        }
    }

    /// Makes the service, or finds the one that an earlier call made.
    async fn create(&self, order: &Order, pen: &mut Pen<'_>) -> Result<String, CallError> {
        let pool = self.pool(&order.pool)?;
        let name = self.marks.name(&order.pool, &order.machine)?;
        if pen.notes().contains_key(note::ASKED) {
            if let Some(service) = self.find(&name).await? {
                own(pen, &service.id).await?;
                return Ok(service.id);
            }
        } else {
            let (now, max) = (self.usd_per_hour(&order.sku)?, order.usd_per_hour_max);
            if now > max {
                return Err(CallError::Price { now, max });
            }
            pen.write(note::ASKED, &name).await?;
        }
        let body = wire::create_body(&self.config, pool, order, &name);
        let refusal = match self.rest.call(Budget::Creations, Method::POST, "/services", Some(&body)).await {
            Ok(answer) => {
                let created: Created = answer.json()?;
                own(pen, &created.service.id).await?;
                match created.deploy_id {
                    Some(deploy) => pen.write(note::DEPLOY, &deploy).await?,
                    None => pen.write(note::BEFORE, NONE_BEFORE).await?,
                }
                return Ok(created.service.id);
            }
            Err(refusal) => refusal,
        };
        // A name is unique in a workspace: the service is there already, or an answer was lost.
        if !refusal.is(StatusCode::CONFLICT) && !refusal.error.is_unclear() {
            return Err(refusal.error);
        }
        match self.find(&name).await {
            Ok(Some(service)) => {
                own(pen, &service.id).await?;
                Ok(service.id)
            }
            // The list may lag behind.
            Ok(None) => Err(CallError::Unclear(refusal.error.to_string())),
            Err(look) => Err(CallError::Unclear(format!("{}; {look}", refusal.error))),
        }
    }

    /// Sees to it that a deploy of this order is under way.
    async fn ensure_deploy(&self, service: &str, pen: &mut Pen<'_>) -> Result<(), CallError> {
        if noted(pen.notes(), note::DEPLOY).is_some() {
            return Ok(());
        }
        let deploys = self.deploys(service).await?;
        if let Some(awaited) = wire::rollout(&deploys, pen.notes()).awaited {
            return pen.write(note::DEPLOY, &awaited).await;
        }
        self.deploy(service, deploys.first(), pen).await
    }

    /// Asks for a deploy. The answer may not name it, so what was there before is noted first.
    async fn deploy(
        &self,
        service: &str,
        newest: Option<&Deploy>,
        pen: &mut Pen<'_>,
    ) -> Result<(), CallError> {
        let before = newest.map_or(NONE_BEFORE, |newest| newest.id.as_str());
        pen.write(note::BEFORE, before).await?;
        let path = format!("/services/{service}/deploys");
        let mut resumed = false;
        loop {
            match self.rest.call(Budget::Deploys, Method::POST, &path, Some(&json!({}))).await {
                // 202 has no body: the deploy waits, and shows itself in the list.
                Ok(answer) if answer.body.is_empty() => return Ok(()),
                Ok(answer) => {
                    let deploy: Deploy = answer.json()?;
                    return pen.write(note::DEPLOY, &deploy.id).await;
                }
                Err(refusal) if refusal.is_about_suspension() && !resumed => {
                    let found = self.service(service).await?;
                    if !found.is_ours_to_resume() {
                        return Err(alert(&found));
                    }
                    self.resume(service).await?;
                    resumed = true;
                }
                Err(refusal) => return Err(refusal.error),
            }
        }
    }

    async fn resume(&self, service: &str) -> Result<(), CallError> {
        let path = format!("/services/{service}/resume");
        let Err(refusal) = self.rest.call(Budget::Writes, Method::POST, &path, None).await else {
            return Ok(());
        };
        // A repeated call may be refused because the first one was carried out.
        let found = self.service(service).await?;
        if found.is_suspended() { Err(refusal.error) } else { Ok(()) }
    }

    /// Resumes a parked service. It is ready with a newer deploy only; whether resuming makes one is not documented.
    pub(crate) async fn unpark(&self, machine: &Known, steps: &dyn Steps) -> Result<(), CallError> {
        let mut pen = Pen::new(steps, &machine.notes);
        let service = self.id_of(machine).await?;
        let found = self.service(&service).await?;
        if found.is_suspended() && !found.is_ours_to_resume() {
            return Err(alert(&found));
        }
        let is_under_way =
            noted(pen.notes(), note::DEPLOY).is_none() && noted(pen.notes(), note::BEFORE).is_some();
        if found.is_suspended() || !is_under_way {
            let deploys = self.deploys(&service).await?;
            pen.write(note::BEFORE, deploys.first().map_or(NONE_BEFORE, |newest| newest.id.as_str())).await?;
            pen.write(note::LIVE, "").await?;
            pen.write(note::DEPLOY, "").await?;
            self.resume(&service).await?;
        }
        let end = Instant::now() + self.config.resume_shows_within;
        loop {
            let deploys = self.deploys(&service).await?;
            if let Some(awaited) = wire::rollout(&deploys, pen.notes()).awaited {
                return pen.write(note::DEPLOY, &awaited).await;
            }
            if Instant::now() >= end {
                return self.deploy(&service, deploys.first(), &mut pen).await;
            }
            time::sleep(LOOK_EVERY.min(self.config.resume_shows_within)).await;
        }
    }
}

fn alert(service: &Service) -> CallError {
    let by = service.suspenders.join(", ");
    CallError::Misconfigured(format!("service {} is suspended by {by}: see Render's dashboard", service.id))
}

/// The machine is this service from now on.
async fn own(pen: &mut Pen<'_>, service: &str) -> Result<(), CallError> {
    pen.id(service).await?;
    pen.write(note::SERVICE, service).await
}
