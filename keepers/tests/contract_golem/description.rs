//! yagna's OpenAPI descriptions, and what does not agree with them.
//!
//! The descriptions are not ours to keep here. They are read from the folder in `BEACON_API_DESCRIPTIONS`, or from
//! `../shared/providers/openapi` beside this repository; without either, the tests say so and pass.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// All APIs of the daemon.
pub(crate) struct Descriptions(Vec<Description>);

struct Description {
    base: String,
    document: Value,
}

fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("BEACON_API_DESCRIPTIONS") {
        let folder = PathBuf::from(folder);
        assert!(folder.is_dir(), "BEACON_API_DESCRIPTIONS: {} is no folder", folder.display());
        return Some(folder);
    }
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/providers/openapi");
    beside.is_dir().then_some(beside)
}

fn read(folder: &Path, name: &str) -> Value {
    let path = folder.join(format!("golem-{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Descriptions {
    pub(crate) fn load() -> Option<Self> {
        let Some(folder) = folder() else {
            eprintln!(
                "skipped: no API descriptions; set BEACON_API_DESCRIPTIONS to a folder with golem-*.yaml"
            );
            return None;
        };
        let common = read(&folder, "common");
        let names = ["market-api", "payment-api", "activity-api", "net-api", "version-api", "identity-api"];
        let one = |name: &&str| {
            let document = inlined(&read(&folder, name), &common);
            let base = document["servers"][0]["url"].as_str().unwrap_or_default().to_owned();
            Description { base, document }
        };
        Some(Self(names.iter().map(one).collect()))
    }

    /// What does not agree in an exchange, a line each.
    pub(crate) fn drifts(&self, exchange: &simulators::Exchange) -> Vec<String> {
        let path = exchange.path.split('?').next().unwrap_or_default();
        let call = format!("{} {path}", exchange.method);
        let found = self.0.iter().find_map(|one| {
            let below = path.strip_prefix(one.base.as_str())?;
            Some((one, one.operation(&exchange.method, below)?))
        });
        let Some((description, (template, operation))) = found else {
            return vec![format!("{call}: is not described")];
        };
        let call = format!("{} {template}", exchange.method);
        let mut drifts = Vec::new();
        let body = &operation["requestBody"];
        let schema = &body["content"]["application/json"]["schema"];
        if !exchange.request.is_empty() {
            drifts.extend(description.check(&format!("{call}, request"), schema, &exchange.request));
        } else if body["required"] == true {
            drifts.push(format!("{call}, request: has no body"));
        }
        let responses = &operation["responses"];
        let place = format!("{call}, response {}", exchange.status);
        // `default` is an error.
        let default = responses.get("default").filter(|_| exchange.status >= 400);
        let Some(answer) = responses.get(exchange.status.to_string()).or(default) else {
            drifts.push(format!("{place}: is not described"));
            return drifts;
        };
        let schema = &answer["content"]["application/json"]["schema"];
        if !schema.is_null()
            && !exchange.response.is_empty()
            && exchange.content_type.starts_with("application/json")
        {
            drifts.extend(description.check(&place, schema, &exchange.response));
        }
        drifts
    }
}

impl Description {
    /// The operation of a path: the template with the fewest variables.
    fn operation(&self, method: &str, path: &str) -> Option<(&str, &Value)> {
        let path: Vec<&str> = path.split('/').collect();
        let is_variable = |part: &str| part.starts_with('{');
        let fits = |template: &&String| {
            let parts: Vec<&str> = template.split('/').collect();
            parts.len() == path.len()
                && parts.iter().zip(&path).all(|(part, given)| is_variable(part) || part == given)
        };
        let paths = self.document["paths"].as_object()?;
        let mut templates: Vec<&String> = paths.keys().filter(fits).collect();
        templates.sort_by_key(|template| template.matches('{').count());
        let method = method.to_ascii_lowercase();
        templates.into_iter().find_map(|template| {
            let operation = paths[template].get(&method)?;
            Some((template.as_str(), operation))
        })
    }

    fn check(&self, place: &str, schema: &Value, body: &[u8]) -> Vec<String> {
        if schema.is_null() {
            return vec![format!("{place}: has a body that is not described")];
        }
        let value: Value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => return vec![format!("{place}: is no JSON: {error}")],
        };
        let root = json!({ "components": self.document["components"], "allOf": [schema] });
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .build(&root)
            .unwrap();
        validator
            .iter_errors(&value)
            .map(|error| format!("{place}: {} {error}", error.instance_path()))
            .collect()
    }
}

/// References into the common file and to whole answers and bodies replaced by what they name, and OpenAPI 3.0 said as JSON
/// Schema.
fn inlined(document: &Value, common: &Value) -> Value {
    let mut whole = walk(document, document, common, false);
    modernise(&mut whole);
    whole
}

fn walk(value: &Value, document: &Value, common: &Value, in_common: bool) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| walk(item, document, common, in_common)).collect(),
        Value::Object(object) => {
            let reference = object.get("$ref").and_then(Value::as_str);
            let Some((file, pointer)) = reference.and_then(|text| text.split_once('#')) else {
                let walked =
                    object.iter().map(|(key, item)| (key.clone(), walk(item, document, common, in_common)));
                return Value::Object(walked.collect::<Map<_, _>>());
            };
            let theirs = in_common || file == "golem-common.yaml";
            let from = if theirs { common } else { document };
            if !theirs && pointer.starts_with("/components/schemas/") {
                return value.clone();
            }
            let named = from.pointer(pointer).unwrap_or_else(|| panic!("{file}#{pointer}"));
            walk(named, document, common, theirs)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

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
