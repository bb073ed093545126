//! The body of a create, checked against the API and against the model's input schema. Nothing here awaits.

use serde_json::{Map, Value};

use super::hook::Hook;
use crate::{
    config::{ReplicateSettings, SimulatedModel},
    errors::problem::Problem,
    text::{self, Answer, Prompt},
};

/// A body that the API understands; whether the model does is another question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Given on `POST /v1/predictions` only, and there always.
    pub(crate) version: Option<String>,
    pub(crate) input: Map<String, Value>,
    pub(crate) hook: Option<Hook>,
}

impl Ask {
    /// Decodes a body; `versioned` tells that the route names no model itself.
    pub(crate) fn decode(body: &[u8], versioned: bool) -> Result<Self, Problem> {
        let body: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| Problem::unprocessable(format!("The body is no JSON object: {error}")))?;
        let all = ["input", "webhook", "webhook_events_filter", "stream", "version"];
        let known = if versioned { &all[..] } else { &all[..4] };
        if let Some(odd) = body.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Problem::unprocessable(format!("- {odd}: Additional property is not allowed")));
        }
        if body.get("stream").is_some_and(|stream| !stream.is_boolean()) {
            return Err(wrong("stream", "a boolean"));
        }
        let version = match (versioned, body.get("version")) {
            (false, _) => None,
            (true, Some(Value::String(version))) => Some(version.clone()),
            (true, Some(_)) => return Err(wrong("version", "a string")),
            (true, None) => return Err(Problem::unprocessable("- version is required")),
        };
        let hook = match body.get("webhook") {
            None => None,
            Some(Value::String(url)) => Some(Hook::parse(url, body.get("webhook_events_filter"))?),
            Some(_) => return Err(wrong("webhook", "a string")),
        };
        match body.get("input") {
            Some(Value::Object(input)) => Ok(Self { version, input: input.clone(), hook }),
            Some(_) => Err(wrong("input", "an object")),
            None => Err(Problem::unprocessable("- input is required")),
        }
    }

    /// The model's answer to this input, or the reason why there is none.
    pub(crate) fn answer(
        &self,
        seed: u64,
        model: &SimulatedModel,
        settings: &ReplicateSettings,
    ) -> Result<Answer, Problem> {
        let limit_key = settings.max_tokens_key.as_str();
        let known = ["prompt", "system_prompt", limit_key, "temperature", "top_p", "seed", "stop_sequences"];
        if let Some(odd) = self.input.keys().find(|key| !known.contains(&key.as_str()))
            && !settings.lenient_input
        {
            return Err(Problem::unprocessable(format!("- input.{odd}: Additional property is not allowed")));
        }
        let mut prompt = Prompt::default();
        if let Some(system) = self.text("system_prompt")? {
            prompt.message("system", system);
        }
        let user =
            self.text("prompt")?.ok_or_else(|| Problem::unprocessable("- input: prompt is required"))?;
        prompt.message("user", user);
        self.number("temperature", |value| value >= 0.0, "at least 0")?;
        self.number("top_p", |value| value > 0.0 && value <= 1.0, "above 0 and at most 1")?;
        if self.input.get("seed").is_some_and(|seed| !seed.is_i64() && !seed.is_u64()) {
            return Err(wrong("input.seed", "an integer"));
        }
        let stop = self.text("stop_sequences")?.unwrap_or_default();
        let stop: Vec<_> = stop.split(',').filter(|stop| !stop.is_empty()).map(str::to_owned).collect();
        let limit = self.limit(limit_key, prompt.tokens, model.context_tokens)?;
        Ok(text::compose(seed, model, &prompt, limit, &stop))
    }

    /// How long the answer may be, if that fits the context.
    fn limit(&self, key: &str, read: u32, context: u32) -> Result<u32, Problem> {
        let asked = match self.input.get(key) {
            None => None,
            Some(value) => match value.as_i64() {
                Some(asked) if asked >= 1 => Some(u32::try_from(asked).unwrap_or(u32::MAX)),
                Some(_) => return Err(wrong(&format!("input.{key}"), "at least 1")),
                None => return Err(wrong(&format!("input.{key}"), "an integer")),
            },
        };
        text::limit(context, read, asked).ok_or_else(|| {
            Problem::unprocessable(format!(
                "- input: {read} tokens of prompt and {key} together exceed the context length of {context}"
            ))
        })
    }

    fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.input.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(&format!("input.{key}"), "a string")),
        }
    }

    fn number(&self, key: &str, fine: impl FnOnce(f64) -> bool, rule: &str) -> Result<(), Problem> {
        match self.input.get(key).map(Value::as_f64) {
            None => Ok(()),
            Some(Some(value)) if fine(value) => Ok(()),
            Some(Some(_)) => Err(wrong(&format!("input.{key}"), rule)),
            Some(None) => Err(wrong(&format!("input.{key}"), "a number")),
        }
    }
}

fn wrong(key: &str, rule: &str) -> Problem {
    Problem::unprocessable(format!("- {key}: Must be {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MaxTokensKey;

    fn answer(input: &str, settings: &ReplicateSettings) -> Result<Answer, Problem> {
        let ask = Ask::decode(format!(r#"{{"input":{input}}}"#).as_bytes(), false)?;
        ask.answer(1, &SimulatedModel { context_tokens: 100, ..SimulatedModel::new("m/n") }, settings)
    }

    #[test]
    fn a_usual_input_is_answered_and_its_tokens_are_counted() {
        let input = r#"{"prompt":"why is the sky blue?","system_prompt":"be brief","max_tokens":9,
            "temperature":0.2,"top_p":0.9,"seed":7,"stop_sequences":"</s>,###"}"#;
        let answer = answer(input, &ReplicateSettings::default()).unwrap();
        assert_eq!((answer.prompt_tokens, answer.token_count()), (2 + 5 + 8, 9));
    }

    #[test]
    fn a_body_the_api_does_not_know_is_refused() {
        for body in [
            "no json",
            "[]",
            "{}",
            r#"{"input":"hi"}"#,
            r#"{"input":{"prompt":"hi"},"version":"m/n"}"#,
            r#"{"input":{"prompt":"hi"},"model":"m/n"}"#,
            r#"{"input":{"prompt":"hi"},"stream":"yes"}"#,
            r#"{"input":{"prompt":"hi"},"webhook":7}"#,
            r#"{"input":{"prompt":"hi"},"webhook":"nowhere"}"#,
            r#"{"input":{"prompt":"hi"},"webhook":"http://h/","webhook_events_filter":["end"]}"#,
        ] {
            assert!(Ask::decode(body.as_bytes(), false).is_err(), "{body}");
        }
        let versioned = Ask::decode(br#"{"input":{},"version":"m/n"}"#, true).unwrap();
        assert_eq!(versioned.version.as_deref(), Some("m/n"));
        assert!(Ask::decode(br#"{"input":{}}"#, true).is_err());
    }

    #[test]
    fn an_input_the_model_does_not_take_is_refused() {
        for input in [
            "{}",
            r#"{"prompt":7}"#,
            r#"{"prompt":"hi","max_tokens":0}"#,
            r#"{"prompt":"hi","max_tokens":"many"}"#,
            r#"{"prompt":"hi","max_tokens":96}"#,
            r#"{"prompt":"hi","max_new_tokens":9}"#,
            r#"{"prompt":"hi","temperature":-1}"#,
            r#"{"prompt":"hi","top_p":0}"#,
            r#"{"prompt":"hi","seed":0.5}"#,
            r#"{"prompt":"hi","stop_sequences":["x"]}"#,
            r#"{"prompt":"hi","beacon":"j-1"}"#,
        ] {
            assert!(answer(input, &ReplicateSettings::default()).is_err(), "{input}");
        }
        let lenient = ReplicateSettings { lenient_input: true, ..ReplicateSettings::default() };
        assert!(answer(r#"{"prompt":"hi","beacon":"j-1"}"#, &lenient).is_ok());
        let other =
            ReplicateSettings { max_tokens_key: MaxTokensKey::MaxNewTokens, ..ReplicateSettings::default() };
        assert!(answer(r#"{"prompt":"hi","max_new_tokens":9}"#, &other).is_ok());
    }
}
