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
mod shop;

use std::{io, sync::Arc, time::Duration};

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
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    door, graphql,
    meter::{BilledFrom, BilledUntil, Invoice, Tariff},
};
pub use shop::RailwayConfig;

use run::Trouble;
use shop::Shop;

/// A simulated project at Railway.
#[derive(Clone, Debug)]
pub struct Railway {
    shop: Arc<Shop>,
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
        let shop = Shop::new(Arc::clone(&account), config);
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
