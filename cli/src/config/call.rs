//! How a pool's provider is called: which keys belong to which `kind`, and the adapter they make.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use simulators::SimulatorConfig;
use workers::{
    adapters::{
        Billing, Dialect, Modal, ModalConfig, ModalMode, Noop, OpenAi, OpenAiConfig, Secret as Hidden,
        http::{BaseUrl, BuildError},
    },
    provider::Provider,
};

use super::{Rule, at_least, pools::Secret, span::Span};
use crate::environment;

/// Shorter limits would refuse a healthy server.
const LIMIT_MIN: Span = Span::millis(10);

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// An OpenAI-compatible server.
    OpenAi,
    /// Beacon's app on Modal.
    Modal,
    /// Nobody: every job succeeds at once. For measurements.
    Noop,
}

/// The keys of a pool that say how to call.
#[derive(Debug)]
pub(super) struct RawCall {
    pub(super) kind: Kind,
    pub(super) base_url: Option<String>,
    pub(super) simulator: Option<String>,
    pub(super) dialect: Option<Dialect>,
    pub(super) billing: Option<Billing>,
    pub(super) stream: Option<bool>,
    pub(super) health_path: Option<String>,
    pub(super) connect_timeout: Option<Span>,
    pub(super) first_byte_timeout: Option<Span>,
    pub(super) idle_timeout: Option<Span>,
    pub(super) mode: Option<ModalMode>,
    pub(super) api_key_env: Option<String>,
    pub(super) api_key_file: Option<PathBuf>,
    pub(super) modal_key_env: Option<String>,
    pub(super) modal_key_file: Option<PathBuf>,
    pub(super) modal_secret_env: Option<String>,
    pub(super) modal_secret_file: Option<PathBuf>,
    pub(super) delay: Option<Span>,
}

/// How to call, checked; secrets are not read yet.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// The adapter's own settings, without address and key.
    OpenAi {
        at: At,
        settings: Box<OpenAiConfig>,
        key: Option<Secret>,
    },
    Modal {
        at: At,
        mode: ModalMode,
        key: Option<(Secret, Secret)>,
    },
    Noop {
        delay: Duration,
    },
}

/// Where the provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    Url(String),
    /// A simulator that runs in the same process, by name.
    Simulator(String),
}

impl RawCall {
    pub(super) fn check(
        self,
        pool: &str,
        simulators: &[SimulatorConfig],
        folder: &Path,
    ) -> Result<Call, Rule> {
        self.only_its_own_keys(pool)?;
        let place = || place(pool, self.base_url.as_deref(), self.simulator.as_deref(), simulators);
        let secret = |name, variable: &Option<String>, file: &Option<PathBuf>| {
            Secret::named(pool, name, variable.clone(), file.clone(), folder)
        };
        match self.kind {
            Kind::Noop => Ok(Call::Noop { delay: self.delay.map_or(Duration::ZERO, Span::get) }),
            Kind::OpenAi => Ok(Call::OpenAi {
                at: place()?,
                settings: Box::new(self.settings(pool)?),
                key: secret("api_key", &self.api_key_env, &self.api_key_file)?,
            }),
            Kind::Modal => {
                let key = secret("modal_key", &self.modal_key_env, &self.modal_key_file)?;
                let secret = secret("modal_secret", &self.modal_secret_env, &self.modal_secret_file)?;
                let key = match (key, secret) {
                    (Some(key), Some(secret)) => Some((key, secret)),
                    (None, None) => None,
                    (Some(_), None) | (None, Some(_)) => {
                        let rule = "goes with a secret: give both modal_key_… and modal_secret_…, or neither";
                        return Err(Rule::new(format!("{pool}.modal_key_env"), rule));
                    }
                };
                Ok(Call::Modal { at: place()?, mode: self.mode.unwrap_or_default(), key })
            }
        }
    }

    /// What the OpenAI adapter is told besides address and key.
    fn settings(&self, pool: &str) -> Result<OpenAiConfig, Rule> {
        let plan = OpenAiConfig::new("");
        let key = |field: &str| format!("{pool}.{field}");
        let span = |field: &str, given: Option<Span>, plan: Duration| match given {
            Some(span) => at_least(&key(field), span, LIMIT_MIN, ""),
            None => Ok(plan),
        };
        if let Some(path) = self.health_path.as_ref().filter(|path| !path.starts_with('/')) {
            return Err(Rule::new(key("health_path"), format!("`{path}` must begin with a slash")));
        }
        Ok(OpenAiConfig {
            dialect: self.dialect.unwrap_or_default(),
            billing: self.billing.ok_or_else(|| {
                Rule::new(key("billing"), "must be given: per_inference, per_second or per_token")
            })?,
            stream: self.stream.unwrap_or(plan.stream),
            health_path: self.health_path.clone(),
            connect_timeout: span("connect_timeout", self.connect_timeout, plan.connect_timeout)?,
            first_byte_timeout: span("first_byte_timeout", self.first_byte_timeout, plan.first_byte_timeout)?,
            idle_timeout: span("idle_timeout", self.idle_timeout, plan.idle_timeout)?,
            ..plan
        })
    }

    /// A key of another kind would be ignored, and somebody meant something by it.
    fn only_its_own_keys(&self, pool: &str) -> Result<(), Rule> {
        use Kind as K;
        let remote: &[Kind] = &[K::OpenAi, K::Modal];
        let given: [(&str, bool, &[Kind]); 17] = [
            ("base_url", self.base_url.is_some(), remote),
            ("simulator", self.simulator.is_some(), remote),
            ("dialect", self.dialect.is_some(), &[K::OpenAi]),
            ("billing", self.billing.is_some(), &[K::OpenAi]),
            ("stream", self.stream.is_some(), &[K::OpenAi]),
            ("health_path", self.health_path.is_some(), &[K::OpenAi]),
            ("connect_timeout", self.connect_timeout.is_some(), &[K::OpenAi]),
            ("first_byte_timeout", self.first_byte_timeout.is_some(), &[K::OpenAi]),
            ("idle_timeout", self.idle_timeout.is_some(), &[K::OpenAi]),
            ("api_key_env", self.api_key_env.is_some(), &[K::OpenAi]),
            ("api_key_file", self.api_key_file.is_some(), &[K::OpenAi]),
            ("mode", self.mode.is_some(), &[K::Modal]),
            ("modal_key_env", self.modal_key_env.is_some(), &[K::Modal]),
            ("modal_key_file", self.modal_key_file.is_some(), &[K::Modal]),
            ("modal_secret_env", self.modal_secret_env.is_some(), &[K::Modal]),
            ("modal_secret_file", self.modal_secret_file.is_some(), &[K::Modal]),
            ("delay", self.delay.is_some(), &[K::Noop]),
        ];
        match given.into_iter().find(|(_, given, kinds)| *given && !kinds.contains(&self.kind)) {
            None => Ok(()),
            Some((key, ..)) => Err(Rule::new(
                format!("{pool}.{key}"),
                format!("is not a key of kind {:?}", self.kind).to_lowercase(),
            )),
        }
    }
}

fn place(
    pool: &str,
    base_url: Option<&str>,
    simulator: Option<&str>,
    simulators: &[SimulatorConfig],
) -> Result<At, Rule> {
    let key = |field: &str| format!("{pool}.{field}");
    match (base_url, simulator) {
        (Some(_), Some(_)) => {
            Err(Rule::new(key("simulator"), "only one of base_url and simulator may be given"))
        }
        (None, None) => Err(Rule::new(key("base_url"), "must be given (or simulator)")),
        (Some(url), None) => match BaseUrl::parse(url) {
            Ok(_) => Ok(At::Url(url.to_owned())),
            // Its message begins with the key, which we say ourselves.
            Err(error) => Err(Rule::new(key("base_url"), error.to_string().trim_start_matches("base_url "))),
        },
        (None, Some(name)) => {
            if simulators.iter().any(|simulator| simulator.name == name) {
                return Ok(At::Simulator(name.to_owned()));
            }
            Err(Rule::new(key("simulator"), format!("there is no [[simulators]] entry named `{name}`")))
        }
    }
}

impl Call {
    /// The simulator it names, if it names one.
    pub(super) fn simulator(&self) -> Option<&str> {
        match self {
            Self::OpenAi { at: At::Simulator(name), .. } | Self::Modal { at: At::Simulator(name), .. } => {
                Some(name)
            }
            Self::OpenAi { at: At::Url(_), .. } | Self::Modal { at: At::Url(_), .. } | Self::Noop { .. } => {
                None
            }
        }
    }

    /// Whether every secret is there.
    pub(super) fn check_secrets(&self) -> Result<(), Rule> {
        let secrets = match self {
            Self::OpenAi { key, .. } => vec![key.as_ref()],
            Self::Modal { key, .. } => vec![key.as_ref().map(|k| &k.0), key.as_ref().map(|k| &k.1)],
            Self::Noop { .. } => Vec::new(),
        };
        secrets.into_iter().flatten().try_for_each(|secret| secret.read(environment::variable).map(drop))
    }

    /// The adapter, with its secrets read. `simulated` gives the address of a simulator in this process.
    pub(super) fn provider(
        &self,
        pool: &str,
        simulated: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Arc<dyn Provider>, Rule> {
        let read = |secret: &Secret| secret.read(environment::variable).map(Hidden::new);
        let refuse = |error: BuildError| Rule::new(pool, error.to_string());
        match self {
            Self::OpenAi { at, settings, key } => {
                let config = OpenAiConfig {
                    base_url: at.resolve(pool, simulated)?,
                    api_key: key.as_ref().map(read).transpose()?,
                    ..settings.as_ref().clone()
                };
                Ok(Arc::new(OpenAi::new(config).map_err(refuse)?))
            }
            Self::Modal { at, mode, key } => {
                let mut config = ModalConfig::new(at.resolve(pool, simulated)?, *mode);
                if let Some((key, secret)) = key {
                    config.key = Some(read(key)?);
                    config.secret = Some(read(secret)?);
                }
                Ok(Arc::new(Modal::new(config).map_err(refuse)?))
            }
            Self::Noop { delay } => Ok(Arc::new(Noop::new(*delay))),
        }
    }
}

impl At {
    fn resolve(&self, pool: &str, simulated: &dyn Fn(&str) -> Option<String>) -> Result<String, Rule> {
        match self {
            Self::Url(url) => Ok(url.clone()),
            Self::Simulator(name) => simulated(name).ok_or_else(|| {
                let rule =
                    format!("`{name}` runs only inside `beacon up`; give a base_url to a worker of its own");
                Rule::new(format!("{pool}.simulator"), rule)
            }),
        }
    }
}
