//! Render: a machine is a web service with one instance.
//!
//! Its name is the only handle: unique in the workspace. A service is usable when the deploy that was asked for is live, which
//! the answer to a request does not always name; an older version answers 200 meanwhile.

mod config;
mod order;
mod rest;
mod survey;
mod wire;
mod workspace;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use reqwest::{Method, StatusCode};
use schemas::{MachineId, PoolId, UsdNanos};

pub use config::{RenderConfig, RenderPool};

use crate::{
    landlord::{
        Billed, CallError, Census, Ending, Known, Landlord, Notes, Order, Ordered, Parking, Phase, Quote,
        Rules, Sighting, Steps, Stray,
    },
    landlords::mark,
    survey::Survey,
};
use rest::Budget;
use wire::{RolloutState, Service, note, noted};
use workspace::Workspace;

/// Live machines whose instances are looked at in one list, in turns: a call each, of 400 a minute.
const INSPECTED: usize = 20;

/// One workspace.
#[derive(Debug)]
pub struct Render {
    workspace: Workspace,
    /// Whose turn it is to be inspected. Lost without harm.
    turn: AtomicUsize,
}

impl Render {
    /// Checks the settings; asks nobody.
    pub fn new(config: RenderConfig) -> Result<Self, CallError> {
        Ok(Self { workspace: Workspace::new(config)?, turn: AtomicUsize::new(0) })
    }

    async fn census(&self, known: &[Known]) -> Result<Census, CallError> {
        let services = self.workspace.services("").await?;
        let rows: BTreeMap<&str, &Known> =
            known.iter().filter_map(|known| Some((known.id.as_deref()?, known))).collect();
        let mut census = Census { whole: true, ..Census::default() };
        let mut listed: BTreeSet<MachineId> = BTreeSet::new();
        let mut live = 0;
        let turn = self.turn.load(Ordering::Relaxed);
        for service in services {
            // An id in a row stays that row's machine, even when a person gave it another name.
            let row = rows.get(service.id.as_str()).copied();
            let whose = row.map(|row| (row.pool.clone(), row.machine.clone()));
            let Some((pool, machine)) = whose.or_else(|| self.workspace.marks.read(&service.name)) else {
                if self.workspace.marks.is_stray(&service.name) {
                    census.strays.push(Stray { id: service.id, pool: None });
                }
                continue;
            };
            let row = row.or_else(|| known.iter().find(|known| known.machine == machine));
            let notes = row.map_or_else(Notes::new, |row| row.notes.clone());
            let is_live = !service.is_suspended() && noted(&notes, note::LIVE).is_some();
            let inspect = is_live && (turn..turn + INSPECTED).contains(&live);
            live += usize::from(is_live);
            listed.insert(machine.clone());
            match self.look(&service, &notes, inspect).await {
                Ok((phase, news)) => {
                    census.sightings.push(self.sighting(pool, machine, service, phase, news));
                }
                Err(_) => census.unanswered.push(machine),
            }
        }
        self.turn.store(if turn + INSPECTED < live { turn + INSPECTED } else { 0 }, Ordering::Relaxed);
        for known in known.iter().filter(|known| !listed.contains(&known.machine)) {
            match self.look_for(known).await {
                Ok(sighting) => census.sightings.extend(sighting),
                Err(_) => census.unanswered.push(known.machine.clone()),
            }
        }
        Ok(census)
    }

    /// A machine that is in a row and not in the list: its own page has the last word.
    async fn look_for(&self, known: &Known) -> Result<Option<Sighting>, CallError> {
        let Some(id) = known.id.as_deref() else { return Ok(None) };
        let (pool, machine) = (known.pool.clone(), known.machine.clone());
        let answer = match self.workspace.rest.get(&format!("/services/{id}")).await {
            Err(refusal) if refusal.is_gone() => {
                return Ok(Some(Sighting {
                    ordered_at: mark::ordered_at(&machine),
                    machine,
                    pool,
                    id: id.to_owned(),
                    phase: Phase::Gone,
                    sku: None,
                    place: None,
                    usd_per_hour: None,
                    told: None,
                    expires_at: None,
                    notes: Notes::new(),
                }));
            }
            answer => answer?,
        };
        let service: Service = answer.json()?;
        let (phase, news) = self.look(&service, &known.notes, false).await?;
        Ok(Some(self.sighting(pool, machine, service, phase, news)))
    }

    fn sighting(
        &self,
        pool: PoolId,
        machine: MachineId,
        service: Service,
        phase: Phase,
        notes: Notes,
    ) -> Sighting {
        let details = service.details;
        let price =
            details.plan.as_ref().and_then(|plan| self.workspace.config.usd_per_hour.get(plan).copied());
        Sighting {
            ordered_at: mark::ordered_at(&machine),
            machine,
            pool,
            id: service.id,
            phase,
            sku: details.plan,
            place: details.region,
            usd_per_hour: price,
            told: None,
            expires_at: None,
            notes,
        }
    }

    /// Where a listed service stands, and what is new about it.
    async fn look(
        &self,
        service: &Service,
        notes: &Notes,
        inspect: bool,
    ) -> Result<(Phase, Notes), CallError> {
        if service.is_suspended() {
            return Ok((wire::suspended(service), Notes::new()));
        }
        let up = || service.details.url.clone().map_or(Phase::Starting, Phase::Up);
        if noted(notes, note::LIVE).is_some() {
            let is_empty = inspect && self.workspace.instances(&service.id).await? == 0;
            let phase = if is_empty { Phase::Broken("no instance is listed".to_owned()) } else { up() };
            return Ok((phase, Notes::new()));
        }
        let rollout = wire::rollout(&self.workspace.deploys(&service.id).await?, notes);
        let mut news = Notes::new();
        if let Some(awaited) = rollout.awaited.filter(|_| noted(notes, note::DEPLOY).is_none()) {
            news.insert(note::DEPLOY.to_owned(), awaited);
        }
        let phase = match rollout.state {
            RolloutState::UnderWay => Phase::Starting,
            RolloutState::Failed(status) => Phase::Broken(status),
            RolloutState::Unknown(status) => Phase::Unknown(status),
            RolloutState::Live(deploy) => {
                news.insert(note::LIVE.to_owned(), deploy);
                up()
            }
        };
        Ok((phase, news))
    }

    async fn quotes(&self, id: &PoolId) -> Result<Vec<Quote>, CallError> {
        let pool = self.workspace.pool(id)?;
        let usd_per_hour = self.workspace.usd_per_hour(&pool.sku)?;
        // Checks the key, and whether it opens this workspace.
        self.workspace.rest.get(&format!("/owners/{}", self.workspace.config.owner)).await?;
        let quote = |place: &String| Quote {
            place: place.clone(),
            sku: pool.sku.clone(),
            usd_per_hour,
            // A suspended service costs nothing, and we attach no disks.
            parked_usd_per_hour: UsdNanos::ZERO,
            available: None,
        };
        Ok(pool.places.iter().map(quote).collect())
    }

    async fn delete(&self, machine: &Known) -> Result<Ending, CallError> {
        let id = match machine.id.as_deref().or_else(|| noted(&machine.notes, note::SERVICE)) {
            Some(id) => id.to_owned(),
            None => match self
                .workspace
                .find(&self.workspace.marks.name(&machine.pool, &machine.machine)?)
                .await?
            {
                Some(service) => service.id,
                // Nothing is there yet; whether nothing will come is for the list to say.
                None => return Ok(Ending::Accepted),
            },
        };
        match self.workspace.rest.call(Budget::Writes, Method::DELETE, &format!("/services/{id}"), None).await
        {
            // The page of a deleted service says at once that there is none.
            Ok(_) => match self.workspace.rest.get(&format!("/services/{id}")).await {
                Err(refusal) if refusal.is_gone() => Ok(Ending::Gone),
                Ok(_) | Err(_) => Ok(Ending::Accepted),
            },
            Err(refusal) if refusal.is_gone() => Ok(Ending::Gone),
            Err(refusal) if refusal.is(StatusCode::CONFLICT) => Ok(Ending::NotNow),
            Err(refusal) => Err(refusal.error),
        }
    }

    async fn suspend(&self, machine: &Known) -> Result<(), CallError> {
        let id = self.workspace.id_of(machine).await?;
        let path = format!("/services/{id}/suspend");
        let Err(refusal) = self.workspace.rest.call(Budget::Writes, Method::POST, &path, None).await else {
            return Ok(());
        };
        // A repeated call may be refused because the first one was carried out.
        if refusal.is(StatusCode::BAD_REQUEST) && self.workspace.service(&id).await?.is_suspended() {
            return Ok(());
        }
        Err(refusal.error)
    }
}

impl Landlord for Render {
    fn rules(&self) -> Rules {
        Rules {
            provider: "render",
            list_every: Duration::from_secs(15),
            looks: 3,
            looks_span: Duration::from_secs(60),
            // Pulling the image and loading the model; a deploy whose health check fails is given up after 15 minutes.
            start_within: Duration::from_secs(900),
            broken_for: Duration::from_secs(120),
            billed: Billed::FromOrder,
            unit: Duration::from_secs(1),
            parking: Parking::Offered,
        }
    }

    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>> {
        self.quotes(pool).boxed()
    }

    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(self.workspace.look_over())
    }

    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>> {
        self.workspace.carry_out(order, steps).boxed()
    }

    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>> {
        self.census(known).boxed()
    }

    fn end<'a>(
        &'a self,
        machine: &'a Known,
        _steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ending, CallError>> {
        self.delete(machine).boxed()
    }

    fn park<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        self.suspend(machine).boxed()
    }

    fn wake<'a>(&'a self, machine: &'a Known, steps: &'a dyn Steps) -> BoxFuture<'a, Result<(), CallError>> {
        self.workspace.unpark(machine, steps).boxed()
    }
}
