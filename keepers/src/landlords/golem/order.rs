//! An order: from the checks to an approved agreement. What follows is [`super::start`]'s.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use schemas::MachineId;
use tracing::info;

use super::{
    agreements::{self, State},
    book::names,
    facts::{self, Facts, Marks},
    market::{self, AGREEMENT, Purchase, STEP, nothing_done},
    payment,
    site::Site,
    start::{self, Key},
};
use crate::{
    landlord::{CallError, Order, Ordered, Steps},
    landlords::pen::Pen,
};

/// Orders that are under way in this process: what a list would say about them is not settled.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<BTreeSet<MachineId>>);

impl UnderWay {
    fn begin(&self, machine: &MachineId) -> OneUnderWay<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.clone());
        OneUnderWay { all: self, machine: machine.clone() }
    }

    pub(super) fn has(&self, machine: &MachineId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(machine)
    }
}

struct OneUnderWay<'a> {
    all: &'a UnderWay,
    machine: MachineId,
}

impl Drop for OneUnderWay<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.machine);
    }
}

/// Orders a machine, or goes on with an order that was broken off.
pub(super) async fn order(
    site: &Arc<Site>,
    under_way: &UnderWay,
    order: &Order,
    steps: &dyn Steps,
) -> Result<Ordered, CallError> {
    let _one = under_way.begin(&order.machine);
    let pool = site.pool(&order.pool)?;
    if order.sku != pool.sku {
        let text = format!("golem: pool {} rents {}, not {}", order.pool, pool.sku, order.sku);
        return Err(CallError::Misconfigured(text));
    }
    let place = pool.places.iter().find(|place| place.name == order.place);
    let place = place.ok_or_else(|| {
        CallError::Misconfigured(format!("golem: pool {} has no place {}", order.pool, order.place))
    })?;
    let mut pen = Pen::new(steps, &order.notes);
    if let Some(facts) = resume(site, &mut pen).await? {
        return begun(site, order, &facts, &mut pen).await;
    }

    pen.write_new(STEP, "checks").await?;
    if pen.get(names::SINCE).is_none() {
        pen.write_new(names::SINCE, &facts::written(site.now())).await?;
    }
    payment::check(site).await.map_err(nothing_done)?;
    let mut avoided = agreements::avoided(site).await.map_err(nothing_done)?;
    // A node takes one agreement at a time.
    avoided.extend(site.book().accounts().filter(|a| a.ended_at.is_none()).map(|a| a.facts.provider.clone()));

    pen.write_new(STEP, "allocation").await?;
    let earlier = pen.get(names::ALLOCATION).map(str::to_owned);
    let allocation = payment::allocate(site, pool, earlier.as_deref()).await.map_err(nothing_done)?;
    pen.write_new(names::ALLOCATION, &allocation).await?;
    let marks = Marks {
        machine: order.machine.clone(),
        pool: order.pool.clone(),
        allocation: allocation.clone(),
        ordered_at: order.ordered_at,
        usd_per_glm: site.config.usd_per_glm,
    };
    pen.write_new(names::RATE, &marks.usd_per_glm.to_string()).await?;
    let decorations = payment::decorations(site, &allocation).await.map_err(nothing_done)?;
    let purchase = Purchase {
        pool,
        providers: &place.providers,
        avoided,
        usd_per_hour_max: order.usd_per_hour_max,
        marks: &marks,
        decorations: &decorations,
    };
    match purchase.buy(site, &mut pen).await {
        Ok(facts) => begun(site, order, &facts, &mut pen).await,
        Err(error) => {
            // Without an agreement nothing will ever be paid out of it. With one it may be.
            if !error.is_unclear() {
                payment::release(site, &allocation).await;
            }
            Err(error)
        }
    }
}

/// The agreement of an earlier call, if it came to be.
async fn resume(site: &Site, pen: &mut Pen<'_>) -> Result<Option<Arc<Facts>>, CallError> {
    let Some(agreement) = pen.get(AGREEMENT).map(str::to_owned) else { return Ok(None) };
    let found = agreements::find(site, &agreement).await?;
    let Some((state, Some(facts))) = found.map(|found| (found.state, found.facts)) else {
        return Ok(None);
    };
    let resumed = match state {
        // One that is over costs something already, so it is this machine, and its end is for the list to show.
        State::Approved | State::Ended => Some(facts),
        State::Proposal | State::Pending => {
            market::confirm_and_wait(site, &agreement, &facts.marks, state, pen).await?
        }
        State::Never => None,
        State::Unknown => return Err(CallError::Unclear("the agreement is in an unknown state".into())),
    };
    if resumed.is_none() {
        pen.write_new(AGREEMENT, "").await?;
    }
    Ok(resumed)
}

/// The agreement is in force: from here on there is a machine.
async fn begun(
    site: &Arc<Site>,
    order: &Order,
    facts: &Arc<Facts>,
    pen: &mut Pen<'_>,
) -> Result<Ordered, CallError> {
    site.book().adopt(facts, pen.notes());
    pen.id(&facts.agreement).await?;
    pen.write_new(STEP, "start").await?;
    info!(machine = %order.machine, agreement = %facts.agreement, provider = %facts.provider, "rented");
    start::launch(site, facts, pen.notes(), Key::Given(order.server_key.clone()));
    Ok(Ordered { id: facts.agreement.clone(), notes: pen.notes().clone() })
}
