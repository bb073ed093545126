//! What a caller says about a job.

use schemas::{
    Codec, JobId, Lane, ModelToken, Region,
    catalog::token_of,
    job::{JobBody, Message},
    token::TokenError,
};
use uuid::Uuid;

/// A job to submit: where it goes, and its body.
#[derive(Clone, Debug)]
pub struct JobRequest {
    /// Where.
    pub region: Region,
    /// Which model.
    pub model: ModelToken,
    /// How urgent.
    pub lane: Lane,
    /// How the body and the replies are written.
    pub codec: Codec,
    /// W3C trace context to carry through; what has not the shape of one is left out.
    pub traceparent: Option<String>,
    /// The body. Its `id` is made when missing, its `mailbox` is the producer's own when missing.
    pub body: JobBody,
}

impl JobRequest {
    /// A request without input; set `body` yourself. `model` may be the catalog's name or its token.
    pub fn new(region: &str, model: &str) -> Result<Self, TokenError> {
        Ok(Self {
            region: region.parse()?,
            model: token_of(model)?,
            lane: Lane::Normal,
            codec: Codec::Json,
            traceparent: None,
            body: JobBody::default(),
        })
    }

    /// One user message.
    pub fn prompt(region: &str, model: &str, text: impl Into<String>) -> Result<Self, TokenError> {
        let mut request = Self::new(region, model)?;
        request.body.messages = Some(vec![Message { role: "user".into(), content: text.into() }]);
        Ok(request)
    }

    /// The same in another lane.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }
}

/// A new job id: a UUID of version 7, so that ids sort by time.
pub fn new_job_id() -> JobId {
    JobId::new(Uuid::now_v7())
}
