//! The slots of a rented server, with an unbounded queue as in vLLM and llama.cpp. The first request loads the model, and
//! the server may unload it after idle time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::config::SimulatedModel;

/// The slots of a rented server, and the state of its model.
#[derive(Debug)]
pub(crate) struct Slots {
    permits: Arc<Semaphore>,
    load: Mutex<Load>,
    load_time: Duration,
    /// Zero is never.
    unload_after: Duration,
}

#[derive(Debug, Default)]
struct Load {
    /// When the model is, or will be, loaded. `None` before the first request.
    ready_at: Option<Instant>,
    taken: usize,
    idle_since: Option<Instant>,
}

impl Slots {
    pub(crate) fn new(model: &SimulatedModel) -> Arc<Self> {
        let slots = usize::try_from(model.slots).expect("checked to be at most 100000");
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(slots)),
            load: Mutex::default(),
            load_time: Duration::from_millis(model.cold_start_ms),
            unload_after: Duration::from_millis(model.unload_after_ms),
        })
    }

    /// Waits for a slot, first come first served. Cancel-safe: a caller that gives up leaves the queue, and a load
    /// that has begun goes on.
    pub(crate) async fn take(self: &Arc<Self>) -> Slot {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
        let now = Instant::now();
        let mut load = self.load();
        if self.is_unloaded(&load, now) || load.ready_at.is_none() {
            load.ready_at = Some(now + self.load_time);
        }
        load.taken += 1;
        load.idle_since = None;
        let ready_at = load.ready_at.unwrap_or(now);
        drop(load);
        Slot { slots: Arc::clone(self), ready_at, _permit: permit }
    }

    /// Whether the model is loaded now.
    pub(crate) fn is_loaded(&self) -> bool {
        let (load, now) = (self.load(), Instant::now());
        !self.is_unloaded(&load, now) && load.ready_at.is_some_and(|at| at <= now)
    }

    /// Whether it was idle for so long that it is not loaded any more.
    fn is_unloaded(&self, load: &Load, now: Instant) -> bool {
        !self.unload_after.is_zero()
            && load.idle_since.is_some_and(|since| now.duration_since(since) >= self.unload_after)
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot of a rented server.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// When the model is loaded.
    pub(crate) ready_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut load = self.slots.load();
        load.taken -= 1;
        if load.taken == 0 {
            load.idle_since = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_model_loads_once_until_it_has_been_idle_for_long() {
        let model =
            SimulatedModel { cold_start_ms: 2_000, unload_after_ms: 10_000, ..SimulatedModel::new("m") };
        let slots = Slots::new(&model);
        let mut waits = Vec::new();
        for pause in [1, 1, 20, 0] {
            let asked = Instant::now();
            let slot = slots.take().await;
            time::sleep_until(slot.ready_at).await;
            waits.push(asked.elapsed().as_secs());
            drop(slot);
            time::advance(Duration::from_secs(pause)).await;
        }
        assert_eq!(waits, [2, 0, 0, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_goes_on_when_the_one_who_caused_it_leaves() {
        let model = SimulatedModel { cold_start_ms: 2_000, ..SimulatedModel::new("m") };
        let slots = Slots::new(&model);
        let ready_at = slots.take().await.ready_at;
        time::advance(Duration::from_secs(1)).await;
        assert_eq!(slots.take().await.ready_at, ready_at);
    }
}
