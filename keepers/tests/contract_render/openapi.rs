//! Render's own description, and what does not agree with it.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::{Value, json};
use simulators::Exchange;

/// The description.
///
/// A validator is built once for each schema: the document is long.
pub(crate) struct Description(Value, Mutex<BTreeMap<String, jsonschema::Validator>>);

impl Description {
    pub(crate) fn new(mut document: Value) -> Self {
        loosen(&mut document);
        Self(document, Mutex::default())
    }

    /// What does not agree in an exchange.
    pub(crate) fn exchange(&self, exchange: &Exchange) -> Vec<String> {
        let path = exchange.path.split('?').next().unwrap_or_default();
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let place = format!("{} {path}", exchange.method);
        let Some(operation) = self.operation(&exchange.method.to_lowercase(), path) else {
            return vec![format!("{place} is not described")];
        };
        let mut drifts =
            self.query(operation, exchange.path.split_once('?').map_or("", |(_, query)| query), &place);
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        match (schema.is_null(), exchange.request.is_empty()) {
            (true, false) => drifts.push(format!("{place}: a body that nobody described")),
            (false, _) => drifts.extend(self.body(schema, &exchange.request, &format!("{place}, request"))),
            (true, true) => {}
        }
        let place = format!("{place}, {}", exchange.status);
        let Some(response) = operation["responses"].get(exchange.status.to_string()) else {
            drifts.push(format!("{place}: a status that nobody described"));
            return drifts;
        };
        let response = self.follow(response);
        let schema = &response["content"]["application/json"]["schema"];
        if !schema.is_null() {
            drifts.extend(self.body(schema, &exchange.response, &place));
        } else if !exchange.response.is_empty() {
            drifts.push(format!("{place}: a body that nobody described"));
        }
        drifts
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path: Vec<&str> = path.split('/').collect();
        let fits = |template: &str| {
            let parts: Vec<&str> = template.split('/').collect();
            parts.len() == path.len()
                && parts.iter().zip(&path).all(|(part, given)| part.starts_with('{') || part == given)
        };
        let (_, methods) = self.0["paths"].as_object()?.iter().find(|(template, _)| fits(template))?;
        methods.get(method)
    }

    /// Parameters must be described; their values are checked where they are numbers or words of a list.
    fn query(&self, operation: &Value, query: &str, place: &str) -> Vec<String> {
        let parameters: Vec<&Value> =
            operation["parameters"].as_array().into_iter().flatten().map(|one| self.follow(one)).collect();
        let mut drifts = Vec::new();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let Some(parameter) = parameters.iter().find(|one| one["name"] == name && one["in"] == "query")
            else {
                drifts.push(format!("{place}: the parameter {name} is not described"));
                continue;
            };
            let schema = self.follow(&parameter["schema"]);
            let value = match schema["type"].as_str() {
                Some("integer") => value.parse::<u64>().map_or(Value::Null, Value::from),
                Some("array") => json!([value]),
                Some("boolean") => json!(value == "true"),
                _ => json!(value),
            };
            drifts.extend(self.value(schema, &value, &format!("{place}?{name}")));
        }
        drifts
    }

    fn body(&self, schema: &Value, body: &[u8], place: &str) -> Vec<String> {
        match serde_json::from_slice(body) {
            Ok(value) => self.value(schema, &value, place),
            Err(error) => vec![format!("{place}: {error}")],
        }
    }

    fn value(&self, schema: &Value, value: &Value, place: &str) -> Vec<String> {
        let key = schema.to_string();
        let mut validators = self.1.lock().unwrap();
        let validator = validators.entry(key).or_insert_with(|| {
            let mut root = self.0.clone();
            root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
            root["allOf"] = json!([schema]);
            jsonschema::options().should_validate_formats(true).build(&root).unwrap()
        });
        let drift = |error: jsonschema::ValidationError| {
            let text: String = error.to_string().chars().take(300).collect();
            format!("{place}: {}: {text}", error.instance_path())
        };
        validator.iter_errors(value).map(drift).collect()
    }

    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        let pointer = value.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
        pointer.and_then(|pointer| self.0.pointer(pointer)).unwrap_or(value)
    }
}

/// The kinds of services overlap, so that exactly one of them never fits: one that fits is enough. A runtime of images has no
/// details in the description of answers.
fn loosen(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(loosen),
        Value::Object(object) => {
            if let Some(variants) = object.remove("oneOf") {
                object.insert("anyOf".to_owned(), variants);
            }
            object.values_mut().for_each(loosen);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
