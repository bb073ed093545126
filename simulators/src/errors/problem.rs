//! Replicate's error body: a sentence as `detail`, mostly with the status and sometimes with a title.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::reply;

/// A refusal, in words for its caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'static str>,
    detail: String,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    /// Seconds for a `Retry-After` header.
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, title: Option<&'static str>, detail: impl Into<String>) -> Self {
        Self { title, detail: detail.into(), status, retry_after: None }
    }

    /// The usual body of this status.
    pub(crate) fn usual(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => {
                let detail = "You did not pass a valid authentication token";
                Self::new(status, Some("Unauthenticated"), detail)
            }
            StatusCode::PAYMENT_REQUIRED => {
                let detail = "You have insufficient credit to run this model.";
                Self::new(status, Some("Insufficient credit"), detail)
            }
            StatusCode::FORBIDDEN => {
                Self::new(status, Some("Forbidden"), "You do not have permission to perform this action.")
            }
            StatusCode::NOT_FOUND => Self::new(status, None, "The requested resource could not be found."),
            StatusCode::UNPROCESSABLE_ENTITY => Self::unprocessable("The request could not be understood."),
            // Only a limit knows the seconds until it resets.
            StatusCode::TOO_MANY_REQUESTS => Self::new(status, None, "Request was throttled."),
            _ => {
                let detail = status.canonical_reason().unwrap_or("Something went wrong");
                Self::new(status, None, detail)
            }
        }
    }

    /// No such model, version or prediction.
    pub(crate) fn not_found() -> Self {
        Self::usual(StatusCode::NOT_FOUND)
    }

    /// The request does not fit the model or the API.
    pub(crate) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Some("Input validation failed"), detail)
    }

    /// Too many requests. With `header`, the seconds also go into a `Retry-After` header.
    pub(crate) fn throttled(seconds: u64, header: bool) -> Self {
        let detail = format!("Request was throttled. Your rate limit resets in ~{seconds}s.");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, None, detail);
        Self { retry_after: header.then_some(seconds), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = reply::answer(self.status, &self);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
