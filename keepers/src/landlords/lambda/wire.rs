//! What Lambda's answers say. Fields may be absent or null, and unknown ones come along.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use schemas::UsdNanos;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    landlord::{CallError, Phase},
    landlords::http::Answer,
};

/// Nano-dollars in a cent.
const CENT: u64 = 10_000_000;

/// 429, or the page by which the edge bans somebody for a while; neither is described.
pub(super) fn is_rate_limit(answer: &Answer) -> bool {
    let banned = || answer.status.is_client_error() && answer.text().contains("banned you temporarily");
    answer.status == StatusCode::TOO_MANY_REQUESTS || banned()
}

#[derive(Debug, Deserialize)]
struct Envelope<T> {
    data: T,
}

/// An instance. Secrets that are in it (`jupyter_token`) are not even read.
#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    pub(super) id: String,
    status: Option<String>,
    ip: Option<String>,
    tags: Option<Vec<Tag>>,
    region: Option<Named>,
    #[serde(rename = "instance_type")]
    sku: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: Option<String>,
    /// Of an instance's type.
    price_cents_per_hour: Option<u64>,
}

impl Instance {
    /// The value of a tag, if it has it.
    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        let tags = self.tags.as_deref().unwrap_or_default();
        tags.iter().find(|tag| tag.key.as_deref() == Some(key))?.value.as_deref()
    }

    pub(super) fn sku(&self) -> Option<String> {
        self.sku.as_ref()?.name.clone()
    }

    /// What an hour of it costs, dollars, as far as the list says.
    pub(super) fn usd_per_hour(&self) -> Option<UsdNanos> {
        UsdNanos::new(CENT).times(self.sku.as_ref()?.price_cents_per_hour?)
    }

    pub(super) fn place(&self) -> Option<String> {
        self.region.as_ref()?.name.clone()
    }

    /// Where it stands, with a server that listens at `port`.
    pub(super) fn phase(&self, port: u16) -> Phase {
        match self.status.as_deref() {
            Some("booting") => Phase::Starting,
            Some("active") => match self.ip.as_deref().filter(|ip| !ip.is_empty()) {
                Some(ip) => Phase::Up(format!("http://{ip}:{port}")),
                None => Phase::Starting,
            },
            // Preempted is in the description and nowhere explained: as good as lost, and to be terminated.
            Some(word @ ("unhealthy" | "preempted")) => Phase::Broken(word.to_owned()),
            Some("terminating") => Phase::Ending,
            Some("terminated") => Phase::Gone,
            Some(word) => Phase::Unknown(word.to_owned()),
            None => Phase::Unknown("without a status".to_owned()),
        }
    }
}

/// All instances.
#[derive(Debug)]
pub(super) struct Instances {
    pub(super) instances: Vec<Instance>,
    /// Whether all of them read, and there are no more pages.
    pub(super) whole: bool,
}

pub(super) fn instances(answer: &Answer) -> Result<Instances, CallError> {
    #[derive(Deserialize)]
    struct Page {
        data: Vec<Value>,
        page_token: Option<String>,
    }
    let page: Page = answer.json()?;
    let all = page.data.len();
    let read = |value| serde_json::from_value::<Instance>(value).ok().filter(|read| !read.id.is_empty());
    let instances: Vec<Instance> = page.data.into_iter().filter_map(read).collect();
    let whole = instances.len() == all && page.page_token.is_none_or(|token| token.is_empty());
    Ok(Instances { instances, whole })
}

pub(super) fn instance(answer: &Answer) -> Result<Instance, CallError> {
    Ok(answer.json::<Envelope<Instance>>()?.data)
}

/// The ids that a launch names.
pub(super) fn launched(answer: &Answer) -> Result<Vec<String>, CallError> {
    #[derive(Deserialize)]
    struct Launched {
        instance_ids: Vec<String>,
    }
    Ok(answer.json::<Envelope<Launched>>()?.data.instance_ids)
}

/// The ids that a terminate names.
pub(super) fn terminated(answer: &Answer) -> Result<Vec<String>, CallError> {
    #[derive(Deserialize)]
    struct Terminated {
        terminated_instances: Option<Vec<Instance>>,
    }
    let ended = answer.json::<Envelope<Terminated>>()?.data.terminated_instances.unwrap_or_default();
    Ok(ended.into_iter().map(|instance| instance.id).collect())
}

/// An ssh key.
#[derive(Debug, Deserialize)]
pub(super) struct SshKey {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) public_key: String,
}

pub(super) fn keys(answer: &Answer) -> Result<Vec<SshKey>, CallError> {
    Ok(answer.json::<Envelope<Vec<SshKey>>>()?.data)
}

pub(super) fn regions(answer: &Answer) -> Result<Vec<String>, CallError> {
    let regions = answer.json::<Envelope<Vec<Named>>>()?.data;
    Ok(regions.into_iter().filter_map(|region| region.name).collect())
}

/// The instance types: prices, and where there is capacity by the list.
#[derive(Debug)]
pub(super) struct Types(BTreeMap<String, Type>);

#[derive(Debug, Deserialize)]
struct Type {
    instance_type: Priced,
    regions_with_capacity_available: Option<Vec<Named>>,
}

#[derive(Debug, Deserialize)]
struct Priced {
    price_cents_per_hour: u64,
}

pub(super) fn types(answer: &Answer) -> Result<Types, CallError> {
    // A type that does not read is as good as none; the others are none the worse for it.
    let all = answer.json::<Envelope<BTreeMap<String, Value>>>()?.data;
    let read = |(name, value)| Some((name, serde_json::from_value(value).ok()?));
    Ok(Types(all.into_iter().filter_map(read).collect()))
}

impl Types {
    /// The names of all types.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Dollars an hour.
    pub(super) fn price(&self, sku: &str) -> Result<UsdNanos, CallError> {
        let known = || self.0.keys().cloned().collect::<Vec<_>>().join(", ");
        let missing = || format!("lambda: there is no instance type {sku}; there are {}", known());
        let found = self.0.get(sku).ok_or_else(|| CallError::Misconfigured(missing()))?;
        let price = UsdNanos::new(CENT).times(found.instance_type.price_cents_per_hour);
        price.ok_or_else(|| CallError::Unclear(format!("lambda: the price of {sku} is out of range")))
    }

    /// Whether the list says that there is capacity; a hint.
    pub(super) fn has_capacity(&self, sku: &str, region: &str) -> bool {
        let regions = self.0.get(sku).and_then(|found| found.regions_with_capacity_available.as_deref());
        regions.unwrap_or_default().iter().any(|named| named.name.as_deref() == Some(region))
    }
}

/// An error of a call that precedes the order: whatever became of it, no machine was ordered, and none need be looked for.
pub(super) fn before_the_order(error: CallError) -> CallError {
    match error {
        CallError::Unclear(text) => CallError::Unreachable(text),
        CallError::RateLimited(..)
        | CallError::Capacity(_)
        | CallError::Price { .. }
        | CallError::Authentication(_)
        | CallError::Misconfigured(_)
        | CallError::Unreachable(_) => error,
    }
}

/// An answer that is no success: its status and its code. Texts change, codes do not.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// Empty without one: HTML, plain text, or a success.
    code: String,
    message: String,
}

impl Failure {
    pub(super) fn read(answer: &Answer) -> Self {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |field: &str| body["error"][field].as_str().unwrap_or_default().to_owned();
        Self { status: answer.status, code: text("code"), message: text("message") }
    }

    /// It does not exist.
    pub(super) fn is_missing(&self) -> bool {
        self.code == "global/object-does-not-exist"
    }

    /// Undocumented; it has had permanent causes.
    pub(super) fn is_unknown(&self) -> bool {
        self.code == "global/unknown"
    }

    /// Its state forbids it now.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT
            || matches!(self.code.as_str(), "global/conflict" | "global/duplicate")
    }

    /// A parameter is wrong; among them the name of an ssh key that is taken.
    pub(super) fn is_invalid(&self) -> bool {
        self.code == "global/invalid-parameters"
    }

    /// The class of this failure. `shown` is the answer's beginning, for people.
    pub(super) fn as_error(&self, what: &str, shown: &str) -> CallError {
        let text = format!("{what}: status {}: {shown}", self.status.as_u16());
        match self.code.as_str() {
            "instance-operations/launch/insufficient-capacity" => CallError::Capacity(text),
            // Region names are checked before any order; from a launch this has meant that there is no capacity.
            "global/invalid-parameters"
                if self.message.starts_with("Region ") && self.message.contains("does not exist") =>
            {
                CallError::Capacity(text)
            }
            "global/quota-exceeded"
            | "global/invalid-parameters"
            | "instance-operations/launch/file-system-in-wrong-region"
            | "global/object-does-not-exist"
            | "global/account-inactive"
            | "global/invalid-address" => CallError::Misconfigured(text),
            "global/invalid-api-key" | "global/forbidden" => CallError::Authentication(text),
            // Everything else (conflicts, internal errors, `provider/…`, HTML, a redirect) leaves open what was done.
            _ => match self.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CallError::Authentication(text),
                _ => CallError::Unclear(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: reqwest::header::HeaderMap::new(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn fields_that_are_absent_null_or_new_do_not_matter() {
        let body = r#"{"data":[{"id":"a"},{"id":"b","status":"active","ip":null,"tags":null,"new":{"x":[]}},
            {"id":"c","status":"active","ip":"10.0.0.1","tags":[{"key":"k","value":"v"},{"key":null}]},
            {"id":"d","status":"hibernated"}]}"#;
        let list = instances(&answer(200, body)).unwrap();
        let phases: Vec<Phase> = list.instances.iter().map(|instance| instance.phase(8000)).collect();
        let unknown = |word: &str| Phase::Unknown(word.into());
        let up = Phase::Up("http://10.0.0.1:8000".into());
        assert_eq!(phases, [unknown("without a status"), Phase::Starting, up, unknown("hibernated")]);
        assert_eq!((list.whole, list.instances[2].tag("k")), (true, Some("v")));
    }

    #[test]
    fn a_list_that_does_not_wholly_read_says_so() {
        for body in [r#"{"data":[{"id":"a"},{"status":"active"}]}"#, r#"{"data":[],"page_token":"more"}"#] {
            assert!(!instances(&answer(200, body)).unwrap().whole, "{body}");
        }
        for body in ["", "null", "<html>", r#"{"data":null}"#, r#"{"error":{}}"#, r#"{"data":{}}"#] {
            assert!(instances(&answer(200, body)).unwrap_err().is_unclear(), "{body}");
        }
    }

    #[test]
    fn a_refusal_for_the_rate_needs_neither_json_nor_a_header() {
        for body in ["", "Too Many Requests", r#"{"error":{"code":"x"}}"#, "<html>429</html>"] {
            assert!(is_rate_limit(&answer(429, body)), "{body}");
        }
        assert!(is_rate_limit(&answer(403, "<html>The owner has banned you temporarily</html>")));
        assert!(!is_rate_limit(&answer(500, "banned you temporarily")));
    }

    #[test]
    fn each_failure_has_its_class() {
        let code = |code: &str| format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
        let class = |status: u16, body: &str| Failure::read(&answer(status, body)).as_error("t", "shown");
        let is_capacity = |error: &CallError| matches!(error, CallError::Capacity(_));
        let misconfigured = |error: &CallError| matches!(error, CallError::Misconfigured(_));
        let authentication = |error: &CallError| matches!(error, CallError::Authentication(_));
        assert!(is_capacity(&class(400, &code("instance-operations/launch/insufficient-capacity"))));
        let region =
            r#"{"error":{"code":"global/invalid-parameters","message":"Region us-east-9 does not exist."}}"#;
        assert!(is_capacity(&class(400, region)));
        for body in ["global/quota-exceeded", "global/invalid-parameters", "global/account-inactive"] {
            assert!(misconfigured(&class(400, &code(body))), "{body}");
        }
        assert!(misconfigured(&class(404, &code("global/object-does-not-exist"))));
        assert!(authentication(&class(401, &code("global/invalid-api-key"))));
        assert!(authentication(&class(403, "<html>")));
        let open = ["global/internal-error", "provider/x", "global/unknown", "global/conflict"];
        for (status, body) in open.map(|open| (500, code(open))).into_iter().chain([
            (502, "<html>".to_owned()),
            (301, String::new()),
            (400, "null".to_owned()),
            (200, String::new()),
        ]) {
            assert!(class(status, &body).is_unclear(), "{status} {body}");
        }
    }
}
