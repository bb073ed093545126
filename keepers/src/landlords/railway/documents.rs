//! The GraphQL documents that are sent. A test holds them against Railway's own description.
//!
//! Enum values stand in the documents, everything else comes as a variable.

use std::{borrow::Cow, fmt::Write as _};

/// A document with one operation.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The operation's name.
    pub(crate) name: &'static str,
    pub(crate) text: Cow<'static, str>,
}

impl Document {
    const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text: Cow::Borrowed(text) }
    }
}

pub(crate) const CHECK: Document = Document::new(
    "Check",
    "query Check($project: String!, $environment: String!) {
  environment(id: $environment, projectId: $project) { id }
  regions(projectId: $project) { name deploymentConstraints { deprecationInfo { isDeprecated replacementRegion } } }
}",
);

pub(crate) const WHOSE_TOKEN: Document =
    Document::new("WhoseToken", "query WhoseToken { projectToken { projectId environmentId } }");

/// All deployments that stand or failed, and what their services used.
pub(crate) const MACHINES_AND_USE: Document = Document::new(
    "MachinesAndUse",
    "query MachinesAndUse($input: DeploymentListInput!, $first: Int!, $project: String!, $since: DateTime!) {
  deployments(input: $input, first: $first) {
    edges { node { id status createdAt deploymentStopped staticUrl service { id name deletedAt } } }
    pageInfo { hasNextPage endCursor }
  }
  usage(projectId: $project, startDate: $since, includeDeleted: true, groupBy: [SERVICE_ID],
    measurements: [CPU_USAGE, MEMORY_USAGE_GB, NETWORK_TX_GB]) { measurement value tags { serviceId } }
}",
);

/// Deployments without their use: further pages, or those of one service.
pub(crate) const MACHINES: Document = Document::new(
    "Machines",
    "query Machines($input: DeploymentListInput!, $first: Int!, $after: String) {
  deployments(input: $input, first: $first, after: $after) {
    edges { node { id status createdAt deploymentStopped staticUrl service { id name deletedAt } } }
    pageInfo { hasNextPage endCursor }
  }
}",
);

/// One deployment.
pub(crate) const DEPLOYMENT: Document = Document::new(
    "Deployment",
    "query Deployment($id: String!) { deployment(id: $id) { id status createdAt deploymentStopped staticUrl } }",
);

/// What a broken-off order left.
pub(crate) const INSTANCE: Document = Document::new(
    "Instance",
    "query Instance($service: String!, $environment: String!) {
  serviceInstance(serviceId: $service, environmentId: $environment) {
    latestDeployment { id status createdAt deploymentStopped staticUrl }
    domains { serviceDomains { domain } }
  }
}",
);

/// The ids of all services, those without a deployment too.
pub(crate) const SERVICES: Document = Document::new(
    "Services",
    "query Services($project: String!, $environment: String!) {
  environment(id: $environment, projectId: $project) { config(decryptVariables: false) }
}",
);

pub(crate) const CREATE: Document = Document::new(
    "Create",
    "mutation Create($input: ServiceCreateInput!) { serviceCreate(input: $input) { id name } }",
);

pub(crate) const UPDATE: Document = Document::new(
    "Update",
    "mutation Update($service: String!, $environment: String!, $input: ServiceInstanceUpdateInput!) {
  serviceInstanceUpdate(serviceId: $service, environmentId: $environment, input: $input)
}",
);

pub(crate) const LIMITS: Document = Document::new(
    "Limits",
    "mutation Limits($input: ServiceInstanceLimitsUpdateInput!) { serviceInstanceLimitsUpdate(input: $input) }",
);

pub(crate) const DOMAIN: Document = Document::new(
    "Domain",
    "mutation Domain($input: ServiceDomainCreateInput!) { serviceDomainCreate(input: $input) { domain } }",
);

pub(crate) const DEPLOY: Document = Document::new(
    "Deploy",
    "mutation Deploy($service: String!, $environment: String!) {
  serviceInstanceDeployV2(serviceId: $service, environmentId: $environment)
}",
);

pub(crate) const REMOVE: Document =
    Document::new("Remove", "mutation Remove($id: String!) { deploymentRemove(id: $id) }");

pub(crate) const DELETE: Document =
    Document::new("Delete", "mutation Delete($id: String!) { serviceDelete(id: $id) }");

/// Asks for the names of this many services at once: fields `s0`, `s1`, … of variables of these names.
pub(crate) fn names(count: usize) -> Document {
    let mut text = String::from("query Names(");
    for place in 0..count {
        // Writing to a string cannot fail.
        let _ = write!(text, "$s{place}: String!");
        text.push_str(if place + 1 < count { ", " } else { ") {" });
    }
    for place in 0..count {
        let _ = write!(text, " s{place}: service(id: $s{place}) {{ id name deletedAt }}");
    }
    text.push_str(" }");
    Document { name: "Names", text: Cow::Owned(text) }
}
