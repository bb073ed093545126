//! Real inference beside the simulators: two llama.cpp servers with a small model, where `make setup` installed them.

use nix::sys::signal::Signal;

use crate::{
    config::{Config, ConfigError},
    guard,
    llm::{Program, Server},
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

/// The servers that run; none where they are not installed.
#[derive(Debug)]
pub(super) struct LocalModels {
    servers: Vec<Server>,
}

impl LocalModels {
    pub(super) fn none() -> Self {
        Self { servers: Vec::new() }
    }

    /// Starts both, or says in one line why there are none. Call it from the main thread.
    pub(super) async fn start(session: &Session) -> Self {
        let Some(program) = Program::find() else {
            session.say("real model: not installed, left out (`make setup` installs it)");
            return Self::none();
        };
        // One thread each: two servers do more together than one with two threads.
        let options = ["--slots", "2", "--threads", "1", "--alias", MODEL];
        let started = tokio::try_join!(program.start(&options), program.start(&options));
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
            server.stop().await;
        }
    }
}
