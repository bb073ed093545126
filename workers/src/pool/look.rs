//! What a worker makes of the last check of its provider.

use tracing::info;

use super::Pool;

impl Pool {
    /// Takes in the last check, and once only what it said of the server's load.
    pub(super) fn look_at_provider(&mut self) {
        let now = self.kit.clock.now();
        let sight = *self.sight.borrow_and_update();
        self.shift.provider(sight, self.kit.config.provider.warmable(), now);
        if sight.check.is_none() || self.checks == sight.check {
            return;
        }
        self.checks = sight.check;
        let (before, waiting) = (self.shift.others(), sight.load.and_then(|load| load.waiting));
        self.shift.load(sight.load.as_ref(), now);
        self.kit.metrics.waits_at_server(waiting.unwrap_or(0));
        let (pool, others) = (&self.kit.config.pool, self.shift.others());
        if before == 0 && others > 0 {
            info!(%pool, others, "requests of others wait at the server, so fewer jobs are taken");
        } else if before > 0 && others == 0 {
            info!(%pool, "nothing of others waits at the server any more");
        }
    }
}
