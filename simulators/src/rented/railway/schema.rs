//! What documents may ask for: the part of Railway's schema that the simulator knows, by hand.

use serde_json::{Map, Value};

use crate::rented::graphql::{Field, Operation};

/// The fields of a type, each with its own type; `""` for scalars.
fn fields(kind: &str) -> &'static [(&'static str, &'static str)] {
    match kind {
        "Query" => &[
            ("deployment", "Deployment"),
            ("deployments", "Deployments"),
            ("environment", "Environment"),
            ("projectToken", "ProjectToken"),
            ("regions", "Region"),
            ("service", "Service"),
            ("serviceInstance", "ServiceInstance"),
            ("usage", "Used"),
        ],
        "Mutation" => &[
            ("deploymentRemove", ""),
            ("serviceCreate", "Service"),
            ("serviceDelete", ""),
            ("serviceDomainCreate", "Domain"),
            ("serviceInstanceDeployV2", ""),
            ("serviceInstanceLimitsUpdate", ""),
            ("serviceInstanceUpdate", ""),
        ],
        "Deployments" => &[("edges", "Edge"), ("pageInfo", "PageInfo")],
        "Edge" => &[("cursor", ""), ("node", "Deployment")],
        "PageInfo" => &[("hasNextPage", ""), ("endCursor", "")],
        "Deployment" => &[
            ("createdAt", ""),
            ("deploymentStopped", ""),
            ("id", ""),
            ("service", "Service"),
            ("serviceId", ""),
            ("staticUrl", ""),
            ("status", ""),
            ("url", ""),
        ],
        "Service" => &[("createdAt", ""), ("deletedAt", ""), ("id", ""), ("name", ""), ("projectId", "")],
        "ServiceInstance" => &[
            ("domains", "Domains"),
            ("id", ""),
            ("latestDeployment", "Deployment"),
            ("numReplicas", ""),
            ("region", ""),
            ("serviceName", ""),
            ("sleepApplication", ""),
        ],
        "Domains" => &[("serviceDomains", "Domain")],
        "Domain" => &[("domain", ""), ("id", ""), ("serviceId", "")],
        "Environment" => &[("config", ""), ("id", ""), ("name", "")],
        "ProjectToken" => &[("environmentId", ""), ("projectId", "")],
        "Region" => &[("deploymentConstraints", "Constraints"), ("location", ""), ("name", "")],
        "Constraints" => &[("deprecationInfo", "Deprecation")],
        "Deprecation" => &[("isDeprecated", ""), ("replacementRegion", "")],
        "Used" => &[("measurement", ""), ("tags", "Tags"), ("value", "")],
        "Tags" => &[("serviceId", "")],
        _ => &[],
    }
}

/// The arguments of a root field; those that must be there end with `!`. And the fields of the input object, if it has one.
fn arguments(field: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match field {
        "deployment" | "deploymentRemove" | "service" => (&["id!"], &[]),
        "deployments" => (
            &["input!", "first", "after"],
            &["projectId", "environmentId", "serviceId", "includeDeleted", "status"],
        ),
        "environment" => (&["id!", "projectId"], &[]),
        "regions" => (&["projectId"], &[]),
        "serviceInstance" | "serviceInstanceDeployV2" => {
            (&["serviceId!", "environmentId!", "commitSha"], &[])
        }
        "usage" => {
            (&["measurements!", "startDate", "endDate", "projectId", "groupBy", "includeDeleted"], &[])
        }
        "serviceCreate" => (
            &["input!"],
            &["projectId!", "environmentId", "name", "source", "variables", "registryCredentials"],
        ),
        "serviceDelete" => (&["id!", "environmentId"], &[]),
        "serviceDomainCreate" => (&["input!"], &["environmentId!", "serviceId!", "targetPort"]),
        "serviceInstanceLimitsUpdate" => {
            (&["input!"], &["environmentId!", "serviceId!", "memoryGB", "vCPUs"])
        }
        "serviceInstanceUpdate" => (
            &["serviceId!", "environmentId", "input!"],
            &[
                "source",
                "region",
                "numReplicas",
                "sleepApplication",
                "healthcheckPath",
                "healthcheckTimeout",
                "startCommand",
                "drainingSeconds",
                "overlapSeconds",
                "restartPolicyType",
                "restartPolicyMaxRetries",
            ],
        ),
        _ => (&[], &[]),
    }
}

/// What is wrong with an operation; nothing of it is carried out then.
pub(super) fn check(operation: &Operation, variables: &Map<String, Value>) -> Result<(), String> {
    let root = if operation.is_mutation { "Mutation" } else { "Query" };
    select(root, &operation.fields)?;
    for (name, kind) in &operation.variables {
        if kind.ends_with('!') && variables.get(name).is_none_or(Value::is_null) {
            return Err(format!("Variable \"${name}\" of required type \"{kind}\" was not provided."));
        }
    }
    for field in &operation.fields {
        let (known, input) = arguments(&field.name);
        let given: Map<String, Value> = field
            .arguments
            .iter()
            .filter_map(|(name, argument)| Some((name.clone(), argument.value(variables)?)))
            .collect();
        keys(&field.name, known, &given)?;
        if let Some(Value::Object(object)) = given.get("input") {
            keys(&format!("{} input", field.name), input, object)?;
        }
    }
    Ok(())
}

fn keys(place: &str, known: &[&str], given: &Map<String, Value>) -> Result<(), String> {
    let is_known = |key: &&String| known.iter().any(|known| known.trim_end_matches('!') == key.as_str());
    if let Some(odd) = given.keys().find(|key| !is_known(key)) {
        return Err(format!("Unknown \"{odd}\" of {place}."));
    }
    let required = known.iter().filter_map(|known| known.strip_suffix('!'));
    match required.into_iter().find(|key| given.get(*key).is_none_or(Value::is_null)) {
        Some(missing) => Err(format!("\"{missing}\" of {place} is required.")),
        None => Ok(()),
    }
}

fn select(kind: &str, selection: &[Field]) -> Result<(), String> {
    for field in selection {
        let known = fields(kind).iter().find(|(name, _)| *name == field.name);
        let Some((_, kind_of_field)) = known else {
            return Err(format!("Cannot query field \"{}\" on type \"{kind}\".", field.name));
        };
        if kind_of_field.is_empty() != field.fields.is_empty() {
            return Err(format!("Field \"{}\" of type \"{kind}\" has a wrong selection.", field.name));
        }
        select(kind_of_field, &field.fields)?;
    }
    Ok(())
}

/// The selected part of a value.
pub(super) fn project(value: &Value, selection: &[Field]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| project(item, selection)).collect(),
        Value::Object(object) if !selection.is_empty() => {
            let part = |field: &Field| {
                let part = object.get(&field.name).map_or(Value::Null, |value| project(value, &field.fields));
                (field.key().to_owned(), part)
            };
            Value::Object(selection.iter().map(part).collect())
        }
        scalar => scalar.clone(),
    }
}
