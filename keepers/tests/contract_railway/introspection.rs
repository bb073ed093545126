//! Railway's own description, a GraphQL introspection, and what does not agree with it.

use serde_json::{Map, Value};
use simulators::rented::graphql::{Argument, Field, Operation, parse};

/// The description.
pub(crate) struct Schema(Value);

impl Schema {
    pub(crate) fn new(document: &Value) -> Self {
        Self(document["data"]["__schema"].clone())
    }

    /// What does not agree in an exchange. An answer without data has nothing to disagree with.
    pub(crate) fn exchange(&self, request: &[u8], response: &[u8]) -> Vec<String> {
        let request: Value = serde_json::from_slice(request).unwrap();
        let operation = match parse(request["query"].as_str().unwrap_or_default()) {
            Ok(operation) => operation,
            Err(error) => return vec![format!("{request}: {error}")],
        };
        let mut drifts = Vec::new();
        if operation.name.as_deref() != request["operationName"].as_str() {
            drifts.push(format!("operationName {} is not in the document", request["operationName"]));
        }
        let variables = request["variables"].as_object().cloned().unwrap_or_default();
        self.variables(&operation, &variables, &mut drifts);
        let root = if operation.is_mutation { "Mutation" } else { "Query" };
        self.selection(root, &operation.fields, &operation, &mut drifts);
        if let Ok(Value::Object(answer)) = serde_json::from_slice(response)
            && let Some(Value::Object(data)) = answer.get("data")
            && !answer.contains_key("errors")
        {
            self.object(root, &operation.fields, data, root, &mut drifts);
        }
        drifts
    }

    fn kind(&self, name: &str) -> &Value {
        let kinds = self.0["types"].as_array().unwrap();
        kinds.iter().find(|kind| kind["name"] == name).unwrap_or(&Value::Null)
    }

    fn field(&self, kind: &str, name: &str) -> Option<&Value> {
        self.kind(kind)["fields"].as_array()?.iter().find(|field| field["name"] == name)
    }

    fn variables(&self, operation: &Operation, given: &Map<String, Value>, drifts: &mut Vec<String>) {
        for (name, kind) in &operation.variables {
            match given.get(name) {
                Some(value) => self.input(kind, value, &format!("${name}"), drifts),
                None if kind.ends_with('!') => drifts.push(format!("${name} is missing")),
                None => {}
            }
        }
        for name in given.keys().filter(|name| !operation.variables.iter().any(|(known, _)| known == *name)) {
            drifts.push(format!("${name} is not declared"));
        }
    }

    fn selection(&self, kind: &str, fields: &[Field], operation: &Operation, drifts: &mut Vec<String>) {
        for field in fields {
            let Some(described) = self.field(kind, &field.name) else {
                drifts.push(format!("{kind}.{} is not described", field.name));
                continue;
            };
            let arguments = described["args"].as_array().unwrap();
            for (name, argument) in &field.arguments {
                let place = format!("{kind}.{}({name})", field.name);
                match arguments.iter().find(|known| known["name"] == *name) {
                    Some(known) => {
                        self.argument(&written(&known["type"]), argument, operation, &place, drifts);
                    }
                    None => drifts.push(format!("{place} is not described")),
                }
            }
            for known in arguments.iter().filter(|known| known["type"]["kind"] == "NON_NULL") {
                if !field.arguments.iter().any(|(name, _)| known["name"] == *name) {
                    drifts.push(format!("{kind}.{}({}) is required", field.name, known["name"]));
                }
            }
            let named = inner(&written(&described["type"])).to_owned();
            if (self.kind(&named)["kind"] == "OBJECT") == field.fields.is_empty() {
                drifts.push(format!("{kind}.{}: a wrong selection", field.name));
            }
            self.selection(&named, &field.fields, operation, drifts);
        }
    }

    fn argument(
        &self,
        kind: &str,
        argument: &Argument,
        operation: &Operation,
        place: &str,
        drifts: &mut Vec<String>,
    ) {
        match argument {
            Argument::Variable(name) => {
                let declared =
                    operation.variables.iter().find(|(known, _)| known == name).map(|(_, kind)| kind);
                // A type that is never null fits where null is allowed.
                let fits = |declared: &String| declared == kind || declared.strip_suffix('!') == Some(kind);
                if !declared.is_some_and(fits) {
                    drifts.push(format!("{place}: ${name} is {declared:?}, not {kind}"));
                }
            }
            Argument::Enum(word) => self.input(kind, &Value::from(word.as_str()), place, drifts),
            Argument::Literal(value) => self.input(kind, value, place, drifts),
            Argument::List(items) => {
                let of = kind.trim_end_matches('!').trim_start_matches('[').trim_end_matches(']');
                for item in items {
                    self.argument(of, item, operation, place, drifts);
                }
            }
            Argument::Object(_) => drifts.push(format!("{place}: objects come as variables")),
        }
    }

    /// A value that is sent. An explicit null clears settings at Railway, so there is none anywhere.
    fn input(&self, kind: &str, value: &Value, place: &str, drifts: &mut Vec<String>) {
        let plain = kind.trim_end_matches('!');
        if value.is_null() {
            drifts.push(format!("{place} is an explicit null"));
            return;
        }
        if let Some(of) = plain.strip_prefix('[').and_then(|of| of.strip_suffix(']')) {
            for item in value.as_array().into_iter().flatten() {
                self.input(of, item, place, drifts);
            }
            return;
        }
        let described = self.kind(plain);
        let Some(fields) = described["inputFields"].as_array() else {
            self.scalar(plain, value, place, drifts);
            return;
        };
        let object = value.as_object().cloned().unwrap_or_default();
        for (name, value) in &object {
            let place = format!("{place}.{name}");
            match fields.iter().find(|field| field["name"] == *name) {
                Some(field) => self.input(&written(&field["type"]), value, &place, drifts),
                None => drifts.push(format!("{place} is not described")),
            }
        }
        for field in fields.iter().filter(|field| field["type"]["kind"] == "NON_NULL") {
            if field["name"].as_str().is_some_and(|name| !object.contains_key(name)) {
                drifts.push(format!("{place}.{} is required", field["name"]));
            }
        }
    }

    fn scalar(&self, kind: &str, value: &Value, place: &str, drifts: &mut Vec<String>) {
        let words = self.kind(kind)["enumValues"].as_array();
        let fits = match (kind, words) {
            (_, Some(words)) => words.iter().any(|word| word["name"] == *value),
            ("Int", _) => value.is_i64() || value.is_u64(),
            ("Float", _) => value.is_number(),
            ("Boolean", _) => value.is_boolean(),
            ("String" | "ID", _) => value.is_string(),
            ("DateTime", _) => {
                value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok())
            }
            // JSON of any shape.
            _ => !self.kind(kind).is_null(),
        };
        if !fits {
            drifts.push(format!("{place}: {value} is no {kind}"));
        }
    }

    fn object(
        &self,
        kind: &str,
        fields: &[Field],
        data: &Map<String, Value>,
        place: &str,
        drifts: &mut Vec<String>,
    ) {
        for field in fields {
            let Some(described) = self.field(kind, &field.name) else { continue };
            let place = format!("{place}.{}", field.key());
            let value = data.get(field.key()).unwrap_or(&Value::Null);
            self.output(&written(&described["type"]), &field.fields, value, &place, drifts);
        }
    }

    fn output(&self, kind: &str, fields: &[Field], value: &Value, place: &str, drifts: &mut Vec<String>) {
        let plain = kind.trim_end_matches('!');
        match value {
            Value::Null if kind.ends_with('!') => drifts.push(format!("{place} is null")),
            Value::Null => {}
            Value::Array(items) => match plain.strip_prefix('[').and_then(|of| of.strip_suffix(']')) {
                Some(of) => items.iter().for_each(|item| self.output(of, fields, item, place, drifts)),
                None => drifts.push(format!("{place} is a list")),
            },
            Value::Object(object) if !fields.is_empty() => self.object(plain, fields, object, place, drifts),
            scalar => self.scalar(plain, scalar, place, drifts),
        }
    }
}

/// A type as one writes it.
fn written(kind: &Value) -> String {
    match kind["kind"].as_str() {
        Some("NON_NULL") => format!("{}!", written(&kind["ofType"])),
        Some("LIST") => format!("[{}]", written(&kind["ofType"])),
        _ => kind["name"].as_str().unwrap_or_default().to_owned(),
    }
}

fn inner(kind: &str) -> &str {
    kind.trim_matches(['[', ']', '!'])
}
