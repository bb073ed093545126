//! Railway's GraphQL over HTTP, and what its errors mean.
//!
//! Errors come with status 200, parse and validation errors with 400 and `extensions.code`, and in front of all of it stands an
//! edge that says 429 in plain text. An error that nothing here knows is trouble at the provider.

use reqwest::{Client, StatusCode, header::HeaderName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    landlord::CallError,
    landlords::{
        hold::Hold,
        http::{self, Answer},
        railway::{config::RailwayToken, documents::Document},
    },
    secret::Secret,
};

/// The API of one account.
#[derive(Debug)]
pub(crate) struct Graph {
    client: Client,
    api: String,
    token: RailwayToken,
    hold: Hold,
}

/// An answer that has at least a part of what was asked for.
#[derive(Debug)]
pub(crate) struct Reply {
    data: Map<String, Value>,
    trouble: Option<CallError>,
}

impl Reply {
    /// A field of the answer. One that is missing is the error that came with it.
    pub(crate) fn take<T: serde::de::DeserializeOwned>(&mut self, field: &str) -> Result<T, CallError> {
        match self.data.remove(field) {
            None | Some(Value::Null) => Err(self
                .trouble
                .clone()
                .unwrap_or_else(|| CallError::Unclear(format!("the answer has no `{field}`")))),
            Some(value) => serde_json::from_value(value)
                .map_err(|error| CallError::Unclear(format!("`{field}` does not read: {error}"))),
        }
    }
}

#[derive(Serialize)]
struct Request<'a, V> {
    query: &'a str,
    variables: V,
    #[serde(rename = "operationName")]
    operation_name: &'a str,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    data: Option<Map<String, Value>>,
    #[serde(default)]
    errors: Vec<GraphError>,
}

#[derive(Debug, Deserialize)]
struct GraphError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    extensions: Option<Extensions>,
}

#[derive(Debug, Deserialize)]
struct Extensions {
    #[serde(default)]
    code: Option<String>,
}

impl Graph {
    pub(crate) fn new(api: String, token: RailwayToken) -> Result<Self, CallError> {
        let graph = Self { client: http::client()?, api, token, hold: Hold::default() };
        graph.header()?;
        Ok(graph)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn ask(
        &self,
        document: &Document,
        variables: impl Serialize,
    ) -> Result<Reply, CallError> {
        self.hold.check("Railway")?;
        let (name, key) = self.header()?;
        let body = Request { query: &document.text, variables, operation_name: document.name };
        // The edge is stricter with URLs that have no query string.
        let url = format!("{}?query={}", self.api, document.name);
        let request = self.client.post(url).header(name, key).json(&body);
        let read = read(&http::call(request).await?, self.secret());
        if let Err(CallError::RateLimited(_, Some(wait))) = &read {
            self.hold.ask(*wait);
        }
        read.map_err(|error| named(error, document.name))
    }

    fn secret(&self) -> &Secret {
        match &self.token {
            RailwayToken::Account(secret) | RailwayToken::Project(secret) => secret,
        }
    }

    fn header(&self) -> Result<(HeaderName, reqwest::header::HeaderValue), CallError> {
        let (name, prefix) = match &self.token {
            RailwayToken::Account(_) => (reqwest::header::AUTHORIZATION, "Bearer "),
            RailwayToken::Project(_) => (HeaderName::from_static("project-access-token"), ""),
        };
        let key = self.secret().header(prefix);
        Ok((name, key.ok_or_else(|| CallError::Authentication("no header can carry the key".to_owned()))?))
    }
}

/// Puts the operation's name before an error's text.
fn named(error: CallError, name: &str) -> CallError {
    match error {
        CallError::RateLimited(text, wait) => CallError::RateLimited(format!("{name}: {text}"), wait),
        CallError::Capacity(text) => CallError::Capacity(format!("{name}: {text}")),
        CallError::Authentication(text) => CallError::Authentication(format!("{name}: {text}")),
        CallError::Misconfigured(text) => CallError::Misconfigured(format!("{name}: {text}")),
        CallError::Unreachable(text) => CallError::Unreachable(format!("{name}: {text}")),
        CallError::Unclear(text) => CallError::Unclear(format!("{name}: {text}")),
        CallError::Price { now, max } => CallError::Price { now, max },
    }
}

fn read(answer: &Answer, secret: &Secret) -> Result<Reply, CallError> {
    let status = answer.status;
    let said = || format!("status {}: {}", status.as_u16(), secret.scrub(&answer.text()));
    let Ok(body) = serde_json::from_slice::<Body>(&answer.body) else {
        // The edge's own words are plain text, whatever the status.
        return Err(
            if status == StatusCode::TOO_MANY_REQUESTS || answer.text().contains("error code: 1015") {
                CallError::RateLimited(said(), answer.retry_after())
            } else if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
                CallError::Authentication(said())
            } else if status == StatusCode::NOT_FOUND {
                CallError::Misconfigured(said())
            } else {
                CallError::Unclear(said())
            },
        );
    };
    let mut troubles: Vec<CallError> =
        body.errors.iter().map(|error| verdict(error, answer, secret)).collect();
    let trouble = match status {
        StatusCode::TOO_MANY_REQUESTS => Some(CallError::RateLimited(said(), answer.retry_after())),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(CallError::Authentication(said())),
        // The first says why; what follows is mostly its consequence.
        _ if !troubles.is_empty() => Some(troubles.swap_remove(0)),
        _ if !status.is_success() => Some(CallError::Unclear(said())),
        _ => None,
    };
    let data = body.data.unwrap_or_default();
    match trouble {
        Some(trouble) if data.values().all(Value::is_null) => Err(trouble),
        trouble => Ok(Reply { data, trouble }),
    }
}

/// What one GraphQL error means. Texts are matched in parts only, and codes first: the texts change.
fn verdict(error: &GraphError, answer: &Answer, secret: &Secret) -> CallError {
    let code = error.extensions.as_ref().and_then(|more| more.code.as_deref()).unwrap_or_default();
    let said = secret.scrub(error.message.trim());
    let said = if code.is_empty() { said } else { format!("{said} ({code})") };
    let text = error.message.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if code.contains("RATE_LIMIT")
        || code == "TOO_MANY_REQUESTS"
        || says(&["too quickly", "rate limit", "too many requests"])
    {
        return CallError::RateLimited(said, answer.retry_after());
    }
    if matches!(code, "UNAUTHENTICATED" | "FORBIDDEN")
        || says(&["not authorized", "token not found", "two factor authentication"])
    {
        return CallError::Authentication(said);
    }
    if says(&["limit exceeded", "no capacity", "peak hours"]) {
        return CallError::Capacity(said);
    }
    if matches!(code, "GRAPHQL_PARSE_FAILED" | "GRAPHQL_VALIDATION_FAILED" | "BAD_USER_INPUT") {
        return CallError::Misconfigured(said);
    }
    CallError::Unclear(said)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &str) -> Answer {
        let mut headers = reqwest::header::HeaderMap::new();
        if let Some(wait) = retry_after {
            headers.insert("retry-after", wait.parse().unwrap());
        }
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: body.as_bytes().to_vec() }
    }

    fn error(status: u16, body: &str) -> CallError {
        read(&answer(status, None, body), &Secret::new("k-secret")).unwrap_err()
    }

    fn graphql(message: &str, code: Option<&str>) -> String {
        let error = serde_json::json!({ "message": message, "extensions": { "code": code }, "traceId": "7" });
        serde_json::json!({ "data": null, "errors": [error] }).to_string()
    }

    #[test]
    fn errors_with_status_200_and_400_are_classified() {
        assert!(matches!(error(200, &graphql("Not Authorized", None)), CallError::Authentication(_)));
        assert!(matches!(
            error(200, &graphql("Project Token not found", None)),
            CallError::Authentication(_)
        ));
        let quickly = graphql("You are creating services too quickly", None);
        assert!(matches!(error(200, &quickly), CallError::RateLimited(_, None)));
        let full = graphql("Free plan resource provision limit exceeded.", None);
        assert!(matches!(error(200, &full), CallError::Capacity(_)));
        assert!(matches!(error(200, &graphql("Problem processing request", None)), CallError::Unclear(_)));
        let invalid = graphql("Cannot query field \"x\"", Some("GRAPHQL_VALIDATION_FAILED"));
        assert!(matches!(error(400, &invalid), CallError::Misconfigured(_)));
        assert!(matches!(error(400, &graphql("odd", Some("NEW_CODE"))), CallError::Unclear(_)));
    }

    #[test]
    fn plain_text_of_the_edge_is_no_parse_error() {
        let limited =
            |status, wait| read(&answer(status, wait, "error code: 1015"), &Secret::new("k")).unwrap_err();
        let wait = Some(Duration::from_secs(7));
        assert!(matches!(limited(429, Some("7")), CallError::RateLimited(_, told) if told == wait));
        assert!(matches!(limited(429, None), CallError::RateLimited(_, None)));
        assert!(matches!(limited(503, None), CallError::RateLimited(_, None)));
        assert!(matches!(error(502, "<html>bad gateway</html>"), CallError::Unclear(_)));
        assert!(matches!(error(401, "no"), CallError::Authentication(_)));
        assert!(matches!(error(200, "not json"), CallError::Unclear(_)));
    }

    #[test]
    fn a_part_of_an_answer_is_worth_having() {
        let body = r#"{"data":{"deployments":[1],"usage":null},"errors":[{"message":"Not Authorized","path":["usage"]}]}"#;
        let mut reply = read(&answer(200, None, body), &Secret::new("k")).unwrap();
        assert_eq!(reply.take::<Vec<u8>>("deployments").unwrap(), [1]);
        assert!(matches!(reply.take::<Value>("usage"), Err(CallError::Authentication(_))));
    }

    #[test]
    fn no_error_shows_the_key() {
        let text = error(200, &graphql("Token k-secret is odd", None)).to_string();
        assert!(text.contains("***") && !text.contains("k-secret"), "{text}");
    }
}
