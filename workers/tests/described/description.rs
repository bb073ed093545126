//! An OpenAPI description, and what does not agree with it.

use std::{fmt, path::PathBuf};

use serde_json::{Map, Value, json};

/// One provider's description.
pub(crate) struct Description {
    provider: &'static str,
    document: Value,
    /// The path of its server, `/v1`.
    base: String,
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    /// `replicate: POST /predictions, response 201`.
    pub(crate) place: String,
    /// A JSON pointer; empty for the whole.
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: field `{}`: {}", self.place, self.field, self.reason)
    }
}

/// The folder of descriptions; `None` when there is none, which is said.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("BEACON_API_DESCRIPTIONS") {
        let folder = PathBuf::from(folder);
        assert!(folder.is_dir(), "BEACON_API_DESCRIPTIONS: {} is no folder", folder.display());
        return Some(folder);
    }
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/providers/openapi");
    beside.is_dir().then_some(beside)
}

impl Description {
    /// Reads `<provider>.json`; `None`, and a word about it, when there are no descriptions here.
    pub(crate) fn load(provider: &'static str, file: &str) -> Option<Self> {
        let Some(folder) = folder() else {
            eprintln!(
                "skipped: no API descriptions; set BEACON_API_DESCRIPTIONS to a folder that holds {file}"
            );
            return None;
        };
        let path = folder.join(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Some(Self::new(provider, serde_json::from_str(&text).unwrap()))
    }

    pub(crate) fn new(provider: &'static str, mut document: Value) -> Self {
        modernise(&mut document);
        let server = document["servers"][0]["url"].as_str().unwrap_or_default().to_owned();
        let base = server
            .split_once("://")
            .map_or("", |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
        let base = if base.is_empty() { String::new() } else { format!("/{}", base.trim_end_matches('/')) };
        Self { provider, document, base }
    }

    /// What does not agree in a request; an operation nobody described is one drift.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Vec<Drift> {
        let Some((template, operation)) = self.operation(method, path) else {
            return vec![self.drift(&format!("{method} {path}"), "", "is not in the description")];
        };
        let place = format!("{method} {template}, request");
        let mut drifts = self.headers(&place, operation, headers);
        let described = self.follow(&operation["requestBody"]);
        let schema = &described["content"]["application/json"]["schema"];
        match (schema.is_null(), body.is_empty()) {
            (true, false) => drifts.push(self.drift(&place, "", "has a body that nobody described")),
            (false, true) if described["required"] == true => {
                drifts.push(self.drift(&place, "", "has no body"));
            }
            (true | false, true) => {}
            (false, false) => drifts.extend(self.bytes(&place, schema, body)),
        }
        drifts
    }

    /// What does not agree in an answer. A status nobody described is a drift.
    pub(crate) fn response(
        &self,
        method: &str,
        path: &str,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> Vec<Drift> {
        let Some((template, operation)) = self.operation(method, path) else {
            return vec![self.drift(&format!("{method} {path}"), "", "is not in the description")];
        };
        let place = format!("{method} {template}, response {status}");
        let responses = &operation["responses"];
        let class = format!("{}XX", status / 100);
        let described = [status.to_string().as_str(), class.as_str(), "default"]
            .into_iter()
            .find_map(|key| responses.get(key))
            .map(|response| self.follow(response));
        let Some(described) = described else {
            return vec![self.drift(&place, "", "is a status that nobody described")];
        };
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let schema = &described["content"][kind]["schema"];
        if schema.is_null() {
            let empty = described["content"].as_object().is_none_or(Map::is_empty);
            return if empty {
                Vec::new()
            } else {
                vec![self.drift(&place, "", &format!("nobody described {kind:?}"))]
            };
        }
        if kind == "text/event-stream" {
            let text = String::from_utf8_lossy(body);
            let events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
            return events
                .filter(|data| *data != "[DONE]")
                .flat_map(|data| self.bytes(&place, schema, data.as_bytes()))
                .collect();
        }
        self.bytes(&place, schema, body)
    }

    fn headers(&self, place: &str, operation: &Value, headers: &[(String, String)]) -> Vec<Drift> {
        let mut drifts = Vec::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = self.follow(parameter);
            let name = parameter["name"].as_str().unwrap_or_default().to_ascii_lowercase();
            if parameter["in"] != "header" {
                continue;
            }
            match headers.iter().find(|(given, _)| *given == name) {
                Some((_, value)) => {
                    let found = self.value(place, &parameter["schema"], &json!(value));
                    drifts.extend(
                        found.into_iter().map(|drift| Drift { field: format!("header {name}"), ..drift }),
                    );
                }
                None if parameter["required"] == true => {
                    drifts.push(self.drift(place, &format!("header {name}"), "is required"));
                }
                None => {}
            }
        }
        drifts
    }

    fn bytes(&self, place: &str, schema: &Value, body: &[u8]) -> Vec<Drift> {
        match serde_json::from_slice(body) {
            Ok(value) => self.value(place, schema, &value),
            Err(error) => vec![self.drift(place, "", &format!("is no JSON: {error}"))],
        }
    }

    fn value(&self, place: &str, schema: &Value, value: &Value) -> Vec<Drift> {
        let root = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.document["components"],
            "allOf": [schema],
        });
        let validator = jsonschema::options().should_validate_formats(true).build(&root).unwrap();
        validator
            .iter_errors(value)
            .map(|error| self.drift(place, &error.instance_path().to_string(), &error.to_string()))
            .collect()
    }

    /// The operation of a path and its template: the one with the fewest variables.
    fn operation(&self, method: &str, path: &str) -> Option<(&str, &Value)> {
        let path = path.split('?').next().unwrap_or_default();
        let path: Vec<&str> = path.strip_prefix(self.base.as_str())?.split('/').collect();
        let paths = self.document["paths"].as_object()?;
        let is_variable = |part: &str| part.starts_with('{');
        let fits = |template: &&String| {
            let parts: Vec<&str> = template.split('/').collect();
            parts.len() == path.len()
                && parts.iter().zip(&path).all(|(part, given)| is_variable(part) || part == given)
        };
        let variables = |template: &&String| template.split('/').filter(|part| is_variable(part)).count();
        let mut candidates: Vec<&String> = paths.keys().filter(fits).collect();
        candidates.sort_by_key(variables);
        let method = method.to_ascii_lowercase();
        candidates.into_iter().find_map(|template| Some((template.as_str(), paths[template].get(&method)?)))
    }

    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        let pointer = value.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
        pointer.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(value)
    }

    fn drift(&self, place: &str, field: &str, reason: &str) -> Drift {
        let reason: String = reason.chars().take(300).collect();
        Drift { place: format!("{}: {place}", self.provider), field: field.to_owned(), reason }
    }
}

/// Rewrites what OpenAPI 3.0 says in its own way into JSON Schema, which 3.1 speaks.
fn modernise(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(modernise),
        Value::Object(object) => {
            object.values_mut().for_each(modernise);
            if object.remove("nullable") == Some(Value::Bool(true)) {
                let whole = Value::Object(std::mem::take(object));
                object.insert("anyOf".to_owned(), json!([whole, { "type": "null" }]));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        let thing = json!({
            "type": "object",
            "required": ["id", "status"],
            "additionalProperties": false,
            "properties": {
                "id": { "type": "string" },
                "status": { "enum": ["new", "old"] },
                "at": { "type": "string", "format": "date-time" },
                "note": { "type": "string", "nullable": true },
            },
        });
        let json_of = |schema: Value| json!({ "content": { "application/json": { "schema": schema } } });
        let reference = json!({ "$ref": "#/components/schemas/thing" });
        let wait = json!({ "name": "Prefer", "in": "header", "schema": { "pattern": "^wait(=[1-9])?$" } });
        Description::new(
            "test",
            json!({
                "servers": [{ "url": "https://h/v1" }],
                "paths": {
                    "/things/{id}": { "get": { "responses": { "200": json_of(reference.clone()) } } },
                    "/things/all": { "get": { "responses": { "200": json_of(json!({ "type": "array" })) } } },
                    "/things": { "post": {
                        "parameters": [wait],
                        "requestBody": json_of(reference),
                        "responses": { "201": { "$ref": "#/components/responses/made" } },
                    } },
                },
                "components": { "schemas": { "thing": thing }, "responses": { "made": { "description": "" } } },
            }),
        )
    }

    fn found(body: &str) -> Vec<(String, bool)> {
        let drifts = description().response("GET", "/v1/things/7", 200, "application/json", body.as_bytes());
        drifts
            .into_iter()
            .map(|drift| (drift.field, drift.place.contains("GET /things/{id}, response 200")))
            .collect()
    }

    #[test]
    fn what_agrees_is_no_drift() {
        assert_eq!(found(r#"{"id":"a","status":"new","note":null,"at":"2026-01-01T00:00:00Z"}"#), []);
        let description = description();
        assert_eq!(description.response("GET", "/v1/things/all", 200, "application/json", b"[]"), []);
        let headers = [("prefer".to_owned(), "wait=5".to_owned())];
        assert_eq!(description.request("POST", "/v1/things", &headers, br#"{"id":"a","status":"old"}"#), []);
        assert_eq!(description.response("POST", "/v1/things", 201, "", b""), []);
    }

    #[test]
    fn a_drift_is_found_and_names_its_field() {
        for (body, field) in [
            (r#"{"id":"a"}"#, ""),
            (r#"{"id":5,"status":"new"}"#, "/id"),
            (r#"{"id":"a","status":"odd"}"#, "/status"),
            (r#"{"id":"a","status":"new","note":5}"#, "/note"),
            (r#"{"id":"a","status":"new","at":"yesterday"}"#, "/at"),
            (r#"{"id":"a","status":"new","more":1}"#, ""),
            ("no", ""),
        ] {
            assert_eq!(found(body), [(field.to_owned(), true)], "{body}");
        }
    }

    #[test]
    fn what_nobody_described_is_a_drift() {
        let description = description();
        assert_eq!(description.response("GET", "/v1/things/7", 404, "application/json", b"{}").len(), 1);
        assert_eq!(description.response("GET", "/v1/others", 200, "application/json", b"{}").len(), 1);
        assert_eq!(description.response("DELETE", "/v1/things/7", 200, "application/json", b"{}").len(), 1);
        assert_eq!(description.response("GET", "/v1/things/7", 200, "text/html", b"{}").len(), 1);
        let headers = [("prefer".to_owned(), "wait=ever".to_owned())];
        let drifts = description.request("POST", "/v1/things", &headers, br#"{"id":"a","status":"old"}"#);
        assert_eq!(drifts[0].field, "header prefer");
    }
}
