//! A landlord with a simulated account's pace: what takes a provider minutes takes milliseconds there.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use schemas::PoolId;
use tokio_util::sync::CancellationToken;

use crate::{
    landlord::{CallError, Census, Ending, Known, Landlord, Order, Ordered, Quote, Rules, Steps},
    survey::Survey,
};

/// Another landlord, which lists more often and waits for no minute. For simulated accounts only: a provider would refuse it for
/// its rate, and its lists lag by more than this allows for.
pub struct Quick {
    inner: Arc<dyn Landlord>,
    list_every: Duration,
}

impl Quick {
    /// Lists each `list_every`, and believes in an absence after five times that.
    pub fn new(inner: Arc<dyn Landlord>, list_every: Duration) -> Self {
        Self { inner, list_every }
    }
}

impl Landlord for Quick {
    fn rules(&self) -> Rules {
        Rules {
            list_every: self.list_every,
            looks_span: self.list_every * 5,
            broken_for: (self.list_every * 12).max(Duration::from_millis(500)),
            ..self.inner.rules()
        }
    }

    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>> {
        self.inner.quote(pool)
    }

    fn survey(&self) -> BoxFuture<'_, Survey> {
        self.inner.survey()
    }

    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>> {
        self.inner.order(order, steps)
    }

    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>> {
        self.inner.list(known)
    }

    fn end<'a>(
        &'a self,
        machine: &'a Known,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ending, CallError>> {
        self.inner.end(machine, steps)
    }

    fn cordon<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        self.inner.cordon(machine)
    }

    fn park<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        self.inner.park(machine)
    }

    fn wake<'a>(&'a self, machine: &'a Known, steps: &'a dyn Steps) -> BoxFuture<'a, Result<(), CallError>> {
        self.inner.wake(machine, steps)
    }

    fn attend(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        Arc::clone(&self.inner).attend(shutdown)
    }
}
