//! A provider that does as it is told, and keeps its own count of what it ran.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use schemas::{
    JobId,
    failure::Failure,
    job::Input,
    prices::Used,
    reply::{Output, Usage},
};
use tokio::sync::Notify;
use workers::provider::{Call, Ended, Health, Progress, Provider, Success, UsedItem};

/// What it does with a call.
#[derive(Clone, Debug)]
pub enum Script {
    /// Answers at once.
    Succeed,
    /// Answers after so long, and says all the while that it is well.
    After(Duration),
    /// Answers at once with how many bytes it was asked.
    Measure,
    /// Answers at once with a text of so many bytes.
    Write(usize),
    /// Fails at once, unbilled.
    Fail(Failure),
    /// Fails at once, and bills an inference all the same.
    FailBilled(Failure),
    /// Waits until [`Scripted::release`], then answers.
    Hold,
    /// Waits until [`Scripted::release`], then fails, unbilled.
    HoldThenFail(Failure),
}

/// The provider. Share it between pools to count them together.
pub struct Scripted {
    script: Mutex<Script>,
    held: Notify,
    released: std::sync::atomic::AtomicBool,
    runs: Mutex<HashMap<JobId, u32>>,
    begun: AtomicU64,
}

impl Scripted {
    /// A provider that does `script` until told otherwise.
    pub fn new(script: Script) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script),
            held: Notify::new(),
            released: false.into(),
            runs: Mutex::default(),
            begun: AtomicU64::new(0),
        })
    }

    /// From now on.
    pub fn set(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    /// Lets every held call go on, now and later.
    pub fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.held.notify_waiters();
    }

    /// Calls begun.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// How often each job was run to its end.
    pub fn runs(&self) -> HashMap<JobId, u32> {
        self.runs.lock().unwrap().clone()
    }
}

impl Scripted {
    async fn released(&self) {
        loop {
            let woken = self.held.notified();
            if self.released.load(Ordering::SeqCst) {
                return;
            }
            woken.await;
        }
    }
}

impl Provider for Scripted {
    fn run<'a>(&'a self, call: &'a Call, _progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let script = self.script.lock().unwrap().clone();
            match &script {
                Script::Fail(failure) => return Ended::unbilled(failure.clone()),
                Script::FailBilled(failure) => {
                    return Ended { used: vec![inference(call)], ..Ended::unbilled(failure.clone()) };
                }
                Script::Succeed | Script::Measure | Script::Write(_) => {}
                Script::After(pause) => tokio::time::sleep(*pause).await,
                Script::Hold => self.released().await,
                Script::HoldThenFail(failure) => {
                    self.released().await;
                    return Ended::unbilled(failure.clone());
                }
            }
            *self.runs.lock().unwrap().entry(call.job).or_default() += 1;
            let text = match (script, &call.input) {
                (Script::Write(bytes), _) => "x".repeat(bytes),
                (Script::Measure, Input::Prompt(text)) => text.len().to_string(),
                (Script::Measure, Input::Messages(all)) => {
                    all.iter().map(|message| message.content.len()).sum::<usize>().to_string()
                }
                _ => format!("scripted {}", call.model),
            };
            let output = Output { text, finish_reason: "stop".into() };
            let usage = Usage { prompt_tokens: 1, completion_tokens: 2, ..Usage::default() };
            Ended {
                outcome: Ok(Success { output, usage }),
                used: vec![inference(call)],
                estimated: false,
                cold_start: Duration::ZERO,
                first_token: Duration::ZERO,
            }
        })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async { Health::Up })
    }
}

fn inference(call: &Call) -> UsedItem {
    UsedItem { sku: call.sku.clone(), item: "inference", used: Used::Inferences(1), rate: None }
}
