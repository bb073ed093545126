//! The market: a demand, proposals and counter-proposals, and a Draft that becomes an agreement.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use schemas::{Micros, UsdNanos};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    agreements::{self, AGREEMENTS, State},
    config::GolemPool,
    facts::{self, Facts, Marks},
    offer::{Offer, Refusal, Wanted},
    site::Site,
    wire::{Decorations, Demand, MarketEvent, NewAgreement, NewScan, Proposal, Reason, ScannedOffer},
    yagna::{Said, escaped, seconds},
};
use crate::{landlord::CallError, landlords::pen::Pen};

const DEMANDS: &str = "/market-api/v1/demands";
/// A demand lives for an hour; it is renewed long before.
const RENEW: Duration = Duration::from_secs(30 * 60);
/// One look at a demand's events.
const LOOK: Duration = Duration::from_secs(5);

/// The notes of a purchase.
pub(super) const AGREEMENT: &str = "agreement";
pub(super) const DEMAND: &str = "demand";
pub(super) const STEP: &str = "step";

/// What is bought.
pub(super) struct Purchase<'a> {
    pub(super) pool: &'a GolemPool,
    pub(super) providers: &'a [String],
    pub(super) avoided: BTreeSet<String>,
    pub(super) usd_per_hour_max: UsdNanos,
    pub(super) marks: &'a Marks,
    pub(super) decorations: &'a Decorations,
}

/// A provider's answer to our counter-proposal.
struct Draft {
    usd_per_hour: UsdNanos,
    proposal: String,
    provider: String,
}

/// What became of an agreement that was tried.
enum Tried {
    Approved(Arc<Facts>),
    /// It came to nothing; the next proposal.
    Not(String),
}

/// Conditions on offers.
pub(super) fn constraints(site: &Site, pool: &GolemPool, decorations: Option<&Decorations>) -> String {
    let mut all = vec![
        "golem.com.pricing.model=linear".to_owned(),
        format!("golem.node.debug.subnet={}", site.config.subnet),
        format!("golem.runtime.name={}", pool.runtime),
        "golem.runtime.capabilities=vpn".to_owned(),
        format!("golem.inf.mem.gib>={}", pool.mem_gib),
        format!("golem.inf.storage.gib>={}", pool.storage_gib),
    ];
    all.extend(pool.capabilities.iter().map(|word| format!("golem.runtime.capabilities={word}")));
    all.extend(decorations.iter().flat_map(|decorations| decorations.constraints.clone()));
    // yagna's own come in parentheses.
    let bare = |one: &String| {
        let inner = one.strip_prefix('(').and_then(|one| one.strip_suffix(')'));
        inner.unwrap_or(one).to_owned()
    };
    format!("(&({}))", all.iter().map(bare).collect::<Vec<_>>().join(")("))
}

impl Purchase<'_> {
    fn demand(&self, site: &Site, expires_at: Micros) -> Demand {
        let pace = &site.config.pace;
        let mut properties = Map::new();
        let mut put = |key: &str, value: Value| properties.insert(key.to_owned(), value);
        put("golem.srv.caps.multi-activity", json!(true));
        put("golem.node.debug.subnet", json!(site.config.subnet));
        put("golem.srv.comp.expiration", json!(facts::millis(expires_at)));
        put("golem.srv.comp.vm.package_format", json!("gvmkit-squash"));
        put("golem.srv.comp.task_package", json!(self.pool.image));
        put("golem.com.scheme.payu.debit-note.interval-sec?", json!(pace.debit_note_every.as_secs().max(1)));
        put("golem.com.scheme.payu.payment-timeout-sec?", json!(43_200));
        put("golem.com.payment.debit-notes.accept-timeout?", json!(pace.accept_within.as_secs().max(1)));
        for property in &self.decorations.properties {
            put(&property.key, json!(property.value));
        }
        self.marks.write(&mut properties);
        Demand { properties, constraints: constraints(site, self.pool, Some(self.decorations)) }
    }

    fn wanted<'a>(&'a self, site: &Site) -> Wanted<'a> {
        Wanted {
            pool: self.pool,
            providers: self.providers,
            avoided: &self.avoided,
            usd_per_glm: self.marks.usd_per_glm,
            usd_per_hour_max: self.usd_per_hour_max,
            accept_within: site.config.pace.accept_within / 2,
        }
    }

    /// Finds a provider and agrees with it. Nothing costs before [`confirm`].
    pub(super) async fn buy(mut self, site: &Site, pen: &mut Pen<'_>) -> Result<Arc<Facts>, CallError> {
        let deadline = Instant::now() + site.config.pace.negotiate_within;
        let expires_at = site.now() + self.pool.rent_for;
        let demand = self.demand(site, expires_at);
        let mut counter = demand.clone();
        counter.properties.insert("golem.com.payment.chosen-platform".into(), json!(site.config.platform));
        let mut seen = Seen::default();
        let ended = loop {
            let open = Open::new(site, &demand, pen).await?;
            let draft = self.draft(site, &open, &counter, &mut seen, deadline).await;
            let tried = match draft {
                Ok(Some(draft)) => self.agree(site, &draft, expires_at, pen).await,
                Ok(None) if Instant::now() < deadline => {
                    open.close(site).await;
                    continue;
                }
                Ok(None) => break Err(seen.nothing(self.usd_per_hour_max)),
                Err(error) => break Err(error),
            };
            open.close(site).await;
            match tried {
                Ok(Tried::Approved(facts)) => break Ok(facts),
                Ok(Tried::Not(why)) => {
                    info!(machine = %self.marks.machine, why, "a proposal came to nothing; the next one is tried");
                    seen.last = Some(why);
                }
                Err(error) => break Err(error),
            }
            if Instant::now() >= deadline {
                break Err(seen.nothing(self.usd_per_hour_max));
            }
        };
        if let Some(demand) = pen.get(DEMAND).map(str::to_owned) {
            close(site, &demand).await;
        }
        ended
    }

    /// The cheapest Draft that comes in before the deadline, once one was there for a while. `None`: the demand is over.
    async fn draft(
        &self,
        site: &Site,
        open: &Open,
        counter: &Demand,
        seen: &mut Seen,
        deadline: Instant,
    ) -> Result<Option<Draft>, CallError> {
        let mut best: Option<Draft> = None;
        let mut until = deadline.min(open.at + RENEW);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(best);
            }
            let held = left.min(LOOK);
            let path = format!("{}/events?timeout={}&maxEvents=100", open.path(), seconds(held));
            let events: Vec<MarketEvent> = match site.yagna.get(&path, held).await? {
                Said::Good(answer) => answer.json()?,
                Said::NotFound | Said::Over(_) => return Ok(best),
                other => return Err(nothing_done(other.unexpected("GET /demands/events"))),
            };
            for proposal in events.into_iter().filter_map(|event| event.proposal) {
                let Some(draft) = self.consider(site, open, counter, &proposal, seen).await? else {
                    continue;
                };
                if best.is_none() {
                    until = until.min(Instant::now() + site.config.pace.gather);
                }
                if best.as_ref().is_none_or(|best| draft.usd_per_hour < best.usd_per_hour) {
                    best = Some(draft);
                }
            }
        }
    }

    /// Counters an Initial proposal, takes a Draft, refuses the others.
    async fn consider(
        &self,
        site: &Site,
        open: &Open,
        counter: &Demand,
        proposal: &Proposal,
        seen: &mut Seen,
    ) -> Result<Option<Draft>, CallError> {
        let judged = Offer::read(&proposal.issuer_id, &proposal.properties)
            .and_then(|offer| offer.judge(&self.wanted(site)));
        let path = format!("{}/proposals/{}", open.path(), escaped(&proposal.proposal_id));
        let usd_per_hour = match judged {
            Ok(usd_per_hour) => usd_per_hour,
            Err(refusal) => {
                debug!(provider = %proposal.issuer_id, %refusal, "a proposal is refused");
                let text = refusal.to_string();
                seen.refused(&refusal);
                // A courtesy: whatever it answers, this proposal is not taken.
                let reason = Reason { message: &text, code: "Rejected" };
                let _ = site.yagna.post(&format!("{path}/reject"), &reason, Duration::ZERO).await;
                return Ok(None);
            }
        };
        match proposal.state.as_str() {
            "Initial" => {
                match site.yagna.post(&path, counter, Duration::ZERO).await.map_err(nothing_done)? {
                    Said::Good(_) => {}
                    other => {
                        debug!(error = %other.unexpected("POST proposal"), "a counter-proposal came to nothing");
                    }
                }
                Ok(None)
            }
            // Only this one is the provider's word to us.
            "Draft" => Ok(Some(Draft {
                usd_per_hour,
                proposal: proposal.proposal_id.clone(),
                provider: proposal.issuer_id.clone(),
            })),
            _ => Ok(None),
        }
    }

    /// Makes an agreement of a Draft and waits for the provider.
    async fn agree(
        &mut self,
        site: &Site,
        draft: &Draft,
        expires_at: Micros,
        pen: &mut Pen<'_>,
    ) -> Result<Tried, CallError> {
        // Once is enough for one order, whatever comes of it.
        self.avoided.insert(draft.provider.clone());
        pen.write_new(STEP, "agreement").await?;
        let new = NewAgreement { proposal_id: &draft.proposal, valid_to: &facts::written(expires_at) };
        let made = site.yagna.post(AGREEMENTS, &new, Duration::ZERO).await.map_err(nothing_done)?;
        let agreement: String = match made {
            Said::Good(answer) => answer.json()?,
            other => return Ok(Tried::Not(other.unexpected("POST /agreements").to_string())),
        };
        pen.write_new(AGREEMENT, &agreement).await?;
        if let Some(facts) = confirm_and_wait(site, &agreement, self.marks, State::Proposal, pen).await? {
            return Ok(Tried::Approved(facts));
        }
        pen.write_new(AGREEMENT, "").await?;
        Ok(Tried::Not(format!("the agreement with {} did not come to be", draft.provider)))
    }
}

/// Sends an agreement to the provider, if that was not done, and waits for its word. `None`: it never came to be.
pub(super) async fn confirm_and_wait(
    site: &Site,
    agreement: &str,
    marks: &Marks,
    state: State,
    pen: &mut Pen<'_>,
) -> Result<Option<Arc<Facts>>, CallError> {
    let base = format!("{AGREEMENTS}/{}", escaped(agreement));
    if state == State::Proposal {
        pen.write_new(STEP, "confirm").await?;
        let session = site.config.session(&marks.pool);
        match site
            .yagna
            .poke(&format!("{base}/confirm?appSessionId={}", escaped(&session)), Duration::ZERO)
            .await?
        {
            Said::Good(_) => {}
            Said::Over(_) | Said::NotFound | Said::Bad(_) => return Ok(None),
            other => return Err(other.unexpected("POST confirm")),
        }
    }
    pen.write_new(STEP, "wait").await?;
    let deadline = Instant::now() + site.config.pace.approve_within;
    loop {
        let held = deadline.saturating_duration_since(Instant::now()).min(site.config.pace.poll);
        if held.is_zero() {
            if agreements::cancel(site, agreement, "no answer in time").await? {
                return Ok(None);
            }
            break;
        }
        match site.yagna.poke(&format!("{base}/wait?timeout={}", seconds(held)), held).await? {
            Said::Good(_) => break,
            Said::Slow => {}
            Said::Over(why) => {
                debug!(agreement, why, "an agreement did not come to be");
                break;
            }
            Said::Conflict(_) | Said::Bad(_) | Said::NotFound => return Ok(None),
        }
    }
    // The agreement itself has the last word: an approval and a cancellation may cross.
    let found = agreements::find(site, agreement).await?;
    Ok(found.filter(|found| found.state == State::Approved).and_then(|found| found.facts))
}

/// What was refused so far.
#[derive(Default)]
struct Seen {
    cheapest: Option<UsdNanos>,
    others: u32,
    last: Option<String>,
}

impl Seen {
    fn refused(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Price(usd) => self.cheapest = Some(self.cheapest.map_or(*usd, |known| known.min(*usd))),
            Refusal::Elsewhere
            | Refusal::Avoided
            | Refusal::Unread(_)
            | Refusal::Hardware
            | Refusal::Terms(_) => {
                self.others += 1;
                self.last = Some(refusal.to_string());
            }
        }
    }

    fn nothing(&self, max: UsdNanos) -> CallError {
        let last = self.last.as_deref().unwrap_or("no offer came");
        match self.cheapest {
            Some(now) if now > max => CallError::Price { now, max },
            Some(usd) => CallError::Capacity(format!("offers cost ${usd} an hour or more; {last}")),
            None => CallError::Capacity(format!("no usable offer: {last}")),
        }
    }
}

/// A demand that is out.
struct Open {
    id: String,
    at: Instant,
}

impl Open {
    async fn new(site: &Site, demand: &Demand, pen: &mut Pen<'_>) -> Result<Self, CallError> {
        // One that a crash left behind would go on drawing proposals.
        if let Some(left) = pen.get(DEMAND).map(str::to_owned) {
            close(site, &left).await;
        }
        pen.write_new(STEP, "demand").await?;
        let said = site.yagna.post(DEMANDS, demand, Duration::ZERO).await.map_err(nothing_done)?;
        let id: String = said.json("POST /demands").map_err(nothing_done)?;
        pen.write_new(DEMAND, &id).await?;
        Ok(Self { id, at: Instant::now() })
    }

    fn path(&self) -> String {
        format!("{DEMANDS}/{}", escaped(&self.id))
    }

    async fn close(&self, site: &Site) {
        close(site, &self.id).await;
    }
}

/// Takes a demand back. It lapses within the hour otherwise.
pub(super) async fn close(site: &Site, demand: &str) {
    if let Err(error) = site.yagna.delete(&format!("{DEMANDS}/{}", escaped(demand))).await {
        debug!(demand, %error, "a demand was not taken back");
    }
}

/// An error before anything was agreed: whatever it says, nothing that costs was done.
pub(super) fn nothing_done(error: CallError) -> CallError {
    match error {
        CallError::Unclear(text) => CallError::Unreachable(text),
        other => other,
    }
}

/// What is on offer now, without buying: for prices and capacity.
pub(super) async fn scan(site: &Site, pool: &GolemPool) -> Result<Vec<Offer>, CallError> {
    let constraints = constraints(site, pool, None);
    let new = NewScan { kind: "offer", constraints: &constraints };
    let said = site.yagna.post("/market-api/v1/scan", &new, Duration::ZERO).await?;
    let id: String = said.json("POST /scan")?;
    let held = site.config.pace.gather;
    // It lapses by itself when nobody asks it any more.
    let events =
        format!("/market-api/v1/scan/{}/events?timeout={}&maxEvents=100", escaped(&id), seconds(held));
    let found = site.yagna.get(&events, held).await?.json::<Vec<ScannedOffer>>("GET /scan/events")?;
    let offers = found.into_iter().filter_map(|one| Offer::read(&one.provider_id, &one.properties).ok());
    Ok(offers.collect())
}
