//! From deployments to machines: one service is one machine, and its newest deployment says where it stands.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{MachineId, PoolId, UsdNanos};

use crate::{
    landlord::{Known, Notes, Phase, Sighting, Stray, Told},
    landlords::{
        mark::{self, Marks},
        railway::wire::{Deployment, Service, phase},
    },
};

/// Notes of a row.
pub(crate) mod note {
    /// That the service was asked for; its name may be taken by us.
    pub(crate) const ASKED: &str = "asked";
    /// The service's id.
    pub(crate) const SERVICE: &str = "service";
    /// That its settings were written.
    pub(crate) const SETTINGS: &str = "settings";
    /// Its domain.
    pub(crate) const DOMAIN: &str = "domain";
    /// The deployment that was asked for.
    pub(crate) const DEPLOYMENT: &str = "deployment";
}

/// What is known of one service.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) machine: MachineId,
    pub(crate) pool: PoolId,
    pub(crate) service: Service,
    /// The newest first.
    pub(crate) deployments: Vec<Deployment>,
    /// What its row says, where there is one.
    pub(crate) known: Option<Known>,
}

/// Sorts deployments by machine. Those of others are left out.
///
/// A service whose id stands in a row stays that row's machine, even when a person gave it another name.
pub(crate) fn sort(deployments: Vec<Deployment>, known: &[Known], marks: &Marks) -> Vec<Found> {
    let rows: BTreeMap<&str, &Known> =
        known.iter().filter_map(|known| Some((service_of(known)?, known))).collect();
    let by_machine: BTreeMap<&MachineId, &Known> =
        known.iter().map(|known| (&known.machine, known)).collect();
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for mut deployment in deployments {
        let Some(service) = deployment.service.take() else { continue };
        if let Some(found) = found.get_mut(&service.id) {
            found.deployments.push(deployment);
            continue;
        }
        let row = rows.get(service.id.as_str()).copied();
        let whose =
            row.map(|row| (row.pool.clone(), row.machine.clone())).or_else(|| marks.read(&service.name));
        let Some((pool, machine)) = whose else { continue };
        let known = row.or_else(|| by_machine.get(&machine).copied()).cloned();
        let id = service.id.clone();
        found.insert(id, Found { machine, pool, service, deployments: vec![deployment], known });
    }
    let mut found: Vec<Found> = found.into_values().collect();
    for found in &mut found {
        found.deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.created_at));
    }
    found
}

/// Services with our mark, for pools that are not configured here and in no row.
pub(crate) fn strays(deployments: &[Deployment], known: &[Known], marks: &Marks) -> Vec<Stray> {
    let rows: BTreeSet<&str> = known.iter().filter_map(service_of).collect();
    let services = deployments.iter().filter(|deployment| deployment.status != "REMOVED");
    let services = services.filter_map(|deployment| deployment.service.as_ref());
    let stray = |service: &&Service| {
        service.deleted_at.is_none() && !rows.contains(service.id.as_str()) && marks.is_stray(&service.name)
    };
    let strays: BTreeSet<Stray> =
        services.filter(stray).map(|service| Stray { id: service.id.clone(), pool: None }).collect();
    strays.into_iter().collect()
}

/// The id of a row's service.
pub(crate) fn service_of(known: &Known) -> Option<&str> {
    known.id.as_deref().or_else(|| known.notes.get(note::SERVICE).map(String::as_str))
}

impl Found {
    /// The deployment that decides.
    pub(crate) fn newest(&self) -> Option<&Deployment> {
        self.deployments.first()
    }

    /// The deployment that we asked for and that the list does not show: it lags, or a later one took its place.
    pub(crate) fn missing(&self) -> Option<&str> {
        let awaited = self.known.as_ref()?.notes.get(note::DEPLOYMENT)?;
        let listed = self.deployments.iter().any(|deployment| deployment.id == *awaited);
        (!listed).then_some(awaited)
    }

    /// Where it is reached.
    pub(crate) fn host(&self) -> Option<&str> {
        let noted = self.known.as_ref().and_then(|known| known.notes.get(note::DOMAIN));
        let told = || self.newest().and_then(|deployment| deployment.static_url.as_ref());
        noted.or_else(told).map(String::as_str)
    }

    /// The machine as it is seen. `lags` when the deployment that we asked for is newer than all that is listed.
    pub(crate) fn sighting(self, scheme: &str, lags: bool, charged: Option<UsdNanos>) -> Sighting {
        let url = self.host().map(|host| format!("{scheme}://{host}"));
        let phase = match self.newest() {
            // An older deployment that still answers is not what was ordered.
            _ if lags => Phase::Starting,
            Some(newest) => phase(newest, url),
            None => Phase::Starting,
        };
        let mut sighting = self.seen(phase, charged);
        if let Some(host) = sighting.1 {
            sighting.0.notes.insert(note::DOMAIN.to_owned(), host);
        }
        sighting.0
    }

    /// A machine whose service or deployment is no more.
    pub(crate) fn ended(self, charged: Option<UsdNanos>) -> Sighting {
        let phase = match (&self.service.deleted_at, self.newest()) {
            (Some(_), _) => Phase::Gone,
            (None, Some(newest)) => phase(newest, None),
            (None, None) => Phase::Starting,
        };
        self.seen(phase, charged).0
    }

    /// The sighting, and the host where it is news.
    fn seen(self, phase: Phase, charged: Option<UsdNanos>) -> (Sighting, Option<String>) {
        let noted = self.known.as_ref().is_some_and(|known| known.notes.contains_key(note::DOMAIN));
        let host = self.host().filter(|_| !noted).map(str::to_owned);
        let notes: Notes = match &self.known {
            Some(known) if known.notes.contains_key(note::SERVICE) => Notes::new(),
            Some(_) | None => Notes::from([(note::SERVICE.to_owned(), self.service.id.clone())]),
        };
        let sighting = Sighting {
            ordered_at: mark::ordered_at(&self.machine),
            place: self.known.as_ref().map(|known| known.place.clone()),
            machine: self.machine,
            pool: self.pool,
            id: self.service.id,
            phase,
            sku: None,
            usd_per_hour: None,
            told: charged.map(|charged| Told { charged_usd: Some(charged), ..Told::default() }),
            expires_at: None,
            notes,
        };
        (sighting, host)
    }
}
