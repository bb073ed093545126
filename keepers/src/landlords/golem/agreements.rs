//! Agreements as yagna has them: one by its id, those of a pool, and whose provider let us down lately.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use schemas::PoolId;

use super::{
    facts::{self, Facts},
    site::Site,
    wire::{Agreement, AgreementEvent, ListedAgreement, Reason},
    yagna::{Said, escaped},
};
use crate::landlord::CallError;

/// The word in our own reasons for a provider that is to be avoided.
const BAD_PROVIDER: &str = "BadProvider";

/// Events of one page, the most that yagna gives.
const PAGE: usize = 100;

/// Where agreements live.
pub(super) const AGREEMENTS: &str = "/market-api/v1/agreements";

/// Where an agreement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Made and not sent: the provider knows nothing of it.
    Proposal,
    /// Sent.
    Pending,
    /// In force.
    Approved,
    /// It never came to be.
    Never,
    /// It was in force and is over.
    Ended,
    /// A word that we do not know.
    Unknown,
}

impl State {
    fn read(text: &str, was_approved: bool) -> Self {
        match text {
            "Proposal" => Self::Proposal,
            "Pending" => Self::Pending,
            "Approved" => Self::Approved,
            "Terminated" => Self::Ended,
            "Expired" if was_approved => Self::Ended,
            "Cancelled" | "Rejected" | "Expired" => Self::Never,
            _ => Self::Unknown,
        }
    }
}

/// An agreement: its state, and its facts if it is ours.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) state: State,
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) approved: Option<String>,
}

/// Asks for an agreement; `None` when there is none of this id.
pub(super) async fn find(site: &Site, id: &str) -> Result<Option<Found>, CallError> {
    let path = format!("{AGREEMENTS}/{}", escaped(id));
    match site.yagna.get(&path, Duration::ZERO).await? {
        Said::Good(answer) => {
            let agreement: Agreement = answer.json()?;
            Ok(Some(Found {
                state: State::read(&agreement.state, agreement.approved_date.is_some()),
                facts: Facts::read(&agreement).map(Arc::new),
                approved: agreement.approved_date,
            }))
        }
        Said::NotFound => Ok(None),
        other => Err(other.unexpected("GET /agreements")),
    }
}

/// The facts of an agreement, from the books or from yagna; `None` if it is not ours.
pub(super) async fn facts(site: &Site, id: &str) -> Result<Option<Arc<Facts>>, CallError> {
    if let Some(account) = site.book().get(id) {
        return Ok(Some(Arc::clone(&account.facts)));
    }
    Ok(find(site, id).await?.and_then(|found| found.facts))
}

/// The ids of a pool's agreements that are in force.
pub(super) async fn approved(site: &Site, pool: &PoolId) -> Result<Vec<String>, CallError> {
    let session = site.config.session(pool);
    let path = format!("{AGREEMENTS}?state=Approved&appSessionId={}", escaped(&session));
    let listed: Vec<ListedAgreement> = site.yagna.read(&path).await?;
    Ok(listed.into_iter().map(|agreement| agreement.id).collect())
}

/// Ends an agreement. `good`: the provider did nothing wrong. True if it had ended before.
pub(super) async fn terminate(site: &Site, id: &str, why: &str, good: bool) -> Result<Terminated, CallError> {
    let reason = Reason { message: why, code: if good { "Success" } else { BAD_PROVIDER } };
    let path = format!("{AGREEMENTS}/{}/terminate", escaped(id));
    match site.yagna.post(&path, &reason, Duration::ZERO).await? {
        Said::Good(_) => Ok(Terminated::Now),
        Said::Over(_) => Ok(Terminated::Before),
        Said::Conflict(_) => Ok(Terminated::NotApproved),
        Said::NotFound => Ok(Terminated::Unknown),
        other => Err(other.unexpected("POST terminate")),
    }
}

/// What an ending call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terminated {
    Now,
    /// The provider was first, or it expired.
    Before,
    /// It is not approved yet: to be cancelled instead.
    NotApproved,
    /// There is none of this id.
    Unknown,
}

/// Takes back an agreement that was not approved yet. False if it is too late for that.
pub(super) async fn cancel(site: &Site, id: &str, why: &str) -> Result<bool, CallError> {
    let reason = Reason { message: why, code: "Cancelled" };
    match site.yagna.post(&format!("{AGREEMENTS}/{}/cancel", escaped(id)), &reason, Duration::ZERO).await? {
        Said::Good(_) | Said::NotFound => Ok(true),
        Said::Over(_) | Said::Conflict(_) => Ok(false),
        other => Err(other.unexpected("POST cancel")),
    }
}

/// Nodes that ended an agreement with us lately, or with whom we ended one for a reason. yagna keeps these events, so that a
/// restart forgets nothing.
pub(super) async fn avoided(site: &Site) -> Result<BTreeSet<String>, CallError> {
    let since = site.now() - site.config.pace.avoid_for;
    let mut avoided = BTreeSet::new();
    for pool in site.config.pools.keys() {
        let session = site.config.session(pool);
        let mut after = facts::written(since);
        loop {
            let path = format!(
                "/market-api/v1/agreementEvents?timeout=0&maxEvents={PAGE}&afterTimestamp={}&appSessionId={}",
                escaped(&after),
                escaped(&session)
            );
            let events: Vec<AgreementEvent> = match site.yagna.get(&path, Duration::ZERO).await? {
                Said::Good(answer) => answer.json()?,
                // A session without an agreement.
                Said::NotFound => break,
                other => return Err(other.unexpected("GET /agreementEvents")),
            };
            for event in events.iter().filter(|event| let_us_down(event)) {
                if let Some(facts) = facts(site, &event.agreement_id).await? {
                    avoided.insert(facts.provider.clone());
                }
            }
            match events.last() {
                Some(last) if events.len() >= PAGE && last.event_date != after => {
                    after.clone_from(&last.event_date);
                }
                _ => break,
            }
        }
    }
    Ok(avoided)
}

fn let_us_down(event: &AgreementEvent) -> bool {
    if event.event_type != "AgreementTerminatedEvent" {
        return false;
    }
    let reason = event.reason.clone().unwrap_or_default();
    match event.terminator.as_deref() {
        // Both of these are agreed.
        Some("Provider") => !matches!(reason.provider_code.as_deref(), Some("Expired" | "Success")),
        _ => reason.requestor_code.as_deref() == Some(BAD_PROVIDER),
    }
}

/// Why an agreement ended, in a word, if yagna can tell, and whether its provider let us down.
pub(super) async fn why_ended(site: &Site, facts: &Facts) -> Option<(String, bool)> {
    let session = site.config.session(&facts.marks.pool);
    let path = format!(
        "/market-api/v1/agreementEvents?timeout=0&maxEvents={PAGE}&afterTimestamp={}&appSessionId={}",
        escaped(&facts.made),
        escaped(&session)
    );
    let events: Vec<AgreementEvent> = site.yagna.read(&path).await.ok()?;
    let ended = events.into_iter().find(|event| {
        event.agreement_id == facts.agreement && event.event_type == "AgreementTerminatedEvent"
    })?;
    let broken = let_us_down(&ended);
    let reason = ended.reason.unwrap_or_default();
    let code = reason.provider_code.or(reason.requestor_code).or(reason.message).unwrap_or_default();
    Some((format!("{} ended it: {code}", ended.terminator.unwrap_or_else(|| "somebody".into())), broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_walked_away_is_told_from_one_that_kept_its_word() {
        let event = |terminator: &str, reason: &str| {
            let text = format!(
                r#"{{"eventType":"AgreementTerminatedEvent","eventDate":"2026-11-23T09:00:00Z","agreementId":"a",
                "terminator":"{terminator}","signature":"","reason":{reason}}}"#
            );
            let_us_down(&serde_json::from_str(&text).unwrap())
        };
        assert!(event("Provider", r#"{"message":"","golem.provider.code":"Shutdown"}"#));
        assert!(event("Provider", "null"));
        assert!(!event("Provider", r#"{"message":"","golem.provider.code":"Expired"}"#));
        assert!(!event("Requestor", r#"{"message":"","golem.requestor.code":"Success"}"#));
        assert!(event("Requestor", r#"{"message":"","golem.requestor.code":"BadProvider"}"#));
    }

    #[test]
    fn an_agreement_that_lapsed_before_approval_never_was() {
        assert_eq!(State::read("Expired", false), State::Never);
        assert_eq!(State::read("Expired", true), State::Ended);
        assert_eq!(State::read("Signed", false), State::Unknown);
    }
}
