//! What every command starts from: the checked configuration, where NATS is, signals, the screen.

use std::{path::PathBuf, time::Duration};

use producer::{Producer, ProducerConfig};
use schemas::{Mailbox, Tenant};
use transport::{Address, LinkConfig};

use crate::{
    args::{Args, Command, Common},
    config::{Config, Nats, is_address},
    embedded::{self, DATA_DEFAULT, Data, Server},
    exit::Usage,
    logging::{self, Screen},
    signals::Signals,
};

/// How long the server may take to store something before that counts as unknown.
const PATIENCE: Duration = Duration::from_secs(30);

/// One run of the command.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) signals: Signals,
    pub(crate) screen: Screen,
    /// Whether a machine reads our standard output.
    pub(crate) json: bool,
    data: Option<PathBuf>,
}

/// A NATS server that is there, ours or another's.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) link: LinkConfig,
    pub(crate) server: Option<Server>,
}

impl Session {
    /// Reads the configuration and begins to log. Nothing is connected or started yet.
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let Common { config, nats_url, data, json, log, log_json } = &args.common;
        // The demo shows what is built in; a file given by name may still replace it.
        let mut config = match (&args.command, config) {
            (Command::Demo(_), None) => Config::built_in()?,
            (_, named) => Config::load(named.as_deref())?,
        };
        if let Some(url) = nats_url {
            if !is_address(url) {
                let url = Address::from(url);
                return Err(
                    Usage(format!("--nats-url `{url}` must be nats://host:port or tls://host:port")).into()
                );
            }
            let link = match config.nats {
                Nats::Remote(link) => LinkConfig { urls: vec![url.into()], ..link },
                Nats::Embedded(_) => LinkConfig::to(url),
            };
            link.check().map_err(|error| Usage(format!("--nats-url: {error}")))?;
            config.nats = Nats::Remote(link);
        }
        let screen = Screen::default();
        let filter = log.as_deref().or(config.log_filter.as_deref()).unwrap_or(default_filter(&args.command));
        logging::start(filter, *log_json || config.log_json, &screen)?;
        let data = data.clone();
        Ok(Self { config, signals: Signals::default(), screen, json: *json, data })
    }

    /// Tells a person at the terminal what happens; a machine reads the result alone.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.json {
            self.screen.bars.suspend(|| eprintln!("{}", text.as_ref()));
        }
    }

    /// Where a server is that this process did not start: the configured one, or one that `beacon up` runs here.
    pub(crate) fn link(&self) -> Result<LinkConfig, Usage> {
        match &self.config.nats {
            Nats::Remote(link) => Ok(link.clone()),
            Nats::Embedded(_) => {
                let data = self.kept_data();
                embedded::address_in(&data).map(LinkConfig::to).ok_or_else(|| {
                    Usage(format!(
                        "no NATS server: nats.url is not set and no `beacon up` runs on {}; start one, or set nats.url \
                         or --nats-url",
                        data.display()
                    ))
                })
            }
        }
    }

    /// A producer on that server.
    pub(crate) async fn producer(&self, tenant: &Tenant, mailbox: &Mailbox) -> anyhow::Result<Producer> {
        let config = ProducerConfig {
            link: self.link()?,
            tenant: tenant.clone(),
            mailbox: mailbox.clone(),
            patience: PATIENCE,
        };
        Ok(Producer::connect(config).await?)
    }

    /// Works until done, or until a signal comes.
    pub(crate) fn unless_interrupted<'a>(
        &'a self,
        work: impl Future<Output = anyhow::Result<()>> + 'a,
    ) -> impl Future<Output = anyhow::Result<()>> + 'a {
        // A command's whole work is large, and would lie in its own future twice.
        let work = Box::pin(work);
        async move {
            tokio::select! {
                () = self.signals.shutdown().cancelled() => Err(self.signals.interrupted()),
                outcome = work => outcome,
            }
        }
    }

    /// The configured server, or one of our own in a folder that stays.
    pub(crate) async fn nats(&self) -> anyhow::Result<Running> {
        self.nats_in(Data::Kept(self.kept_data())).await
    }

    /// The configured server, or one of our own in a folder that goes with us unless one was named.
    pub(crate) async fn nats_for_once(&self) -> anyhow::Result<Running> {
        let data = match &self.data {
            Some(folder) => Data::Kept(folder.clone()),
            None => Data::temporary()?,
        };
        self.nats_in(data).await
    }

    async fn nats_in(&self, data: Data) -> anyhow::Result<Running> {
        match &self.config.nats {
            Nats::Remote(link) => Ok(Running { link: link.clone(), server: None }),
            Nats::Embedded(embedded) => {
                let server = Server::start(embedded, data).await?;
                Ok(Running { link: server.link(), server: Some(server) })
            }
        }
    }

    fn kept_data(&self) -> PathBuf {
        let configured = match &self.config.nats {
            Nats::Embedded(embedded) => embedded.data.clone(),
            Nats::Remote(_) => None,
        };
        self.data.clone().or(configured).unwrap_or_else(|| PathBuf::from(DATA_DEFAULT))
    }
}

impl Running {
    /// Waits until the server of ours dies; never returns for another's.
    pub(crate) async fn died(&mut self) -> anyhow::Error {
        match &mut self.server {
            Some(server) => server.died().await.into(),
            None => std::future::pending().await,
        }
    }

    /// Ends the server of ours.
    pub(crate) async fn stop(self) {
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

/// Roles tell what they do; commands of a person tell only what went wrong.
fn default_filter(command: &Command) -> &'static str {
    match command {
        Command::Up
        | Command::Dispatcher(_)
        | Command::Worker(_)
        | Command::Keeper(_)
        | Command::Simulators => "info,async_nats=warn",
        Command::Demo(_)
        | Command::Submit(_)
        | Command::Results(_)
        | Command::Cancel(_)
        | Command::Schedule(_)
        | Command::Replay(_)
        | Command::Dead(_)
        | Command::Backfill(_)
        | Command::Why(_)
        | Command::Pools(_)
        | Command::Provider(_)
        | Command::Prices(_)
        | Command::Bench(_)
        | Command::Simulate(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Guard(_) => "warn,async_nats=error",
    }
}
