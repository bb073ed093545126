//! Real inference beside the simulators: two llama.cpp servers with a small model, where `make setup` installed them.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use crate::{
    config::{Config, ConfigError},
    environment, guard,
    session::Session,
};

/// The model's name in the catalog.
pub(super) const MODEL: &str = "smollm2-135m";
/// What it is asked. It is small and not clever; the path through it is real.
pub(super) const PROMPTS: [&str; 8] = [
    "What is the capital of France? Answer in one short sentence.",
    "Name three colours, separated by commas.",
    "Say hello to the harbour master in one sentence.",
    "Which is larger, a mouse or a whale? Answer in one word.",
    "Finish the sentence: The lighthouse keeper opened the door and",
    "Write one line about rain on a tin roof.",
    "What do bees make? Answer in one word.",
    "Give a short name for a friendly robot.",
];
/// The pools that call the servers; the first is the one that suffers.
const PROVIDERS: [&str; 2] = ["local", "local-b"];
/// Where `make setup` puts the interpreter, and where the program lies in the project.
const PYTHON: &str = ".beacon/llm/bin/python";
const SCRIPT: &str = "scripts/llm_server.py";
/// It takes half a second on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The servers that run; none where they are not installed.
#[derive(Debug)]
pub(super) struct LocalModels {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    child: Child,
    url: String,
}

impl LocalModels {
    pub(super) fn none() -> Self {
        Self { servers: Vec::new() }
    }

    /// Starts both, or says in one line why there are none. Call it from the main thread.
    pub(super) async fn start(session: &Session) -> Self {
        let Some((python, script)) = environment::find_up(PYTHON).zip(environment::find_up(SCRIPT)) else {
            session.say("real model: not installed, left out (`make setup` installs it)");
            return Self::none();
        };
        // One thread each: two servers do more together than one with two threads.
        let started = tokio::try_join!(Server::start(&python, &script), Server::start(&python, &script));
        match started {
            Ok((first, second)) => {
                session.say(format!("real model: SmolLM2-135M at {} and {}", first.url, second.url));
                Self { servers: vec![first, second] }
            }
            Err(error) => {
                session.say(format!("real model: left out, it does not start: {error:#}"));
                Self::none()
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Adds the model and a pool for each server.
    pub(super) fn join(&self, config: &mut Config) -> Result<(), ConfigError> {
        if self.is_empty() {
            return Ok(());
        }
        let region = config.topology.regions[0].clone();
        let pool = |(provider, Server { url, .. }): (&&str, &Server)| {
            format!(
                "[[pools]]\n\
                 provider = \"{provider}\"\n\
                 region = \"{region}\"\n\
                 kind = \"openai\"\n\
                 base_url = \"{url}\"\n\
                 dialect = \"llamacpp\"\n\
                 billing = \"per_second\"\n\
                 price_name = \"local\"\n\
                 slots = 2\n\
                 timeout = \"5s\"\n\
                 health_every = \"1s\"\n\
                 models = [{{ model = \"{MODEL}\", sku = \"cpu\", expected = \"800ms\" }}]\n"
            )
        };
        let pools = PROVIDERS.iter().zip(&self.servers).map(pool).collect::<Vec<_>>().concat();
        config.add(MODEL, &pools)
    }

    /// Stops the first where it stands: it takes connections and never answers.
    pub(super) fn freeze(&self) {
        if let Some(first) = self.servers.first() {
            guard::send(&first.child, Signal::SIGSTOP);
        }
    }

    /// Lets it go on.
    pub(super) fn wake(&self) {
        if let Some(first) = self.servers.first() {
            guard::send(&first.child, Signal::SIGCONT);
        }
    }

    /// Kills the first.
    pub(super) async fn kill(&mut self) {
        if let Some(first) = self.servers.first_mut() {
            guard::send(&first.child, Signal::SIGKILL);
            // It is ours to reap; how it ended is known.
            let _ = first.child.wait().await;
        }
    }

    /// Ends both.
    pub(super) async fn stop(mut self) {
        for server in &mut self.servers {
            guard::end(&mut server.child).await;
        }
    }
}

impl Server {
    async fn start(python: &Path, script: &Path) -> anyhow::Result<Self> {
        let options = ["--port", "0", "--slots", "2", "--threads", "1", "--alias", MODEL].map(OsStr::new);
        let arguments: Vec<&OsStr> = std::iter::once(script.as_os_str()).chain(options).collect();
        let mut child = guard::command(python, &arguments)?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(READY_WITHIN, lines.next_line()).await.context("it is not ready in time")??;
        let url = line.as_deref().and_then(|line| line.strip_prefix("READY ")).map(str::to_owned);
        let url = url.with_context(|| match line {
            Some(line) => format!("it said `{line}` instead of READY"),
            None => "it ended at once".to_owned(),
        })?;
        Ok(Self { child, url })
    }
}
