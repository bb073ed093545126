//! Railway's GraphQL API, and its edge.
//!
//! Faults are set by the names of root fields: `serviceCreate`, `serviceInstanceUpdate`, `deployments`, … A machine of the
//! account is a deployment. Nothing is billed by time: [`Railway::invoice`] reckons what services used.
//!
//! | what | how |
//! |---|---|
//! | errors | status 200 with `errors`; those of parsing and validation status 400 with `extensions.code` |
//! | the edge's limit | a URL without a query string gets 429 and `error code: 1015`, plain |
//! | keys | `Authorization: Bearer` for accounts, `Project-Access-Token` for projects, never both |
//! | settings | written by one call, in force with the next deployment |

mod deployments;
mod edge;
mod run;
mod schema;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    door, graphql,
    meter::{BilledFrom, BilledUntil, Invoice, Tariff},
};
use crate::limit::Limit;
use deployments::Service;
use run::Trouble;

/// How a simulated Railway behaves.
#[derive(Clone, Debug)]
pub struct RailwayConfig {
    /// The token of the account.
    pub account_token: String,
    /// The token of the project.
    pub project_token: String,
    /// The project's id.
    pub project: String,
    /// The environment's id.
    pub environment: String,
    /// The regions: name, and the one that took its place.
    pub regions: Vec<(String, Option<String>)>,
    /// Calls an hour and a second.
    pub limits: (u32, u32),
    /// After how long without traffic a deployment falls asleep whose settings say so.
    pub sleeps_after: Duration,
    /// Seconds in the unit in which CPU and memory are measured.
    pub usage_unit_s: u64,
    /// Thousandths of a vCPU that a running machine uses.
    pub milli_vcpus_used: u64,
    /// Thousandths of a GB that a running machine uses.
    pub milli_gb_used: u64,
    /// Nano-dollars for a vCPU and a GB of memory for 30 days, and a GB sent.
    pub prices_nanos: [u64; 3],
    /// Whether the query of use answers at all.
    pub tells_usage: bool,
}

impl Default for RailwayConfig {
    /// The Hobby plan, minutes as units, 10 minutes until sleep.
    fn default() -> Self {
        let region = |name: &str| (name.to_owned(), None);
        Self {
            account_token: "account-token".to_owned(),
            project_token: "project-token".to_owned(),
            project: "project-1".to_owned(),
            environment: "environment-1".to_owned(),
            regions: ["us-east4-eqdc4a", "europe-west4-drams3a", "us-west2"].map(region).to_vec(),
            limits: (1_000, 1_000),
            sleeps_after: Duration::from_secs(600),
            usage_unit_s: 60,
            milli_vcpus_used: 500,
            milli_gb_used: 3_000,
            prices_nanos: [20_000_000_000, 10_000_000_000, 50_000_000],
            tells_usage: true,
        }
    }
}

/// A simulated project at Railway.
#[derive(Clone, Debug)]
pub struct Railway {
    shop: Arc<Shop>,
}

#[derive(Debug)]
struct Shop {
    account: Arc<Account>,
    config: RailwayConfig,
    hourly: Limit,
    secondly: Limit,
    state: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    services: Vec<Service>,
    /// Answered calls, for the headers.
    calls: u32,
    /// Raised for each id.
    ids: u64,
}

#[derive(Deserialize)]
struct Request {
    query: String,
    #[serde(default)]
    variables: Option<Map<String, Value>>,
}

impl Railway {
    /// Starts the control API; it answers when this returns.
    pub async fn start(config: RailwayConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let tariff = Tariff { unit: Duration::ZERO, from: BilledFrom::Never, until: BilledUntil::Over };
        let (account, listener) = door::open(tariff, shutdown).await?;
        let shop = Arc::new(Shop {
            account: Arc::clone(&account),
            hourly: Limit::new(config.limits.0, Duration::from_secs(3_600)),
            secondly: Limit::new(config.limits.1, Duration::from_secs(1)),
            config,
            state: Mutex::default(),
        });
        let routes = Router::new().route("/graphql/v2", post(graphql)).with_state(Arc::clone(&shop));
        door::serve(&account, listener, routes, name_of);
        let sleeper = Arc::clone(&shop);
        account.tasks.spawn(async move { sleeper.put_to_sleep().await });
        Ok(Self { shop })
    }

    /// What all rented accounts have: machines (here deployments), faults, log.
    pub fn account(&self) -> &Arc<Account> {
        &self.shop.account
    }

    /// The URL of the API.
    pub fn url(&self) -> String {
        format!("{}/graphql/v2", self.shop.account.url())
    }

    /// What the account owes so far: a line per service.
    pub fn invoice(&self) -> Invoice {
        for service in self.shop.services().iter().filter(|service| !service.foreign) {
            if let Some(first) = service.deployments.first() {
                self.shop.account.tell(first, "usage", self.shop.cost(service));
            }
        }
        self.shop.account.invoice()
    }

    /// Our services that are not deleted: id and name.
    pub fn services(&self) -> Vec<(String, String)> {
        let services = self.shop.services().into_iter();
        let ours = services.filter(|service| !service.foreign && service.deleted_us.is_none());
        ours.map(|service| (service.id, service.name)).collect()
    }

    /// What was written about a service, and its variables.
    pub fn settings(&self, service: &str) -> Option<(Value, Value, Value)> {
        let services = self.shop.services();
        let service = services.iter().find(|one| one.id == service)?;
        Some((service.settings.clone(), service.limits.clone(), json!(service.variables)))
    }

    /// A person gives a service another name.
    pub fn rename(&self, service: &str, name: &str) {
        if let Some(service) = self.shop.state().services.iter_mut().find(|one| one.id == service) {
            name.clone_into(&mut service.name);
        }
    }

    /// A person deploys a service once more.
    pub fn redeploy(&self, service: &str) {
        // A service that cannot be deployed stays as it is.
        let _ = self.shop.deploy(service);
    }

    /// Puts a service of somebody else, with a deployment that stands, into the project.
    pub fn add_foreign(&self, name: &str) {
        let deployment = self.shop.next_id(9);
        self.shop.account.add_foreign(&deployment, "service", "us-west2", Value::Null);
        let mut service = self.shop.new_service(name);
        (service.foreign, service.deployments) = (true, vec![deployment]);
        self.shop.state().services.push(service);
    }
}

impl Shop {
    fn state(&self) -> MutexGuard<'_, Shelf> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn services(&self) -> Vec<Service> {
        self.state().services.clone()
    }

    fn new_service(&self, name: &str) -> Service {
        Service {
            id: self.next_id(1),
            name: name.to_owned(),
            created_us: self.account.now_us(),
            deleted_us: None,
            foreign: false,
            variables: BTreeMap::new(),
            settings: json!({}),
            limits: Value::Null,
            domain: None,
            deployments: Vec::new(),
            last_traffic: Instant::now(),
            sleeps: false,
            sent_gb_billionths: 0,
        }
    }

    /// An id that looks like those of Railway.
    fn next_id(&self, kind: u8) -> String {
        let number = {
            let mut state = self.state();
            state.ids += 1;
            state.ids
        };
        format!("{kind:08x}-0000-4000-8000-{number:012x}")
    }

    fn traffic(&self, place: usize) {
        if let Some(service) = self.state().services.get_mut(place) {
            service.last_traffic = Instant::now();
            // A kilobyte, whatever it was.
            service.sent_gb_billionths += 1_000;
        }
    }

    async fn put_to_sleep(&self) {
        let pause = (self.config.sleeps_after / 4).max(Duration::from_millis(1));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.account.shutdown.cancelled() => return,
            }
            for service in self.services().iter().filter(|service| service.sleeps) {
                let idle = service.last_traffic.elapsed() >= self.config.sleeps_after;
                let running = service.deployments.iter().filter(|id| self.account.server(id).is_some());
                for id in running.filter(|_| idle) {
                    self.account.park(id, "sleep");
                }
            }
        }
    }

    /// Whether the key opens the project.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match (header("authorization"), header("project-access-token")) {
            (Some(bearer), None) => bearer.strip_prefix("Bearer ") == Some(&self.config.account_token),
            (None, Some(token)) => token == self.config.project_token,
            (None, None) | (Some(_), Some(_)) => false,
        }
    }

    fn limited(&self) -> Result<(), u64> {
        let now = Instant::now();
        self.hourly.take(now).and_then(|()| self.secondly.take(now))
    }
}

/// The root field of a call.
fn name_of(_: &Method, _: &Uri, body: &[u8]) -> String {
    let request = serde_json::from_slice::<Request>(body).ok();
    let operation = request.and_then(|request| graphql::parse(&request.query).ok());
    operation.and_then(|operation| Some(operation.fields.first()?.name.clone())).unwrap_or_default()
}

/// `POST /graphql/v2`
async fn graphql(
    State(shop): State<Arc<Shop>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if query.is_none() {
        return (StatusCode::TOO_MANY_REQUESTS, "error code: 1015").into_response();
    }
    let most = shop.config.limits.0;
    let left = {
        let mut state = shop.state();
        state.calls += 1;
        most.saturating_sub(state.calls)
    };
    let mut response = match shop.limited() {
        Ok(()) => answer(&shop, &headers, &body),
        Err(wait) => {
            let errors = json!({ "errors": [{ "message": "Rate limit exceeded", "traceId": "0" }] });
            let retry = [("retry-after", wait.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, retry, axum::Json(errors)).into_response()
        }
    };
    for (name, value) in
        [("x-ratelimit-limit", most), ("x-ratelimit-remaining", left), ("x-ratelimit-reset", 3_600)]
    {
        response.headers_mut().insert(name, value.into());
    }
    response
}

fn answer(shop: &Arc<Shop>, headers: &HeaderMap, body: &[u8]) -> Response {
    let refuse = |code: &str, message: String| {
        let errors =
            json!({ "errors": [{ "message": message, "extensions": { "code": code }, "traceId": "0" }] });
        (StatusCode::BAD_REQUEST, axum::Json(errors)).into_response()
    };
    let request: Request = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return refuse("BAD_USER_INPUT", error.to_string()),
    };
    let operation = match graphql::parse(&request.query) {
        Ok(operation) => operation,
        Err(error) => return refuse("GRAPHQL_PARSE_FAILED", error),
    };
    let variables = request.variables.unwrap_or_default();
    if let Err(error) = schema::check(&operation, &variables) {
        return refuse("GRAPHQL_VALIDATION_FAILED", error);
    }
    let (mut data, mut errors) = (Map::new(), Vec::new());
    shop.replace_old();
    for field in &operation.fields {
        let arguments: Map<String, Value> = field
            .arguments
            .iter()
            .filter_map(|(name, argument)| Some((name.clone(), argument.value(&variables)?)))
            .collect();
        let got = if shop.knows(headers) {
            shop.run(&field.name, &arguments)
        } else {
            Err(Trouble("Not Authorized".to_owned()))
        };
        match got {
            Ok(value) => {
                data.insert(field.key().to_owned(), schema::project(&value, &field.fields));
            }
            Err(Trouble(message)) => {
                data.insert(field.key().to_owned(), Value::Null);
                let code = json!({ "code": "INTERNAL_SERVER_ERROR" });
                errors.push(
                    json!({ "message": message, "path": [field.key()], "extensions": code, "traceId": "0" }),
                );
            }
        }
    }
    let mut whole = json!({ "data": data });
    if !errors.is_empty() {
        if data.values().all(Value::is_null) {
            whole["data"] = Value::Null;
        }
        whole["errors"] = errors.into();
    }
    axum::Json(whole).into_response()
}
