//! What dispatchers want kept warm.

use std::{collections::BTreeMap, time::Duration};

use schemas::{ModelToken, WorkerId};

/// Dispatchers say each second what they want warm; one that says nothing for so long is gone.
const ORDER_HOLDS: Duration = Duration::from_secs(10);

/// What each dispatcher wants warm of each model, and when it said so last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Warmth {
    orders: BTreeMap<(ModelToken, WorkerId), (u32, Duration)>,
}

impl Warmth {
    /// Takes an order in, and gives what all dispatchers together want of that model.
    pub(super) fn order(
        &mut self,
        model: &ModelToken,
        from: WorkerId,
        containers: u32,
        now: Duration,
    ) -> u32 {
        self.orders.retain(|_, (_, at)| now.saturating_sub(*at) < ORDER_HOLDS);
        self.orders.insert((model.clone(), from), (containers, now));
        let of_model = self.orders.iter().filter(|((of, _), _)| of == model);
        of_model.fold(0, |sum, (_, (containers, _))| sum.saturating_add(*containers))
    }
}
