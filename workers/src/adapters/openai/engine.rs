//! What is known of a server beside its answers: whether its engine moves, and whether its models are loaded. Pure.

use std::time::Duration;

use crate::adapters::{dialect::Dialect, load::ServerLoad};

/// Whether the engine makes steps while it has work. vLLM's health check says "well" for hours while its engine hangs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Engine {
    /// Its steps, and since when it has had work and not moved.
    still: Option<(u64, Duration)>,
}

impl Engine {
    /// Takes in a look at the server at a time of the steady clock; gives how long it has had work and made no step.
    pub(super) fn look(&mut self, load: Option<&ServerLoad>, now: Duration) -> Duration {
        let steps = load.filter(|load| load.is_busy()).and_then(|load| load.steps);
        let still = match (steps, self.still) {
            (Some(steps), Some((known, since))) if known == steps => Some((steps, since)),
            (steps, _) => steps.map(|steps| (steps, now)),
        };
        self.still = still;
        still.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since))
    }
}

/// Which models are in memory, where the server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Loaded {
    /// It does not say.
    #[default]
    Unknown,
    /// All it serves, or none: llama.cpp sleeps as a whole.
    All(bool),
    /// These: Ollama loads models when they are asked for, and unloads them after idle minutes.
    Only(Vec<String>),
}

impl Loaded {
    /// Whether a call for this model pays for a load first.
    pub(super) fn is_cold(&self, model: &str) -> bool {
        match self {
            Self::Unknown => false,
            Self::All(loaded) => !loaded,
            Self::Only(models) => !models.iter().any(|loaded| is_same(loaded, model)),
        }
    }

    /// A call for this model ended well, so it is loaded now.
    pub(super) fn warmed(&mut self, model: &str) {
        match self {
            Self::Unknown => {}
            Self::All(loaded) => *loaded = true,
            Self::Only(models) if models.iter().any(|loaded| is_same(loaded, model)) => {}
            Self::Only(models) => models.push(model.to_owned()),
        }
    }
}

/// Whether a server that lists these models serves one under this name.
pub(super) fn is_listed<'a>(
    dialect: Dialect,
    mut listed: impl Iterator<Item = &'a str>,
    model: &str,
) -> bool {
    match dialect {
        Dialect::Ollama => listed.any(|name| is_same(name, model)),
        Dialect::OpenAi | Dialect::Vllm | Dialect::LlamaCpp | Dialect::Tgi | Dialect::SgLang => {
            listed.any(|name| name == model)
        }
    }
}

/// Whether two names of Ollama mean one model: without a tag it is `latest`.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_ascii_lowercase();
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_with_work_that_makes_no_step_stands_still() {
        let at = Duration::from_secs;
        let load = |running, steps| ServerLoad { running: Some(running), steps, ..ServerLoad::default() };
        let mut engine = Engine::default();
        let mut look = |load: Option<ServerLoad>, second| engine.look(load.as_ref(), at(second));
        assert_eq!(look(Some(load(1, Some(5))), 0), at(0));
        assert_eq!(look(Some(load(1, Some(5))), 5), at(5));
        assert_eq!(look(Some(load(2, Some(5))), 50), at(50));
        assert_eq!(look(Some(load(1, Some(6))), 55), at(0), "it moved");
        assert_eq!(look(Some(load(1, Some(6))), 60), at(5));
        assert_eq!(look(Some(load(0, Some(6))), 65), at(0), "it has nothing to do");
        assert_eq!(look(Some(load(1, Some(6))), 70), at(0), "from here on it should move");
        assert_eq!(look(Some(load(1, Some(2))), 75), at(0), "it was started anew");
        assert_eq!(look(None, 80), at(0), "unknown is no hang");
        assert_eq!(look(Some(load(1, None)), 85), at(0));
        let waiting = ServerLoad { waiting: Some(3), steps: Some(2), ..ServerLoad::default() };
        assert_eq!((look(Some(waiting), 90), look(Some(waiting), 99)), (at(0), at(9)), "what waits is work");
    }

    #[test]
    fn a_model_that_is_not_in_memory_is_cold_until_a_call_ended_well() {
        let mut loaded = Loaded::Only(vec!["llama3.2:latest".to_owned()]);
        assert!(!loaded.is_cold("llama3.2") && !loaded.is_cold("Llama3.2:latest"));
        assert!(loaded.is_cold("llama3.2:1b"));
        loaded.warmed("llama3.2:1b");
        assert!(!loaded.is_cold("llama3.2:1b"));
        let mut asleep = Loaded::All(false);
        assert!(asleep.is_cold("m"));
        asleep.warmed("m");
        assert!(!asleep.is_cold("m") && !Loaded::Unknown.is_cold("m"));
    }
}
