//! How a pool's provider is called: which keys belong to which `kind`, and the adapter they make.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schemas::{prices::PriceBook, topology::Settings};
use simulators::SimulatorConfig;
use workers::{
    adapters::{
        Billing, Evidence, Modal, ModalConfig, ModalMode, Noop, OpenAi, OpenAiConfig, Replicate,
        ReplicateConfig, RunPod, RunPodConfig, RunPodMode, Secret as Hidden,
        http::{BaseUrl, BuildError},
        openai::METRICS_OFF,
    },
    provider::Provider,
    rented::{Isolation, Rented, RentedConfig},
    webhooks::SigningKey,
};

use super::{
    landlords::LandlordConfig,
    process::Shared,
    raw_pool::{Kind, Mode, RawPool},
    rule::{Rule, at_least},
    secret::Secret,
    span::Span,
};
use crate::environment;

/// Shorter limits would refuse a healthy server.
const LIMIT_MIN: Span = Span::millis(10);

/// The default endpoint of a simulated RunPod.
const SIMULATED_ENDPOINT: &str = "ep-sim";

/// How to call, checked. Secrets are not read yet.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// The adapter's own settings, without address and key.
    OpenAi {
        at: At,
        settings: Box<OpenAiConfig>,
        key: Option<Secret>,
    },
    /// Machines that come and go: the adapter's settings, without address, key and billing.
    Rented {
        settings: Box<OpenAiConfig>,
        /// From which each machine's key is derived.
        secret: Option<Secret>,
        slots: u32,
        affinity: bool,
        isolation: Isolation,
    },
    Modal {
        at: At,
        mode: ModalMode,
        key: Option<(Secret, Secret)>,
    },
    RunPod {
        at: At,
        settings: Box<RunPodConfig>,
        key: Option<Secret>,
        webhook: bool,
    },
    Replicate {
        at: At,
        settings: Box<ReplicateConfig>,
        key: Option<Secret>,
        /// The key with which the account signs its webhooks.
        webhook: Option<Secret>,
    },
    Noop {
        delay: Duration,
    },
}

/// Whom a pool calls.
pub(super) struct Called {
    pub(super) provider: Arc<dyn Provider>,
    /// The same, where the pool's machines are rented.
    pub(super) machines: Option<Arc<Rented>>,
}

/// Where the provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    Url(String),
    /// A simulator that runs in the same process, by name.
    Simulator(String),
}

/// The parts of the configuration that a pool is checked against.
pub(super) struct World<'a> {
    /// The accounts in which machines may be rented.
    pub(super) landlords: &'a [LandlordConfig],
    pub(super) topology: &'a Settings,
    pub(super) prices: &'a PriceBook,
    pub(super) simulators: &'a [SimulatorConfig],
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    /// True if `[workers.webhooks]` is configured.
    pub(super) receives: bool,
}

/// The keys of a pool that say how to call.
impl RawPool {
    fn call(&self, pool: &str, world: &World<'_>) -> Result<Call, Rule> {
        self.only_its_own_keys(pool)?;
        if self.webhook == Some(true) && !world.receives {
            let rule = "needs [workers.webhooks] with listen and public_url";
            return Err(Rule::new(format!("{pool}.webhook"), rule));
        }
        let place = || place(pool, self.base_url.as_deref(), self.simulator.as_deref(), world.simulators);
        let secret = |name, variable: &Option<String>, file: &Option<PathBuf>| {
            Secret::named(pool, name, variable.clone(), file.clone(), world.folder)
        };
        match self.kind {
            Kind::Noop => Ok(Call::Noop { delay: self.delay.map_or(Duration::ZERO, Span::get) }),
            Kind::OpenAi => Ok(Call::OpenAi {
                at: place()?,
                settings: Box::new(self.settings(pool)?),
                key: secret("api_key", &self.api_key_env, &self.api_key_file)?,
            }),
            Kind::Rented => Ok(Call::Rented {
                settings: Box::new(self.server(pool)?),
                secret: secret("machine_secret", &self.machine_secret_env, &self.machine_secret_file)?,
                slots: self.slots,
                affinity: self.affinity.unwrap_or(true),
                isolation: self.isolation.unwrap_or_default(),
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
                Ok(Call::Modal { at: place()?, mode: self.modal_mode(pool)?, key })
            }
            Kind::RunPod => Ok(Call::RunPod {
                at: place()?,
                settings: Box::new(self.runpod(pool)?),
                key: secret("api_key", &self.api_key_env, &self.api_key_file)?,
                webhook: self.webhook.unwrap_or(false),
            }),
            Kind::Replicate => {
                let signing = secret("webhook_secret", &self.webhook_secret_env, &self.webhook_secret_file)?;
                let webhook = match (self.webhook.unwrap_or(false), signing) {
                    (true, None) => {
                        let rule =
                            "needs webhook_secret_env or webhook_secret_file: without it nobody is believed";
                        return Err(Rule::new(format!("{pool}.webhook"), rule));
                    }
                    (false, Some(_)) => {
                        return Err(Rule::new(
                            format!("{pool}.webhook"),
                            "must be true where it has a secret",
                        ));
                    }
                    (_, signing) => signing,
                };
                Ok(Call::Replicate {
                    at: place()?,
                    settings: Box::new(self.replicate(pool)?),
                    key: secret("api_key", &self.api_key_env, &self.api_key_file)?,
                    webhook,
                })
            }
        }
    }

    /// The settings of the OpenAI adapter, without address and key.
    fn settings(&self, pool: &str) -> Result<OpenAiConfig, Rule> {
        let billing = self.billing.ok_or_else(|| {
            let rule = "must be given: per_inference, per_second or per_token";
            Rule::new(format!("{pool}.billing"), rule)
        })?;
        Ok(OpenAiConfig { billing, ..self.server(pool)? })
    }

    /// The same without billing, which rented machines do not need: a job costs its share of the machine.
    fn server(&self, pool: &str) -> Result<OpenAiConfig, Rule> {
        let plan = OpenAiConfig::new("");
        let key = |field: &str| format!("{pool}.{field}");
        let span = |field: &str, given: Option<Span>, plan: Duration| match given {
            Some(span) => at_least(&key(field), span, LIMIT_MIN, ""),
            None => Ok(plan),
        };
        if let Some(path) = self.health_path.as_ref().filter(|path| !path.starts_with('/')) {
            return Err(Rule::new(key("health_path"), format!("`{path}` must begin with a slash")));
        }
        let dialect = self.dialect.unwrap_or_default();
        if let Some(path) = &self.metrics_path {
            if dialect.metrics_path().is_none() {
                let rule = "goes with a dialect that has metrics: vllm, llamacpp, tgi or sglang";
                return Err(Rule::new(key("metrics_path"), rule));
            }
            if !path.starts_with('/') && path != METRICS_OFF {
                let rule = format!("`{path}` must begin with a slash, or be \"{METRICS_OFF}\"");
                return Err(Rule::new(key("metrics_path"), rule));
            }
        }
        Ok(OpenAiConfig {
            dialect,
            stream: self.stream.unwrap_or(plan.stream),
            evidence: Evidence {
                trust_done: self.trust_done.unwrap_or(false),
                reasons: self.finish_reasons.clone().unwrap_or_default(),
            },
            health_path: self.health_path.clone(),
            metrics_path: self.metrics_path.clone(),
            connect_timeout: span("connect_timeout", self.connect_timeout, plan.connect_timeout)?,
            first_byte_timeout: span("first_byte_timeout", self.first_byte_timeout, plan.first_byte_timeout)?,
            idle_timeout: span("idle_timeout", self.idle_timeout, plan.idle_timeout)?,
            ..plan
        })
    }

    fn modal_mode(&self, pool: &str) -> Result<ModalMode, Rule> {
        match self.mode {
            None | Some(Mode::OpenAi) => Ok(ModalMode::OpenAi),
            Some(Mode::Wait) => Ok(ModalMode::Wait),
            Some(Mode::Spawn) => Ok(ModalMode::Spawn),
            Some(Mode::Run | Mode::RunSync) => {
                Err(Rule::new(format!("{pool}.mode"), "must be openai, wait or spawn for kind modal"))
            }
        }
    }

    /// The pauses between polls: given, or the adapter's.
    fn polls(&self, pool: &str, plan: (Duration, Duration)) -> Result<(Duration, Duration), Rule> {
        let least = |field: &str, given: Option<Span>, plan| match given {
            Some(span) => at_least(&format!("{pool}.{field}"), span, LIMIT_MIN, ""),
            None => Ok(plan),
        };
        let min = least("poll_min", self.poll_min, plan.0)?;
        let max = least("poll_max", self.poll_max, plan.1.max(min))?;
        if max < min {
            return Err(Rule::new(format!("{pool}.poll_max"), "must not be shorter than poll_min"));
        }
        Ok((min, max))
    }

    /// The settings of the RunPod adapter, without address and key.
    fn runpod(&self, pool: &str) -> Result<RunPodConfig, Rule> {
        let plan = RunPodConfig::new("");
        let mode = match self.mode {
            None | Some(Mode::Run) => RunPodMode::Run,
            Some(Mode::RunSync) => RunPodMode::RunSync,
            Some(Mode::OpenAi | Mode::Wait | Mode::Spawn) => {
                return Err(Rule::new(format!("{pool}.mode"), "must be run or runsync for kind runpod"));
            }
        };
        let wait = self.wait.map_or(plan.wait, Span::get);
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&wait) {
            return Err(Rule::new(format!("{pool}.wait"), "must be 1s to 300s"));
        }
        let (poll_min, poll_max) = self.polls(pool, (plan.poll_min, plan.poll_max))?;
        Ok(RunPodConfig {
            mode,
            wait,
            poll_min,
            poll_max,
            queue_timeout: self.queue_timeout.map_or(plan.queue_timeout, Span::get),
            trust_requests: self.trust_requests.unwrap_or(plan.trust_requests),
            billing_url: self.billing_url.clone(),
            ..plan
        })
    }

    /// The settings of the Replicate adapter, without address and key.
    fn replicate(&self, pool: &str) -> Result<ReplicateConfig, Rule> {
        let plan = ReplicateConfig::new("");
        let key = |field: &str| format!("{pool}.{field}");
        let billing = match self.billing {
            Some(billing @ (Billing::PerSecond | Billing::PerToken)) => billing,
            Some(Billing::PerInference) | None => {
                return Err(Rule::new(key("billing"), "must be given: per_second or per_token"));
            }
        };
        let wait = self.wait.map_or(plan.wait, Span::get);
        if wait > Duration::from_secs(60) {
            return Err(Rule::new(key("wait"), "must be at most 60s; 0s never holds a call"));
        }
        let input = self.input.clone().unwrap_or_default();
        if input.prompt.is_empty() {
            return Err(Rule::new(key("input.prompt"), "must not be empty"));
        }
        let (poll_min, poll_max) = self.polls(pool, (plan.poll_min, plan.poll_max))?;
        Ok(ReplicateConfig {
            target: self.target.unwrap_or_default(),
            input,
            billing,
            wait,
            poll_min,
            poll_max,
            ..plan
        })
    }

    /// Refuses a key of another kind: ignored, it would not do what its author meant.
    fn only_its_own_keys(&self, pool: &str) -> Result<(), Rule> {
        use Kind as K;
        let remote: &[Kind] = &[K::OpenAi, K::Modal, K::RunPod, K::Replicate];
        let keyed: &[Kind] = &[K::OpenAi, K::RunPod, K::Replicate];
        let polled: &[Kind] = &[K::RunPod, K::Replicate];
        // A machine that is rented is paid for while it stands, and has no idle time of its own.
        let owned: &[Kind] = &[K::OpenAi, K::Modal, K::RunPod, K::Replicate, K::Noop];
        let served: &[Kind] = &[K::OpenAi, K::Rented];
        let given: [(&str, bool, &[Kind]); 37] = [
            ("base_url", self.base_url.is_some(), remote),
            ("simulator", self.simulator.is_some(), remote),
            ("dialect", self.dialect.is_some(), served),
            ("billing", self.billing.is_some(), &[K::OpenAi, K::Replicate]),
            ("stream", self.stream.is_some(), served),
            ("trust_done", self.trust_done.is_some(), served),
            ("finish_reasons", self.finish_reasons.is_some(), served),
            ("health_path", self.health_path.is_some(), &[K::OpenAi]),
            ("metrics_path", self.metrics_path.is_some(), served),
            ("connect_timeout", self.connect_timeout.is_some(), served),
            ("first_byte_timeout", self.first_byte_timeout.is_some(), served),
            ("idle_timeout", self.idle_timeout.is_some(), served),
            ("api_key_env", self.api_key_env.is_some(), keyed),
            ("api_key_file", self.api_key_file.is_some(), keyed),
            ("mode", self.mode.is_some(), &[K::Modal, K::RunPod]),
            ("wait", self.wait.is_some(), polled),
            ("poll_min", self.poll_min.is_some(), polled),
            ("poll_max", self.poll_max.is_some(), polled),
            ("webhook", self.webhook.is_some(), polled),
            ("queue_timeout", self.queue_timeout.is_some(), &[K::RunPod]),
            ("trust_requests", self.trust_requests.is_some(), &[K::RunPod]),
            ("billing_url", self.billing_url.is_some(), &[K::RunPod]),
            ("target", self.target.is_some(), &[K::Replicate]),
            ("input", self.input.is_some(), &[K::Replicate]),
            ("webhook_secret_env", self.webhook_secret_env.is_some(), &[K::Replicate]),
            ("webhook_secret_file", self.webhook_secret_file.is_some(), &[K::Replicate]),
            ("machine_secret_env", self.machine_secret_env.is_some(), &[K::Rented]),
            ("machine_secret_file", self.machine_secret_file.is_some(), &[K::Rented]),
            ("affinity", self.affinity.is_some(), &[K::Rented]),
            ("isolation", self.isolation.is_some(), &[K::Rented]),
            ("idle", self.idle.is_some(), owned),
            ("rented", self.rented.is_some(), owned),
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
            // The error's message begins with the key, which is named here already.
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
    /// How a pool calls; `pool` is its key in the file.
    pub(super) fn check(raw: &RawPool, pool: &str, world: &World<'_>) -> Result<Self, Rule> {
        raw.call(pool, world)
    }

    /// The simulator it names, if it names one.
    pub(super) fn simulator(&self) -> Option<&str> {
        match self {
            Self::OpenAi { at, .. }
            | Self::Modal { at, .. }
            | Self::RunPod { at, .. }
            | Self::Replicate { at, .. } => match at {
                At::Simulator(name) => Some(name),
                At::Url(_) => None,
            },
            Self::Rented { .. } | Self::Noop { .. } => None,
        }
    }

    /// The names at the provider of what jobs go to: an endpoint, deployments. What bears none of them is not ours.
    pub(super) fn handles(&self, served_as: impl Iterator<Item = String>) -> Vec<String> {
        match self {
            Self::RunPod { at: At::Url(url), .. } => {
                url.trim_end_matches('/').rsplit('/').next().map(str::to_owned).into_iter().collect()
            }
            Self::RunPod { at: At::Simulator(_), .. } => vec![SIMULATED_ENDPOINT.to_owned()],
            Self::Replicate { .. } => served_as.collect(),
            Self::OpenAi { .. } | Self::Modal { .. } | Self::Rented { .. } | Self::Noop { .. } => Vec::new(),
        }
    }

    /// Checks that every secret is there.
    pub(super) fn check_secrets(&self) -> Result<(), Rule> {
        let secrets = match self {
            Self::OpenAi { key, .. } | Self::RunPod { key, .. } => vec![key.as_ref()],
            Self::Replicate { key, webhook, .. } => vec![key.as_ref(), webhook.as_ref()],
            Self::Modal { key, .. } => vec![key.as_ref().map(|k| &k.0), key.as_ref().map(|k| &k.1)],
            Self::Rented { secret, .. } => vec![secret.as_ref()],
            Self::Noop { .. } => Vec::new(),
        };
        secrets.into_iter().flatten().try_for_each(|secret| secret.read(environment::variable).map(drop))
    }

    /// From which the keys of the pool's machines are derived.
    pub(super) fn machine_secret(&self) -> Option<Secret> {
        match self {
            Self::Rented { secret, .. } => secret.clone(),
            Self::OpenAi { .. }
            | Self::Modal { .. }
            | Self::RunPod { .. }
            | Self::Replicate { .. }
            | Self::Noop { .. } => None,
        }
    }

    /// Whether the pool's machines are rented.
    pub(super) fn is_rented(&self) -> bool {
        matches!(self, Self::Rented { .. })
    }

    /// Whom the pool calls, with its secrets read.
    pub(super) fn provider(
        &self,
        pool: &str,
        simulated: &dyn Fn(&str) -> Option<String>,
        shared: &Shared,
    ) -> Result<Called, Rule> {
        let read = |secret: &Secret| secret.read(environment::variable).map(Hidden::new);
        let refuse = |error: BuildError| Rule::new(pool, error.to_string());
        let provider: Arc<dyn Provider> = match self {
            Self::OpenAi { at, settings, key } => {
                let config = OpenAiConfig {
                    base_url: at.resolve(pool, simulated)?,
                    api_key: key.as_ref().map(read).transpose()?,
                    ..settings.as_ref().clone()
                };
                Arc::new(OpenAi::new(config).map_err(refuse)?)
            }
            Self::Modal { at, mode, key } => {
                let mut config = ModalConfig::new(at.resolve(pool, simulated)?, *mode);
                if let Some((key, secret)) = key {
                    config.key = Some(read(key)?);
                    config.secret = Some(read(secret)?);
                }
                Arc::new(Modal::new(config).map_err(refuse)?)
            }
            Self::RunPod { at, settings, key, webhook } => {
                let mut settings = settings.as_ref().clone();
                let mut base_url = at.resolve(pool, simulated)?;
                if let At::Simulator(_) = at {
                    // Its bill is final at once.
                    settings.billing_url = settings.billing_url.or_else(|| Some(base_url.clone()));
                    settings.billing_settles = Duration::ZERO;
                    base_url = format!("{base_url}/v2/{SIMULATED_ENDPOINT}");
                }
                let config = RunPodConfig {
                    base_url,
                    api_key: key.as_ref().map(read).transpose()?,
                    callback: shared.webhooks.as_ref().filter(|_| *webhook).map(|hooks| hooks.runpod()),
                    ..settings
                };
                Arc::new(RunPod::new(config).map_err(refuse)?)
            }
            Self::Replicate { at, settings, key, webhook } => {
                let api_key = key.as_ref().map(|key| key.read(environment::variable)).transpose()?;
                let callback = match (webhook, &shared.webhooks) {
                    (Some(secret), Some(hooks)) => {
                        let refuse = |error| Rule::new(format!("{pool}.webhook_secret"), format!("{error}"));
                        Some(hooks.replicate(SigningKey::new(&read(secret)?).map_err(refuse)?))
                    }
                    _ => None,
                };
                let config = ReplicateConfig {
                    base_url: at.resolve(pool, simulated)?,
                    limits: shared.account(api_key.as_deref().unwrap_or_default()),
                    api_key: api_key.map(Hidden::new),
                    callback,
                    ..settings.as_ref().clone()
                };
                Arc::new(Replicate::new(config).map_err(refuse)?)
            }
            Self::Rented { settings, secret, slots, affinity, isolation } => {
                let config = RentedConfig {
                    server: settings.as_ref().clone(),
                    secret: secret.as_ref().map(read).transpose()?,
                    slots: *slots,
                    affinity: *affinity,
                    isolation: *isolation,
                };
                let machines = Arc::new(Rented::new(config));
                return Ok(Called { provider: machines.clone(), machines: Some(machines) });
            }
            Self::Noop { delay } => Arc::new(Noop::new(*delay)),
        };
        Ok(Called { provider, machines: None })
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
