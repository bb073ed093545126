//! The end of a machine: activity, agreement, network. The invoice comes afterwards and is accepted by whoever follows events.

use std::sync::Arc;

use tracing::info;

use super::{
    activity,
    agreements::{self, State, Terminated},
    book::names as booked,
    market::{self, AGREEMENT, DEMAND},
    payment,
    site::{Site, Stage},
    start::names,
};
use crate::landlord::{CallError, Ending, Known};

/// The agreement of a machine. The note is newer than the id.
pub(super) fn agreement_of(machine: &Known) -> Option<&str> {
    let noted = machine.notes.get(AGREEMENT).filter(|id| !id.is_empty());
    noted.or(machine.id.as_ref()).map(String::as_str)
}

/// Ends a machine. May be repeated.
pub(super) async fn end(site: &Arc<Site>, machine: &Known) -> Result<Ending, CallError> {
    let Some(agreement) = agreement_of(machine) else {
        // Nothing was ever sent to a provider: the note is written before that.
        if let Some(demand) = machine.notes.get(DEMAND) {
            market::close(site, demand).await;
        }
        if let Some(allocation) = machine.notes.get(booked::ALLOCATION) {
            payment::release(site, allocation).await;
        }
        return Ok(Ending::Gone);
    };
    // Its start, if one is under way, ends here.
    let start = site.starts().remove(agreement);
    let failed = match start.as_ref().map(|start| &start.stage) {
        Some(Stage::Failed(why)) => Some(why.clone()),
        Some(Stage::Running | Stage::Up(_)) | None => machine.notes.get(names::FAILED).cloned(),
    };
    let network = start.as_ref().and_then(|start| start.notes.get(names::NETWORK).cloned());
    let network = network.or_else(|| machine.notes.get(names::NETWORK).cloned());
    drop(start);

    if let Ok(Some(found)) = agreements::find(site, agreement).await
        && let Some(facts) = &found.facts
        && found.state == State::Approved
    {
        // Before the agreement's end, so that the last debit note and the invoice find their account.
        site.book().adopt(facts, &machine.notes);
    }
    if let Ok(activities) = activity::activities(site, agreement).await {
        for one in activities {
            activity::destroy(site, &one).await;
        }
    }
    let why = failed.as_deref().unwrap_or("not needed any more");
    let ended = agreements::terminate(site, agreement, why, failed.is_none()).await?;
    if let Some(network) = network {
        activity::remove_network(site, &network).await;
    }
    info!(machine = %machine.machine, agreement, ?ended, "an agreement is ended");
    match ended {
        // The invoice is to come; the list says when it was accepted.
        Terminated::Now | Terminated::Before => Ok(Ending::Accepted),
        Terminated::Unknown => Ok(Ending::Gone),
        Terminated::NotApproved => {
            let cancelled = agreements::cancel(site, agreement, "not needed any more").await?;
            Ok(if cancelled { Ending::Accepted } else { Ending::NotNow })
        }
    }
}
