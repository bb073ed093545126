//! An account at a provider: one list call at a time for all pools that rent there, at the provider's pace.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schemas::{Micros, PoolId, check::Finding, time::Clock as _};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use transport::SystemClock;

use crate::{
    landlord::{CallError, Census, Known, Landlord, Rules, Stray},
    landlords::http,
    survey::{self, Survey},
};

/// A list that takes longer is given up; the next one asks again.
const LIST_WITHIN: Duration = Duration::from_secs(90);
/// While no pool is kept here, the account is looked at for machines that nobody keeps: this many times as seldom.
const IDLE: u32 = 30;
/// The longest pause after failed lists. Machines serve on meanwhile.
const LIST_PAUSE_MAX: Duration = Duration::from_secs(120);

/// What a list call said.
#[derive(Debug)]
pub(crate) struct Listed {
    /// When it was asked: it says nothing of what came later.
    pub(crate) asked_at: Micros,
    /// The answer.
    pub(crate) answer: Result<Census, CallError>,
}

/// An account.
pub struct Account {
    name: String,
    landlord: Arc<dyn Landlord>,
    /// What the rows of the pools that are kept here know.
    known: Mutex<BTreeMap<PoolId, Vec<Known>>>,
    /// A pool is kept that was not before.
    begun: Notify,
    listed: watch::Sender<Option<Arc<Listed>>>,
    /// Machines with our mark that belong to no pool of this account's configuration, as last listed.
    strays: watch::Sender<Vec<Stray>>,
}

impl Account {
    /// An account; `name` is that of its provider.
    pub fn new(name: impl Into<String>, landlord: Arc<dyn Landlord>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            landlord,
            known: Mutex::default(),
            begun: Notify::new(),
            listed: watch::Sender::new(None),
            strays: watch::Sender::new(Vec::new()),
        })
    }

    /// The name of its provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn landlord(&self) -> &Arc<dyn Landlord> {
        &self.landlord
    }

    pub(crate) fn rules(&self) -> Rules {
        self.landlord.rules()
    }

    /// Looks at the account and changes nothing there.
    pub async fn survey(&self) -> Survey {
        self.landlord.survey().await
    }

    /// How far a pool's machines are from here, or where none stands, their provider.
    pub async fn way(survey: &Survey, pool: &PoolId) -> Finding {
        let (url, machine) = survey.way(pool);
        let (samples, host) = http::samples(&url).await;
        survey::way(samples, &host, machine)
    }

    /// What lists say, newest last.
    pub(crate) fn listed(&self) -> watch::Receiver<Option<Arc<Listed>>> {
        self.listed.subscribe()
    }

    /// Machines that lists show and that belong to nobody here.
    pub(crate) fn strays(&self) -> watch::Receiver<Vec<Stray>> {
        self.strays.subscribe()
    }

    /// A pool's rows have changed. `None`: it is not kept here any more.
    pub(crate) fn tell(&self, pool: &PoolId, known: Option<Vec<Known>>) {
        let mut all = self.all();
        let new = if let Some(known) = known {
            all.insert(pool.clone(), known).is_none()
        } else {
            all.remove(pool);
            false
        };
        drop(all);
        if new {
            self.begun.notify_one();
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<PoolId, Vec<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists while a pool is kept here, and attends to what the landlord must do at all times, until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let attend = Arc::clone(&self.landlord).attend(shutdown.clone());
        tokio::select! {
            () = async { tokio::join!(attend, self.list_on_and_on()); } => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn list_on_and_on(&self) {
        let (mut failed, mut told) = (0_u32, false);
        loop {
            let known: Vec<Known> = self.all().values().flatten().cloned().collect();
            let kept = !self.all().is_empty();
            if !kept {
                let idle = self.rules().list_every.saturating_mul(IDLE);
                if timeout(idle, self.begun.notified()).await.is_err() {
                    self.look_for_strays().await;
                }
                continue;
            }
            let (began, asked_at) = (Instant::now(), SystemClock.now());
            let answer = match timeout(LIST_WITHIN, self.landlord.list(&known)).await {
                Ok(answer) => answer,
                Err(_) => Err(CallError::Unclear("the list took too long".into())),
            };
            let every = self.rules().list_every;
            let pause = match &answer {
                Ok(_) => {
                    (failed, told) = (0, false);
                    every
                }
                Err(error) => {
                    failed = failed.saturating_add(1);
                    self.complain(error, failed, &mut told);
                    let wait = every.saturating_mul(1 << failed.min(6)).min(LIST_PAUSE_MAX.max(every));
                    match error {
                        CallError::RateLimited(_, Some(after)) => wait.max(*after),
                        _ => wait,
                    }
                }
            };
            if let Ok(census) = &answer {
                self.found(&census.strays);
            }
            self.listed.send_replace(Some(Arc::new(Listed { asked_at, answer })));
            // A pool that is taken over is looked at at once, but not faster than the provider's pace.
            sleep_until(began + pause).await;
        }
    }

    /// A list that nobody's rows are compared with: it was asked without them.
    async fn look_for_strays(&self) {
        if let Ok(Ok(census)) = timeout(LIST_WITHIN, self.landlord.list(&[])).await {
            self.found(&census.strays);
        }
    }

    fn found(&self, strays: &[Stray]) {
        self.strays.send_if_modified(|known| {
            let news = known != strays;
            if news {
                strays.clone_into(known);
            }
            news
        });
    }

    fn complain(&self, error: &CallError, failed: u32, told: &mut bool) {
        let provider = self.name.as_str();
        if error.needs_a_person() && !std::mem::replace(told, true) {
            error!(provider, %error, "the provider refuses to list our machines; they go on running and costing");
        } else if failed == 3 {
            warn!(provider, %error, "machines cannot be listed; what stands serves on");
        }
    }
}
