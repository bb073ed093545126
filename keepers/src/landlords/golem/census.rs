//! One list: agreements in force, by our session, and what became of those that rows know.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt as _, stream};
use schemas::Micros;
use tracing::{info, warn};

use super::{
    activity,
    agreements::{self, Found, State},
    book::{Account, Kind},
    end::agreement_of,
    facts::{self, Facts},
    order::UnderWay,
    paying, payment,
    site::{Site, Stage},
    start::{self, Key, names},
};
use crate::landlord::{CallError, Census, Known, Notes, Phase, Sighting, Told};

/// Machines that are looked at, at the same time. The daemon is on our own host.
const AT_ONCE: usize = 32;

/// What one look at an agreement says.
enum Look {
    Seen(Box<Sighting>),
    /// It is nothing of ours.
    Nothing,
    /// No answer, or an order that is under way.
    Unanswered,
}

/// Lists all machines of all pools.
pub(super) async fn list(
    site: &Arc<Site>,
    under_way: &UnderWay,
    known: &[Known],
) -> Result<Census, CallError> {
    for machine in known.iter().filter(|machine| site.is_newly_left(&machine.pool)) {
        // Its last debit notes and its invoice come all the same, and it is not gone before they are accepted.
        for kind in [Kind::DebitNotes, Kind::Invoices] {
            site.tasks.spawn(paying::follow(Arc::clone(site), machine.pool.clone(), kind));
        }
    }
    let mut looks: BTreeMap<String, (bool, Option<&Known>)> = BTreeMap::new();
    for pool in site.config.pools.keys() {
        looks.extend(agreements::approved(site, pool).await?.into_iter().map(|id| (id, (true, None))));
    }
    let mut census = Census { whole: true, ..Census::default() };
    for machine in known {
        match agreement_of(machine) {
            Some(agreement) => {
                looks.entry(agreement.to_owned()).or_default().1 = Some(machine);
            }
            None if under_way.has(&machine.machine) => census.unanswered.push(machine.machine.clone()),
            None => {}
        }
    }
    let mut calls = Vec::with_capacity(looks.len());
    for (agreement, (approved, known)) in looks {
        calls.push(async move {
            let look = look(site, under_way, &agreement, approved, known).await;
            (known, agreement, look)
        });
    }
    let mut looked = stream::iter(calls).buffer_unordered(AT_ONCE);
    while let Some((known, agreement, look)) = looked.next().await {
        match look {
            Ok(Look::Seen(sighting)) => census.sightings.push(*sighting),
            Ok(Look::Nothing) => {}
            Ok(Look::Unanswered) => census.unanswered.extend(known.map(|known| known.machine.clone())),
            Err(error) => {
                warn!(agreement, %error, "an agreement cannot be looked at");
                match known {
                    Some(known) => census.unanswered.push(known.machine.clone()),
                    // A machine that no row knows may hide behind this.
                    None => census.whole = false,
                }
            }
        }
    }
    // Two sightings of one machine come in a fixed order.
    census.sightings.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(census)
}

/// What we know for ever of an agreement that is in force: a call less for each machine.
fn in_books(site: &Site, agreement: &str) -> Option<Found> {
    let book = site.book();
    let account = book.get(agreement).filter(|account| account.adopted && account.approved.is_some())?;
    Some(Found {
        state: State::Approved,
        facts: Some(Arc::clone(&account.facts)),
        approved: account.approved.clone(),
    })
}

/// Looks at one agreement. `approved`: the list of those in force shows it.
async fn look(
    site: &Arc<Site>,
    under_way: &UnderWay,
    agreement: &str,
    approved: bool,
    known: Option<&Known>,
) -> Result<Look, CallError> {
    let found = match in_books(site, agreement).filter(|_| approved) {
        Some(found) => Some(found),
        None => agreements::find(site, agreement).await?,
    };
    let Some(found) = found else {
        return Ok(known.map_or(Look::Nothing, |known| bare(known, agreement, Phase::Gone)));
    };
    let Some(facts) = found.facts.clone() else {
        return Ok(match known {
            Some(known) => bare(known, agreement, Phase::Unknown("an agreement that does not read".into())),
            None => Look::Nothing,
        });
    };
    // Its start is the order's to begin: it knows the key of the server.
    if under_way.has(&facts.marks.machine) {
        return Ok(Look::Unanswered);
    }
    let empty = Notes::new();
    let notes = known.map_or(&empty, |known| &known.notes);
    let phase = match found.state {
        State::Approved => {
            // Debit notes first, the tunnel second.
            site.book().adopt(&facts, notes).approved.clone_from(&found.approved);
            in_force(site, &facts, notes).await?
        }
        State::Ended => {
            site.book().adopt(&facts, notes).approved.clone_from(&found.approved);
            over(site, &facts, notes).await?
        }
        // Nobody but us knows of it, and it costs nothing: the order is sent again and goes on from here.
        State::Proposal => return Ok(Look::Nothing),
        State::Pending => Phase::Starting,
        State::Never => {
            payment::release(site, &facts.marks.allocation).await;
            Phase::Gone
        }
        State::Unknown => Phase::Unknown("an agreement in a state that we do not know".into()),
    };
    Ok(Look::Seen(Box::new(sighting(site, &facts, &found, phase))))
}

/// A machine of which its row alone tells.
fn bare(known: &Known, agreement: &str, phase: Phase) -> Look {
    let (machine, pool) = (known.machine.clone(), known.pool.clone());
    Look::Seen(Box::new(Sighting::bare(machine, pool, agreement.to_owned(), phase)))
}

fn sighting(site: &Site, facts: &Facts, found: &Found, phase: Phase) -> Sighting {
    let pool = site.config.pools.get(&facts.marks.pool);
    let place = pool.and_then(|pool| {
        let stands = |node: &String| node.eq_ignore_ascii_case(&facts.provider);
        pool.places.iter().find(|place| place.providers.iter().any(stands))
    });
    let mut notes = site.book().notes(&facts.agreement);
    if let Some(start) = site.starts().get(&facts.agreement) {
        notes.extend(start.notes.clone());
    }
    let gone = phase == Phase::Gone;
    let told = told(site.book().get(&facts.agreement), found);
    if gone {
        site.book().close(&facts.agreement);
        site.starts().remove(&facts.agreement);
    }
    Sighting {
        machine: facts.marks.machine.clone(),
        pool: facts.marks.pool.clone(),
        id: facts.agreement.clone(),
        phase,
        sku: pool.map(|pool| pool.sku.clone()),
        // A node that is on no list stands nowhere that we know.
        place: place.map(|place| place.name.clone()),
        usd_per_hour: facts.usd_per_hour(),
        ordered_at: Some(facts.marks.ordered_at),
        told,
        expires_at: Some(facts.expires_at),
        notes,
    }
}

fn told(account: Option<&Account>, found: &Found) -> Option<Told> {
    let account = account?;
    Some(Told {
        from: found.approved.as_deref().and_then(facts::time),
        until: account.ended_at,
        charged_usd: account.charged(),
    })
}

/// The phase of an agreement in force.
async fn in_force(site: &Arc<Site>, facts: &Arc<Facts>, notes: &Notes) -> Result<Phase, CallError> {
    if let Some(why) = site.book().get(&facts.agreement).and_then(|account| account.refused.clone()) {
        return Ok(Phase::Broken(why));
    }
    if let Some(why) = notes.get(names::FAILED) {
        return Ok(Phase::Broken(why.clone()));
    }
    let begun = site.starts().contains_key(&facts.agreement);
    if !begun {
        // It was up before this process began, or its start was broken off.
        let was_up = notes.contains_key(names::PORT) && start::reopen(site, facts, notes).await?;
        if !was_up {
            start::launch(site, facts, notes, Key::Derived);
        }
    }
    let (stage, id) = {
        let starts = site.starts();
        let Some(start) = starts.get(&facts.agreement) else { return Ok(Phase::Starting) };
        let stage = match &start.stage {
            Stage::Running => Phase::Starting,
            Stage::Up(tunnel) => Phase::Up(tunnel.url()),
            Stage::Failed(why) => Phase::Broken(why.clone()),
        };
        (stage, start.notes.get(names::ACTIVITY).cloned())
    };
    match (stage, id) {
        (Phase::Up(url), Some(id)) => {
            let state = activity::state(site, &id).await?;
            Ok(match state {
                None => Phase::Broken("the activity is gone".into()),
                Some(state) => match state.state.0.as_str() {
                    "Ready" => Phase::Up(url),
                    "Terminated" => Phase::Broken(activity::ended(&state)),
                    "New" | "Initialized" | "Deployed" | "Unresponsive" => {
                        Phase::Broken(format!("the activity is {}", state.state.0))
                    }
                    word => Phase::Unknown(word.to_owned()),
                },
            })
        }
        (stage, _) => Ok(stage),
    }
}

/// The phase of an agreement that is over: it is gone once its invoice is accepted.
async fn over(site: &Site, facts: &Facts, notes: &Notes) -> Result<Phase, CallError> {
    let now = site.now();
    let first = site.book().get(&facts.agreement).is_some_and(|account| account.ended_at.is_none());
    if first && let Some((why, broken)) = agreements::why_ended(site, facts).await {
        let (machine, agreement) = (&facts.marks.machine, &facts.agreement);
        if broken {
            warn!(%machine, %agreement, why, "an agreement was broken off");
        } else {
            info!(%machine, %agreement, why, "an agreement is over");
        }
    }
    let (ended_at, invoiced, has_dues) = {
        let mut book = site.book();
        let Some(account) = book.get_mut(&facts.agreement) else { return Ok(Phase::Ending) };
        let ended_at: Micros = *account.ended_at.get_or_insert(now);
        (ended_at, account.invoice().is_some() || account.disputed, account.has_dues())
    };
    let had_activity = has_dues
        || notes.contains_key(names::ACTIVITY)
        || !activity::activities(site, &facts.agreement).await?.is_empty();
    let waited = now.since(ended_at) >= site.config.pace.invoice_within;
    if !invoiced && had_activity && !waited {
        return Ok(Phase::Ending);
    }
    if !invoiced && had_activity {
        warn!(machine = %facts.marks.machine, agreement = %facts.agreement, "no invoice came; its debit notes are its cost");
    }
    let allocation = site.book().get_mut(&facts.agreement).map(|account| {
        // Before the release, so that nobody looks after it any more.
        account.adopted = false;
        account.allocation.clone()
    });
    if let Some(allocation) = allocation {
        payment::release(site, &allocation).await;
    }
    if let Some(network) = notes.get(names::NETWORK) {
        activity::remove_network(site, network).await;
    }
    Ok(Phase::Gone)
}
