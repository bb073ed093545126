//! Fly.io Machines: container images as micro-VMs, by the second, parked when they are not needed.
//!
//! A Machine is named after its order, and a name is unique in its app: a creation that was carried out without an answer is
//! refused the next time with 409, which names the Machine, and is taken over. Order, pool and price travel in metadata.
//! What a Machine costs is read from its events ([`spans`]), so that stops and starts by anybody are billed as they were.
//!
//! An end is two calls, so that the last event before the destruction is seen: first `stop`, then, once it is stopped,
//! `DELETE ?force=true`. A Machine that does not answer to `stop`, for instance because its host is gone, is destroyed at once.
//!
//! Machines are reached by their private addresses, so keeper and workers run inside the organisation's network (or a
//! WireGuard peer of it). Fly's own proxy would choose the Machine itself. GPUs ended on 2026-08-01 and are refused.

mod config;
mod spans;
mod survey;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::{Client, Method, StatusCode, header};
use schemas::{MachineId, Micros, PoolId, UsdNanos};
use serde_json::{Value, json};

pub use self::config::{FlyConfig, FlyPlace, FlyPool, Guest, Park};
use self::wire::{Failure, Machine};
use super::{
    http::{self, Answer},
    pace::Pace,
};
use crate::landlord::{
    Billed, CallError, Census, Ending, Known, Landlord, Notes, Order, Ordered, Parking, Phase, Quote, Rules,
    Sighting, Steps, Stray, Told,
};
use crate::survey::Survey;

/// Callers that wait for their turn wait at most so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a 429 that names no wait.
const REST: Duration = Duration::from_secs(1);

/// Machines that a list did not show and that are asked for one by one, in one look. The rest waits for the next look.
const LOOK_UPS: usize = 20;

/// A Machine that stops for longer than its own time-out and this is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Metadata of a Machine.
const POOL: &str = "beacon_pool";
const ORDER: &str = "beacon_order";
const ORDERED_AT: &str = "beacon_ordered_at";
const USD_PER_HOUR: &str = "beacon_usd_per_hour";
const PARKED_USD_PER_HOUR: &str = "beacon_parked_usd_per_hour";

/// A note in a machine's row: what it cost until when, by closed spans.
const SETTLED: &str = "settled";
/// A note: the app it is in. A pool that leaves the configuration takes its app along, and its machines must be ended all the same.
const APP: &str = "app";
/// How long a Machine gets to stop whose pool is not configured any more.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

/// One account at Fly.io: an organisation's token, and the apps of its pools.
#[derive(Debug)]
pub struct Fly {
    config: FlyConfig,
    client: Client,
    apps: BTreeMap<String, App>,
    /// For apps that only rows know.
    other_apps: App,
}

/// The documented rates are per action and object. What concerns a Machine is rare enough.
#[derive(Debug)]
struct App {
    creations: Pace,
    lists: Pace,
}

impl Fly {
    /// Refuses a configuration that cannot work.
    pub fn new(config: FlyConfig) -> Result<Self, CallError> {
        config.check()?;
        let pace = |what| Pace::new(what, config.pace, PATIENCE, REST);
        let app = |pool: &FlyPool| {
            (pool.app.clone(), App { creations: pace("fly create"), lists: pace("fly list") })
        };
        let other_apps = App { creations: pace("fly create"), lists: pace("fly list") };
        Ok(Self {
            client: http::client()?,
            apps: config.pools.values().map(app).collect(),
            other_apps,
            config,
        })
    }

    fn pool(&self, pool: &PoolId) -> Result<&FlyPool, CallError> {
        let unknown = || CallError::Misconfigured(format!("fly: no pool {pool} is configured here"));
        self.config.pools.get(pool).ok_or_else(unknown)
    }

    fn app(&self, name: &str) -> &App {
        self.apps.get(name).unwrap_or(&self.other_apps)
    }

    /// The app that a machine is in: as noted, else that of its pool.
    fn app_of<'a>(&'a self, machine: &'a Known) -> Result<&'a str, CallError> {
        match machine.notes.get(APP) {
            Some(app) => Ok(app),
            None => self.pool(&machine.pool).map(|pool| pool.app.as_str()),
        }
    }

    /// Sends a call. A refusal for its rate is an error, whatever its body.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Answer, CallError> {
        let bearer = self.config.token.header("Bearer ");
        let bearer =
            bearer.ok_or_else(|| CallError::Misconfigured("fly: no header can carry the token".into()))?;
        let url = format!("{}{path}", self.config.base_url);
        let mut request = self.client.request(method, url).header(header::AUTHORIZATION, bearer);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = http::call_within(request, within).await?;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            let wait = answer.retry_after().unwrap_or(REST);
            return Err(CallError::RateLimited(format!("fly {path}"), Some(wait)));
        }
        Ok(answer)
    }

    async fn paced(
        &self,
        pace: &Pace,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        pace.turn().await?;
        let answer = self.send(method, path, body, http::CALL_WITHIN).await;
        match &answer {
            Err(CallError::RateLimited(_, wait)) => {
                pace.refused(*wait);
            }
            Ok(_) => pace.accepted(),
            Err(_) => {}
        }
        answer
    }

    /// An answer that is no success, as an error.
    fn failed(&self, what: &str, answer: &Answer) -> CallError {
        let shown = self.config.token.scrub(&answer.text());
        Failure::read(answer).as_error(&format!("fly {what}"), &shown)
    }

    async fn read(&self, path: &str, what: &str) -> Result<Answer, CallError> {
        let answer = self.send(Method::GET, path, None, http::CALL_WITHIN).await?;
        if answer.status == StatusCode::OK { Ok(answer) } else { Err(self.failed(what, &answer)) }
    }

    async fn quote(&self, pool: &PoolId) -> Result<Vec<Quote>, CallError> {
        let pool = self.pool(pool)?;
        self.read(&format!("/apps/{}", pool.app), &format!("app {}", pool.app)).await?;
        let regions = wire::regions(&self.read("/platform/regions", "regions").await?)?;
        let free = self.free(pool).await?;
        let quote = |place: &FlyPlace| {
            if !regions.contains(&place.region) {
                let there = regions.join(", ");
                let text = format!(
                    "fly: region {} does not exist or is deprecated; there are {there}",
                    place.region
                );
                return Err(CallError::Misconfigured(text));
            }
            Ok(Quote {
                place: place.region.clone(),
                sku: pool.guest.sku(),
                usd_per_hour: place.usd_per_hour,
                parked_usd_per_hour: place.parked_usd_per_hour,
                available: free.as_ref().map(|free| free.contains(&place.region)),
            })
        };
        pool.places.iter().map(quote).collect()
    }

    /// The regions in which one such Machine has room now; `None` when no organisation is configured to ask for.
    async fn free(&self, pool: &FlyPool) -> Result<Option<Vec<String>>, CallError> {
        let Some(org) = &self.config.org else { return Ok(None) };
        let regions: Vec<&str> = pool.places.iter().map(|place| place.region.as_str()).collect();
        let body = json!({
            "org_slug": org, "region": regions.join(","), "compute": pool.guest.body(), "count": 1,
        });
        let answer = self.send(Method::POST, "/platform/placements", Some(&body), http::CALL_WITHIN).await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed("placements", &answer));
        }
        wire::placements(&answer).map(Some)
    }

    async fn create(&self, order: &Order, steps: &dyn Steps) -> Result<Ordered, CallError> {
        let pool = self.pool(&order.pool)?;
        let place = pool.places.iter().find(|place| place.region == order.place);
        let place = place.filter(|_| order.sku == pool.guest.sku()).ok_or_else(|| {
            let text = format!("fly: {} in {} is not what pool {} rents", order.sku, order.place, order.pool);
            CallError::Misconfigured(text)
        })?;
        if place.usd_per_hour > order.usd_per_hour_max {
            return Err(CallError::Price { now: place.usd_per_hour, max: order.usd_per_hour_max });
        }
        let (path, body) = (format!("/apps/{}/machines", pool.app), create_body(pool, place, order));
        let answer = self.paced(&self.app(&pool.app).creations, Method::POST, &path, Some(&body)).await?;
        let id = if answer.status == StatusCode::OK {
            wire::machine(&answer)?.id
        } else if let Some(id) = Failure::read(&answer).taken_by() {
            // An earlier creation for this very order was carried out.
            self.adopt(&pool.app, &id, &order.machine).await?
        } else {
            return Err(self.failed("create", &answer));
        };
        if !steps.id(&id).await {
            return Err(CallError::Unclear(format!("fly machine {id} was created, and its id not stored")));
        }
        Ok(Ordered { id, notes: Notes::from([(APP.to_owned(), pool.app.clone())]) })
    }

    /// Makes sure that a Machine of our name is ours.
    async fn adopt(&self, app: &str, id: &str, machine: &MachineId) -> Result<String, CallError> {
        let answer = self.read(&format!("/apps/{app}/machines/{id}"), "get").await.map_err(|error| {
            CallError::Unclear(format!("the name is taken by {id}, which does not show: {error}"))
        })?;
        if wire::machine(&answer)?.metadata(ORDER) == Some(machine.as_str()) {
            return Ok(id.to_owned());
        }
        let name = name_of(machine);
        Err(CallError::Misconfigured(format!("fly: the machine {id} has the name {name} and is not ours")))
    }

    async fn census(&self, known: &[Known]) -> Result<Census, CallError> {
        let mut census = Census { whole: true, ..Census::default() };
        let mut failed = None;
        let noted = known.iter().filter_map(|known| self.app_of(known).ok());
        let apps: BTreeSet<&str> = self.apps.keys().map(String::as_str).chain(noted).collect();
        for app in apps {
            match self.list(app, &self.app(app).lists, known).await {
                Ok(mut of_app) => {
                    census.sightings.append(&mut of_app.sightings);
                    census.unanswered.append(&mut of_app.unanswered);
                    census.strays.append(&mut of_app.strays);
                    census.whole &= of_app.whole;
                }
                Err(error) => {
                    let in_app = |known: &&Known| self.app_of(known).is_ok_and(|of| of == app);
                    census.unanswered.extend(known.iter().filter(in_app).map(|known| known.machine.clone()));
                    census.whole = false;
                    failed = Some(error);
                }
            }
        }
        match failed {
            // Nothing at all was seen: the error says more than an empty list.
            Some(error) if census.sightings.is_empty() => Err(error),
            Some(_) | None => Ok(census),
        }
    }

    async fn list(&self, app: &str, pace: &Pace, known: &[Known]) -> Result<Census, CallError> {
        let path = format!("/apps/{app}/machines");
        let answer = self.paced(pace, Method::GET, &path, None).await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed("list", &answer));
        }
        let (list, now) = (wire::machines(&answer)?, wire::date(&answer));
        let (mut sightings, mut strays) = (Vec::new(), Vec::new());
        for machine in &list.machines {
            match self.sighting(app, machine, known, now) {
                Some(sighting) => sightings.push(sighting),
                None => strays.extend(stray(machine)),
            }
        }
        // What the list does not show may have been destroyed a moment ago: its last events tell what it cost.
        let missing = known.iter().filter(|known| {
            self.app_of(known).is_ok_and(|of| of == app)
                && known.id.is_some()
                && !sightings.iter().any(|sighting| Some(&sighting.id) == known.id.as_ref())
        });
        let (mut unanswered, missing): (Vec<MachineId>, Vec<&Known>) = (Vec::new(), missing.collect());
        for (index, known) in missing.into_iter().enumerate() {
            if index >= LOOK_UPS {
                unanswered.push(known.machine.clone());
                continue;
            }
            let id = known.id.as_deref().unwrap_or_default();
            match self.send(Method::GET, &format!("{path}/{id}"), None, http::CALL_WITHIN).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let machine = wire::machine(&answer)?;
                    sightings.extend(self.sighting(
                        app,
                        &machine,
                        std::slice::from_ref(known),
                        wire::date(&answer),
                    ));
                }
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => {}
                // Its last events are still to be read: that it is not listed says nothing yet.
                Ok(_) | Err(_) => unanswered.push(known.machine.clone()),
            }
        }
        Ok(Census { sightings, whole: list.whole, unanswered, strays })
    }

    /// What a Machine is to us; `None` for one without our mark. `now` is the provider's clock.
    fn sighting(
        &self,
        app: &str,
        machine: &Machine,
        known: &[Known],
        now: Option<Micros>,
    ) -> Option<Sighting> {
        let marked = || {
            let order: MachineId = machine.metadata(ORDER)?.parse().ok()?;
            Some((order, machine.metadata(POOL)?.parse::<PoolId>().ok()?))
        };
        // A Machine on an unreachable host comes without its configuration, and so without its metadata.
        let row = known.iter().find(|known| known.id.as_deref() == Some(&machine.id));
        let (order, pool) = marked().or_else(|| row.map(|row| (row.machine.clone(), row.pool.clone())))?;
        let settings = self.config.pools.get(&pool);
        // A row's machine is told of also when its pool left the configuration.
        let ours = row.is_some() || known.iter().any(|known| known.machine == order);
        if settings.is_none() && !ours {
            return None;
        }
        let stands = |place: &&FlyPlace| Some(&place.region) == machine.region.as_ref();
        let place = settings.and_then(|settings| settings.places.iter().find(stands));
        let marked_price = |key: &str| machine.metadata(key).and_then(|text| text.parse::<UsdNanos>().ok());
        let running = marked_price(USD_PER_HOUR).or(place.map(|place| place.usd_per_hour));
        let parked = marked_price(PARKED_USD_PER_HOUR).or(place.map(|place| place.parked_usd_per_hour));
        let settled = row.and_then(|row| row.notes.get(SETTLED)).and_then(|note| spans::Settled::read(note));
        let charged = running.zip(parked).and_then(|(running, parked)| {
            spans::charge(
                &machine.events(),
                spans::Prices { running, parked },
                settled.unwrap_or_default(),
                now,
            )
        });
        let mut notes = Notes::from([(APP.to_owned(), app.to_owned())]);
        if let Some(charged) = &charged {
            notes.insert(SETTLED.to_owned(), charged.settled.note());
        }
        Some(Sighting {
            machine: order,
            pool,
            id: machine.id.clone(),
            phase: machine.phase(|id, ip| settings.and_then(|settings| settings.address_of(id, ip))),
            sku: settings.map(|settings| settings.guest.sku()),
            place: machine.region.clone(),
            usd_per_hour: running,
            ordered_at: machine.metadata(ORDERED_AT).and_then(|text| text.parse().ok()).map(Micros::new),
            told: charged.map(|charged| Told { charged_usd: Some(charged.total), ..Told::default() }),
            expires_at: None,
            notes,
        })
    }

    /// The path of a machine, and what it looks like now; `None` if it is surely gone.
    async fn look(
        &self,
        machine: &Known,
        id: &str,
    ) -> Result<Option<(String, Machine, Option<Micros>)>, CallError> {
        let path = format!("/apps/{}/machines/{id}", self.app_of(machine)?);
        let answer = self.send(Method::GET, &path, None, http::CALL_WITHIN).await?;
        match answer.status {
            StatusCode::OK => Ok(Some((path, wire::machine(&answer)?, wire::date(&answer)))),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.failed("get", &answer)),
        }
    }

    async fn end_once(&self, machine: &Known, steps: &dyn Steps) -> Result<Ending, CallError> {
        let id = match &machine.id {
            Some(id) => id.clone(),
            None => match self.find(machine).await? {
                Some(id) if steps.id(&id).await => id,
                Some(id) => {
                    return Err(CallError::Unclear(format!("fly machine {id}: its id was not stored")));
                }
                // Lists lag: an order without an id may show yet.
                None => return Ok(Ending::NotNow),
            },
        };
        let Some((path, seen, now)) = self.look(machine, &id).await? else { return Ok(Ending::Gone) };
        let stop_within = self.pool(&machine.pool).map_or(STOP_TIMEOUT, |pool| pool.stop_timeout);
        match seen.phase(|_, _| Some(String::new())) {
            // The next list shows it once more, with what it cost at last.
            Phase::Gone => Ok(Ending::Accepted),
            Phase::Ending if seen.is_stopping(now, stop_within + STUCK_AFTER) => Ok(Ending::NotNow),
            Phase::Parked | Phase::Broken(_) | Phase::Ending => self.destroy(&path).await,
            Phase::Starting | Phase::Up(_) | Phase::Unknown(_) => {
                let timeout = format!("{}s", stop_within.as_secs());
                let body = json!({ "signal": "SIGTERM", "timeout": timeout });
                let within = self.config.change_within;
                match self.send(Method::POST, &format!("{path}/stop"), Some(&body), within).await {
                    // To be repeated: it is destroyed once it is seen to be stopped.
                    Ok(answer) if answer.status == StatusCode::OK => Ok(Ending::NotNow),
                    Ok(answer) if Failure::read(&answer).is_lease() => Ok(Ending::NotNow),
                    Err(error @ (CallError::RateLimited(..) | CallError::Unreachable(_))) => Err(error),
                    // It cannot be stopped as it is, or nobody knows: then without a goodbye.
                    Ok(_) | Err(_) => self.destroy(&path).await,
                }
            }
        }
    }

    async fn destroy(&self, path: &str) -> Result<Ending, CallError> {
        let path = format!("{path}?force=true");
        let answer = self.send(Method::DELETE, &path, None, http::CALL_WITHIN).await?;
        match answer.status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(Ending::Accepted),
            StatusCode::NOT_FOUND => Ok(Ending::Gone),
            _ if Failure::read(&answer).is_lease() => Ok(Ending::NotNow),
            _ => Err(self.failed("destroy", &answer)),
        }
    }

    /// The id of a machine whose creation did not tell it.
    async fn find(&self, machine: &Known) -> Result<Option<String>, CallError> {
        let app = self.app_of(machine)?;
        let census = self.list(app, &self.app(app).lists, std::slice::from_ref(machine)).await?;
        let of_order = |sighting: &Sighting| sighting.machine == machine.machine;
        Ok(census.sightings.into_iter().find(of_order).map(|sighting| sighting.id))
    }

    /// A change of a machine that answers nothing worth reading.
    async fn change(&self, machine: &Known, action: &str, body: Option<&Value>) -> Result<(), CallError> {
        let id = machine
            .id
            .as_deref()
            .ok_or_else(|| CallError::Unclear(format!("fly: machine {} has no id yet", machine.machine)))?;
        let path = format!("/apps/{}/machines/{id}/{action}", self.app_of(machine)?);
        let answer = self.send(Method::POST, &path, body, self.config.change_within).await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(self.failed(action, &answer)) }
    }

    async fn park_once(&self, machine: &Known) -> Result<(), CallError> {
        let pool = self.pool(&machine.pool)?;
        match pool.park {
            Park::Suspend => self.change(machine, "suspend", None).await,
            Park::Stop => {
                let timeout = format!("{}s", pool.stop_timeout.as_secs());
                let body = json!({ "signal": "SIGTERM", "timeout": timeout });
                self.change(machine, "stop", Some(&body)).await
            }
        }
    }
}

/// A Machine's name: of its order alone, so that no order makes two Machines.
fn name_of(machine: &MachineId) -> String {
    format!("beacon-{machine}")
}

fn create_body(pool: &FlyPool, place: &FlyPlace, order: &Order) -> Value {
    let mut env: BTreeMap<&str, &str> =
        pool.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    env.insert("BEACON_MACHINE", order.machine.as_str());
    if let Some(key) = &order.server_key {
        env.insert(&pool.key_env, key.expose());
    }
    let mut config = json!({
        "image": pool.image,
        "guest": pool.guest.body(),
        "env": env,
        "restart": { "policy": "on-failure", "max_retries": 3 },
        "metadata": {
            POOL: order.pool.to_string(),
            ORDER: order.machine.as_str(),
            ORDERED_AT: order.ordered_at.get().to_string(),
            USD_PER_HOUR: place.usd_per_hour.to_string(),
            PARKED_USD_PER_HOUR: place.parked_usd_per_hour.to_string(),
        },
        "stop_config": { "signal": "SIGTERM", "timeout": format!("{}s", pool.stop_timeout.as_secs()) },
    });
    if !pool.args.is_empty() {
        config["init"] = json!({ "cmd": pool.args });
    }
    json!({ "region": place.region, "name": name_of(&order.machine), "config": config })
}

/// A Machine with our mark, for a pool that is not configured here. Nothing is left to tell of one that is over.
fn stray(machine: &Machine) -> Option<Stray> {
    let over = matches!(machine.phase(|_, _| None), Phase::Gone | Phase::Ending);
    let pool = machine.metadata(POOL)?.parse().ok();
    (!over && machine.metadata(ORDER).is_some()).then(|| Stray { id: machine.id.clone(), pool })
}

impl Landlord for Fly {
    fn rules(&self) -> Rules {
        Rules {
            provider: "fly",
            list_every: Duration::from_secs(5),
            looks: 3,
            looks_span: Duration::from_secs(60),
            start_within: self.config.start_within(),
            broken_for: Duration::from_secs(60),
            billed: Billed::AsTold,
            unit: Duration::from_secs(1),
            parking: Parking::Offered,
        }
    }

    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>> {
        Box::pin(self.quote(pool))
    }

    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(self.look_over())
    }

    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>> {
        Box::pin(self.create(order, steps))
    }

    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>> {
        Box::pin(self.census(known))
    }

    fn end<'a>(
        &'a self,
        machine: &'a Known,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ending, CallError>> {
        Box::pin(self.end_once(machine, steps))
    }

    fn cordon<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.change(machine, "cordon", None))
    }

    fn park<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.park_once(machine))
    }

    fn wake<'a>(&'a self, machine: &'a Known, _: &'a dyn Steps) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async {
            self.change(machine, "start", None).await?;
            // It was taken out of the proxy when it was drained.
            self.change(machine, "uncordon", None).await.or(Ok(()))
        })
    }
}
