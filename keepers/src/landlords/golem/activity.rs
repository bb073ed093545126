//! Activities and networks as yagna has them.

use std::time::Duration;

use tracing::warn;

use super::{
    site::Site,
    wire::ActivityState,
    yagna::{Said, escaped},
};
use crate::landlord::CallError;

/// Where activities live.
pub(super) const ACTIVITY: &str = "/activity-api/v1/activity";
/// Where networks live.
pub(super) const NET: &str = "/net-api/v1/net";

/// The activities of an agreement, oldest first.
pub(super) async fn activities(site: &Site, agreement: &str) -> Result<Vec<String>, CallError> {
    let path = format!("{ACTIVITY}?agreementId={}", escaped(agreement));
    match site.yagna.get(&path, Duration::ZERO).await? {
        Said::Good(answer) => answer.json(),
        Said::NotFound => Ok(Vec::new()),
        other => Err(other.unexpected("GET /activity")),
    }
}

/// The state of an activity; `None` when there is none of this id.
pub(super) async fn state(site: &Site, activity: &str) -> Result<Option<ActivityState>, CallError> {
    match site.yagna.get(&format!("{ACTIVITY}/{}/state", escaped(activity)), Duration::ZERO).await? {
        Said::Good(answer) => answer.json().map(Some),
        Said::NotFound | Said::Over(_) => Ok(None),
        other => Err(other.unexpected("GET /activity/state")),
    }
}

/// Destroys an activity. Whether it worked matters little: the end of the agreement ends it, too.
pub(super) async fn destroy(site: &Site, activity: &str) {
    match site.yagna.delete(&format!("{ACTIVITY}/{}", escaped(activity))).await {
        Ok(Said::Good(_) | Said::NotFound | Said::Over(_)) => {}
        Ok(other) => warn!(activity, error = %other.unexpected("DELETE"), "an activity was not destroyed"),
        Err(error) => warn!(activity, %error, "an activity was not destroyed"),
    }
}

/// Removes a network.
pub(super) async fn remove_network(site: &Site, network: &str) {
    match site.yagna.delete(&format!("{NET}/{}", escaped(network))).await {
        Ok(Said::Good(_) | Said::NotFound | Said::Over(_)) => {}
        Ok(other) => warn!(network, error = %other.unexpected("DELETE"), "a network was not removed"),
        Err(error) => warn!(network, %error, "a network was not removed"),
    }
}

/// Why an activity is over.
pub(super) fn ended(state: &ActivityState) -> String {
    let why = state.error_message.as_deref().or(state.reason.as_deref()).unwrap_or("no reason given");
    format!("the activity is Terminated: {why}")
}
