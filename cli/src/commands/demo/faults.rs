//! The faults of the demo and their times, as parts of the whole:
//!
//! ```text
//!  0      0.2        0.35       0.5          0.65      0.75          1
//!  ├───────┼──────────┼──────────┼─────────────┼─────────┼───────────┤
//!          │ local    │          │ golem@us-east answers │ local
//!          │ hangs    │ wakes    │ 503         │ again   │ is killed
//! ```

use std::time::Duration;

use schemas::time::Clock as _;
use simulators::{Fault, FaultKind};
use tokio::time::sleep;
use transport::SystemClock;

use super::local::LocalModels;
use crate::{report::Outage, session::Session, simulated::Simulated};

/// The account of the provider that fails half-way, and where it fails.
const FAILING: (&str, &str) = ("yagna", "us-east");
/// However long the demo, the outage is as short as the report's availability allows for.
const OUTAGE_MAX: Duration = Duration::from_secs(6);

/// One fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    whole: Duration,
}

impl Timeline {
    /// For a demo whose jobs are sent within `whole`.
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole }
    }

    /// From the start of the one to the start of the other, in percent of the whole.
    fn between(self, from: u32, to: u32) -> Duration {
        self.whole * (to - from) / 100
    }

    fn outage(self) -> Duration {
        self.between(50, 65).min(OUTAGE_MAX)
    }

    /// Lets everything strike and heal, and says where and when the provider was out.
    pub(super) async fn play(
        self,
        session: &Session,
        simulated: &Simulated,
        models: &mut LocalModels,
    ) -> Option<Outage> {
        let (outage, ()) = tokio::join!(self.provider(session, simulated), self.model(session, models));
        outage
    }

    async fn provider(self, session: &Session, simulated: &Simulated) -> Option<Outage> {
        let (account, place) = FAILING;
        let failing = simulated.house(account)?;
        let region = place.parse().ok()?;
        sleep(self.between(0, 50)).await;
        let secs = self.outage().as_secs_f64();
        session.say(format!("fault: all Golem machines in {place} answer 503 for {secs:.1} s"));
        let down = FaultKind::Status { code: 503, body: None, retry_after_s: None };
        failing.set_fault(place, Some(&Fault::always(down)));
        let from = SystemClock.now();
        sleep(self.outage()).await;
        failing.set_fault(place, None);
        let until = SystemClock.now();
        session.say(format!("Golem in {place} is well again"));
        Some(Outage { region, from, until })
    }

    async fn model(self, session: &Session, models: &mut LocalModels) {
        if models.is_empty() {
            return;
        }
        sleep(self.between(0, 20)).await;
        session.say("fault: the first real model hangs (SIGSTOP)");
        models.freeze();
        sleep(self.between(20, 35)).await;
        models.wake();
        session.say("the first real model goes on (SIGCONT)");
        sleep(self.between(35, 75)).await;
        session.say("fault: the first real model is killed (SIGKILL)");
        models.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_demo_has_a_short_outage() {
        assert_eq!(Timeline::new(Duration::from_secs(10)).outage(), Duration::from_millis(1_500));
        assert_eq!(Timeline::new(Duration::from_secs(1_000)).outage(), OUTAGE_MAX);
    }
}
