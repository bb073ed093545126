//! From an approved agreement to a server behind a tunnel: network, activity, `deploy`, `start`, `run`, tunnel.
//!
//! Every step is found again from yagna itself, so that a start that was broken off goes on: the activities of the agreement,
//! their states, the networks that the provider's node is in.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    activity::{ACTIVITY, NET, activities, ended, state},
    facts::Facts,
    script::{self, MACHINE_IP, NETWORK, OUR_IP},
    site::{Site, Stage, Start},
    tunnel::{self, Target, Tunnel},
    wire::{CommandResult, Exec, Identity, MadeActivity, Network, NewNetwork, Node},
    yagna::{Said, escaped, seconds},
};
use crate::{
    landlord::{CallError, Notes},
    secret::Secret,
};

/// Notes of a start.
pub(super) mod names {
    /// The id of the network.
    pub(crate) const NETWORK: &str = "network";
    /// The id of the activity.
    pub(crate) const ACTIVITY: &str = "activity";
    /// The batch of `deploy` and `start`.
    pub(crate) const DEPLOY: &str = "deploy_batch";
    /// The batch of `run`.
    pub(crate) const RUN: &str = "run_batch";
    /// The tunnel's port, once there is one.
    pub(crate) const PORT: &str = "tunnel_port";
    /// Why the machine cannot become usable.
    pub(crate) const FAILED: &str = "failed";
}

/// While nobody tells us about a change of state.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// After an activity was made, before a state without any batch counts as one that no batch was sent for.
const SETTLE: Duration = Duration::from_secs(2);

/// What a start needs to know.
struct Carrier {
    site: Arc<Site>,
    facts: Arc<Facts>,
    /// What was noted so far, by the row and by this start.
    notes: Notes,
    key: Key,
}

/// The key that a machine's server is to ask for.
pub(super) enum Key {
    /// As the order says.
    Given(Option<Secret>),
    /// From the pool's secret: the order is forgotten.
    Derived,
}

/// Why a start failed.
#[derive(Debug)]
enum Fault {
    /// As it is, the machine will never serve.
    Final(String),
    /// A call failed; the start is tried again.
    Call(CallError),
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Begins or continues the start of an agreement's machine. Does nothing if one is under way.
pub(super) fn launch(site: &Arc<Site>, facts: &Arc<Facts>, notes: &Notes, key: Key) {
    let mut starts = site.starts();
    if starts.contains_key(&facts.agreement) {
        return;
    }
    let stop = site.stop.child_token();
    let carrier = stop.clone().drop_guard();
    let start = Start { stage: Stage::Running, notes: Notes::new(), _carrier: carrier };
    starts.insert(facts.agreement.clone(), start);
    drop(starts);
    let (site, facts) = (Arc::clone(site), Arc::clone(facts));
    let carrier = Carrier { site: Arc::clone(&site), facts, notes: notes.clone(), key };
    site.tasks.spawn(carrier.run(stop));
}

/// Opens the tunnel of a machine that was up before a restart. False if it is not up any more.
pub(super) async fn reopen(site: &Arc<Site>, facts: &Arc<Facts>, notes: &Notes) -> Result<bool, CallError> {
    let (Some(activity), Some(network)) = (notes.get(names::ACTIVITY), notes.get(names::NETWORK)) else {
        return Ok(false);
    };
    if state(site, activity).await?.is_none_or(|state| state.state.0 != "Ready") {
        return Ok(false);
    }
    let port = notes.get(names::PORT).and_then(|port| port.parse().ok());
    let Ok(tunnel) = open(site, facts, network, port).await else { return Ok(false) };
    let mut kept = Notes::new();
    kept.insert(names::PORT.into(), tunnel.port().to_string());
    for name in [names::ACTIVITY, names::NETWORK] {
        kept.extend(notes.get_key_value(name).map(|(name, value)| (name.clone(), value.clone())));
    }
    let start =
        Start { stage: Stage::Up(tunnel), notes: kept, _carrier: CancellationToken::new().drop_guard() };
    site.starts().entry(facts.agreement.clone()).or_insert(start);
    Ok(true)
}

fn target(site: &Site, facts: &Facts, network: &str) -> Option<Target> {
    let port = site.config.pools.get(&facts.marks.pool)?.port;
    let path = format!("{NET}/{}/tcp/{MACHINE_IP}/{port}", escaped(network));
    Some(Target { url: site.yagna.socket(&path), key: site.yagna.key() })
}

async fn open(site: &Site, facts: &Facts, network: &str, port: Option<u16>) -> Result<Tunnel, Fault> {
    let target = target(site, facts, network);
    let target = target.ok_or_else(|| Fault::Final("its pool is not configured any more".into()))?;
    Tunnel::open(target, site.config.listen, port, &site.tasks, &site.stop)
        .await
        .map_err(|error| Fault::Call(CallError::Unreachable(format!("the tunnel cannot listen: {error}"))))
}

impl Carrier {
    async fn run(mut self, stop: CancellationToken) {
        let deadline = Instant::now() + self.site.config.pace.deploy_within;
        loop {
            let began = tokio::select! {
                () = stop.cancelled() => return,
                began = self.start(deadline) => began,
            };
            let (facts, site) = (&self.facts, &self.site);
            match began {
                Ok(tunnel) => {
                    info!(machine = %facts.marks.machine, url = tunnel.url(), "a tunnel is open");
                    let port = tunnel.port().to_string();
                    if let Some(start) = site.starts().get_mut(&facts.agreement) {
                        start.notes.insert(names::PORT.into(), port);
                        start.stage = Stage::Up(tunnel);
                    }
                    return;
                }
                Err(Fault::Call(error)) if Instant::now() < deadline => {
                    warn!(machine = %facts.marks.machine, %error, "a start stumbles and goes on");
                    time::sleep(site.config.pace.again).await;
                }
                Err(Fault::Call(error)) => return self.fail(&error.to_string()),
                Err(Fault::Final(why)) => return self.fail(&why),
            }
        }
    }

    fn fail(&self, why: &str) {
        warn!(machine = %self.facts.marks.machine, provider = %self.facts.provider, why, "a machine did not start");
        if let Some(start) = self.site.starts().get_mut(&self.facts.agreement) {
            start.notes.insert(names::FAILED.into(), why.to_owned());
            start.stage = Stage::Failed(why.to_owned());
        }
    }

    fn note(&mut self, name: &str, value: &str) {
        self.notes.insert(name.to_owned(), value.to_owned());
        if let Some(start) = self.site.starts().get_mut(&self.facts.agreement) {
            start.notes.insert(name.to_owned(), value.to_owned());
        }
    }

    /// One pass over all steps; those that are done are passed over.
    async fn start(&mut self, deadline: Instant) -> Result<Tunnel, Fault> {
        let (activity, fresh) = self.activity().await?;
        let network = self.network(fresh).await?;
        self.deploy(&activity, &network, deadline).await?;
        self.serve(&activity, &network, deadline).await?;
        open(&self.site, &self.facts, &network.id, None).await
    }

    /// The activity that lives, or a new one. True if it is new.
    async fn activity(&mut self) -> Result<(String, bool), Fault> {
        for activity in activities(&self.site, &self.facts.agreement).await?.into_iter().rev() {
            if state(&self.site, &activity).await?.is_some_and(|state| state.state.0 != "Terminated") {
                self.note(names::ACTIVITY, &activity);
                return Ok((activity, false));
            }
        }
        let held = self.site.config.pace.activity_within;
        let path = format!("{ACTIVITY}?timeout={}", seconds(held));
        let activity = match self.site.yagna.post(&path, &self.facts.agreement, held).await? {
            Said::Good(answer) => answer.json::<MadeActivity>()?.id(),
            Said::Slow => return Err(Fault::Final("the provider makes no activity in time".into())),
            Said::Over(why) => return Err(Fault::Final(format!("the agreement is over: {why}"))),
            other => return Err(other.unexpected("POST /activity").into()),
        };
        self.note(names::ACTIVITY, &activity);
        Ok((activity, true))
    }

    /// The network of this machine, with both nodes in it.
    async fn network(&mut self, fresh: bool) -> Result<Network, Fault> {
        let known = match (self.notes.get(names::NETWORK).cloned(), fresh) {
            (Some(id), _) => Some(id),
            (None, false) => self.find_network().await?,
            (None, true) => None,
        };
        if let Some(id) = known {
            match self.site.yagna.get(&format!("{NET}/{}", escaped(&id)), Duration::ZERO).await? {
                Said::Good(answer) => {
                    let network: Network = answer.json()?;
                    self.note(names::NETWORK, &network.id);
                    self.join(&network).await?;
                    return Ok(network);
                }
                // The daemon was started anew; so was the network. A machine that runs already is not in the new one, which
                // its probe will find out.
                Said::NotFound => {}
                other => return Err(other.unexpected("GET /net").into()),
            }
        }
        let said = self.site.yagna.post(NET, &NewNetwork { ip: NETWORK }, Duration::ZERO).await?;
        let network: Network = said.json("POST /net")?;
        self.note(names::NETWORK, &network.id);
        self.join(&network).await?;
        Ok(network)
    }

    /// Ourselves first, then the provider. A node that is in it already is fine.
    async fn join(&self, network: &Network) -> Result<(), Fault> {
        let us: Identity = self.site.yagna.read("/me").await?;
        let path = format!("{NET}/{}/nodes", escaped(&network.id));
        for (id, ip) in [(us.identity, OUR_IP), (self.facts.provider.clone(), MACHINE_IP)] {
            match self.site.yagna.post(&path, &Node { id, ip: ip.into() }, Duration::ZERO).await? {
                Said::Good(_) | Said::Conflict(_) => {}
                other => return Err(other.unexpected("POST /net/nodes").into()),
            }
        }
        Ok(())
    }

    /// A network that the provider's node is in.
    async fn find_network(&self) -> Result<Option<String>, Fault> {
        let networks: Vec<Network> = self.site.yagna.read(NET).await?;
        for network in networks.into_iter().rev() {
            let nodes: Vec<Node> =
                self.site.yagna.read(&format!("{NET}/{}/nodes", escaped(&network.id))).await?;
            if nodes.iter().any(|node| node.id == self.facts.provider) {
                return Ok(Some(network.id));
            }
        }
        Ok(None)
    }

    /// `deploy` and `start`, until the activity is `Ready`.
    async fn deploy(&mut self, activity: &str, network: &Network, deadline: Instant) -> Result<(), Fault> {
        let mut idle_since = None;
        loop {
            let Some(now) = state(&self.site, activity).await? else {
                return Err(Fault::Final("the activity is gone".into()));
            };
            match (now.state.0.as_str(), now.state.1.as_deref()) {
                ("Ready", _) => return Ok(()),
                ("Terminated", _) => return Err(Fault::Final(ended(&now))),
                _ if Instant::now() >= deadline => {
                    return Err(Fault::Final(format!("still {} at the deadline", now.state.0)));
                }
                (_, Some(_)) => idle_since = None,
                (_, None) => {
                    if let Some(batch) = self.notes.get(names::DEPLOY).cloned() {
                        self.batch(activity, &batch, 2, deadline).await?;
                        return Ok(());
                    }
                    // A batch that was sent before a crash and not noted shows in the next state, in a moment.
                    let idle = *idle_since.get_or_insert_with(Instant::now);
                    if now.state.0 == "Initialized" && idle.elapsed() >= self.settle() {
                        let us: Identity = self.site.yagna.read("/me").await?;
                        let commands = script::deploy(network, &us.identity, &self.facts.provider);
                        let batch = self.exec(activity, &commands).await?;
                        self.note(names::DEPLOY, &batch);
                        continue;
                    }
                }
            }
            time::sleep(LOOK_AGAIN.min(self.site.config.pace.again)).await;
        }
    }

    /// How long a state must stand still before it is believed.
    fn settle(&self) -> Duration {
        SETTLE.min(self.site.config.pace.again)
    }

    /// `run` of the server, unless it listens already.
    async fn serve(&mut self, activity: &str, network: &Network, deadline: Instant) -> Result<(), Fault> {
        if let Some(batch) = self.notes.get(names::RUN).cloned() {
            return self.batch(activity, &batch, 1, deadline).await;
        }
        if let Some(target) = target(&self.site, &self.facts, &network.id)
            && tunnel::connect(&target).await.is_ok()
        {
            return Ok(());
        }
        let Ok(pool) = self.site.pool(&self.facts.marks.pool) else {
            return Err(Fault::Final("its pool is not configured any more".into()));
        };
        let derived = pool.server_secret.as_ref().map(|secret| secret.of_machine(&self.facts.marks.machine));
        let key = match (&self.key, derived) {
            (Key::Given(key), _) => key.clone(),
            (Key::Derived, Some(key)) => Some(key),
            // A server without a key would serve anybody.
            (Key::Derived, None) => {
                return Err(Fault::Final("the key of its server is not known after a restart".into()));
            }
        };
        let commands = script::serve(&pool.serve, key.as_ref().map(Secret::expose));
        let batch = self.exec(activity, &commands).await?;
        self.note(names::RUN, &batch);
        self.batch(activity, &batch, 1, deadline).await
    }

    async fn exec(&self, activity: &str, commands: &Value) -> Result<String, Fault> {
        let path = format!("{ACTIVITY}/{}/exec", escaped(activity));
        let said = self.site.yagna.post(&path, &Exec { text: commands.to_string() }, Duration::ZERO).await?;
        match said {
            Said::Good(answer) => Ok(answer.json()?),
            Said::Bad(trouble) => Err(Fault::Final(trouble.message.unwrap_or_default())),
            Said::NotFound | Said::Over(_) => Err(Fault::Final("the activity is gone".into())),
            other => Err(other.unexpected("POST exec").into()),
        }
    }

    /// Waits until a batch of `count` commands has ended well.
    async fn batch(&self, activity: &str, batch: &str, count: usize, deadline: Instant) -> Result<(), Fault> {
        let path = format!("{ACTIVITY}/{}/exec/{}", escaped(activity), escaped(batch));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::Final("a batch does not end".into()));
            }
            let held = left.min(self.site.config.pace.poll);
            let poll = format!("{path}?timeout={}&commandIndex={}", seconds(held), count - 1);
            let results: Vec<CommandResult> = match self.site.yagna.get(&poll, held).await? {
                Said::Good(answer) => answer.json()?,
                Said::Slow => continue,
                Said::NotFound | Said::Over(_) => return Err(Fault::Final("the activity is gone".into())),
                other => return Err(other.unexpected("GET exec").into()),
            };
            if let Some(bad) = results.iter().find(|result| result.result != "Ok") {
                let text = bad.message.clone().or_else(|| bad.stderr.clone()).unwrap_or_default();
                return Err(Fault::Final(format!("command {} failed: {text}", bad.index)));
            }
            let finished =
                results.last().is_some_and(|last| last.is_batch_finished || last.index + 1 >= count);
            if finished {
                return Ok(());
            }
            // yagna may answer with what it has at once.
            time::sleep(LOOK_AGAIN.min(self.site.config.pace.again)).await;
        }
    }
}
