//! What yagna says, as it says it. Numbers that are money stay text.

#![expect(clippy::struct_field_names, reason = "the names are yagna's")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Properties of an offer or a demand, in the flat convention. Numbers among them are prices, so they are read by whoever knows.
pub(super) type Properties = BTreeMap<String, Box<RawValue>>;

/// `GET /me`
#[derive(Debug, Deserialize)]
pub(super) struct Identity {
    /// Our node id.
    pub(super) identity: String,
}

/// `GET /version/get`
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub(super) current: VersionInfo,
}

/// One version.
#[derive(Debug, Deserialize)]
pub(super) struct VersionInfo {
    pub(super) version: String,
}

/// An account of `GET /requestorAccounts`.
#[derive(Debug, Deserialize)]
pub(super) struct Account {
    pub(super) platform: String,
    pub(super) send: bool,
}

/// A line of `GET /payments/status`.
#[derive(Debug, Deserialize)]
pub(super) struct DriverStatus {
    pub(super) kind: String,
    #[serde(default)]
    pub(super) network: Option<String>,
}

/// `POST /allocations`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewAllocation<'a> {
    pub(super) total_amount: &'a str,
    pub(super) payment_platform: &'a str,
    pub(super) make_deposit: bool,
    pub(super) timeout: &'a str,
}

/// `PUT /allocations/{id}`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AllocationUpdate<'a> {
    pub(super) total_amount: &'a str,
    pub(super) timeout: &'a str,
}

/// An allocation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    pub(super) allocation_id: String,
    pub(super) total_amount: String,
    pub(super) remaining_amount: String,
    #[serde(default)]
    pub(super) timeout: Option<String>,
}

/// `GET /demandDecorations`
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Decorations {
    pub(super) properties: Vec<Property>,
    pub(super) constraints: Vec<String>,
}

/// A property that yagna wants in a demand.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Property {
    pub(super) key: String,
    pub(super) value: String,
}

/// A demand, and each of our counter-proposals.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Demand {
    pub(super) properties: serde_json::Map<String, serde_json::Value>,
    pub(super) constraints: String,
}

/// `POST /scan`
#[derive(Debug, Serialize)]
pub(super) struct NewScan<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    pub(super) constraints: &'a str,
}

/// An offer, as a scan shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScannedOffer {
    pub(super) provider_id: String,
    pub(super) properties: Properties,
}

/// An event of a demand.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MarketEvent {
    /// In a `ProposalEvent` only; the other kinds ask for nothing.
    #[serde(default)]
    pub(super) proposal: Option<Proposal>,
}

/// A proposal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proposal {
    pub(super) proposal_id: String,
    pub(super) issuer_id: String,
    pub(super) state: String,
    pub(super) properties: Properties,
}

/// Why we end something.
#[derive(Debug, Serialize)]
pub(super) struct Reason<'a> {
    pub(super) message: &'a str,
    /// The word that golem's own clients use.
    #[serde(rename = "golem.requestor.code")]
    pub(super) code: &'a str,
}

/// `POST /agreements`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewAgreement<'a> {
    pub(super) proposal_id: &'a str,
    pub(super) valid_to: &'a str,
}

/// A line of `GET /agreements`.
#[derive(Debug, Deserialize)]
pub(super) struct ListedAgreement {
    pub(super) id: String,
}

/// `GET /agreements/{id}`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Agreement {
    pub(super) agreement_id: String,
    pub(super) demand: AgreedDemand,
    pub(super) offer: AgreedOffer,
    pub(super) valid_to: String,
    #[serde(default)]
    pub(super) approved_date: Option<String>,
    pub(super) state: String,
    pub(super) timestamp: String,
}

/// Our side of an agreement.
#[derive(Debug, Deserialize)]
pub(super) struct AgreedDemand {
    pub(super) properties: Properties,
}

/// The provider's side of an agreement.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AgreedOffer {
    pub(super) provider_id: String,
    pub(super) properties: Properties,
}

/// An event of `GET /agreementEvents`. A released yagna wrote the key of its type in lower case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AgreementEvent {
    #[serde(alias = "eventtype")]
    pub(super) event_type: String,
    #[serde(alias = "eventdate")]
    pub(super) event_date: String,
    pub(super) agreement_id: String,
    #[serde(default)]
    pub(super) terminator: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<EndReason>,
}

/// Why an agreement ended.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct EndReason {
    #[serde(default)]
    pub(super) message: Option<String>,
    #[serde(default, rename = "golem.provider.code")]
    pub(super) provider_code: Option<String>,
    #[serde(default, rename = "golem.requestor.code")]
    pub(super) requestor_code: Option<String>,
}

/// An id: a bare string, or an object that names it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum MadeActivity {
    Bare(String),
    #[serde(rename_all = "camelCase")]
    Named {
        activity_id: String,
    },
}

impl MadeActivity {
    pub(super) fn id(self) -> String {
        match self {
            Self::Bare(id) | Self::Named { activity_id: id } => id,
        }
    }
}

/// `GET /activity/{id}/state`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ActivityState {
    /// Now, and what it is becoming.
    pub(super) state: (String, Option<String>),
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) error_message: Option<String>,
}

/// `POST /activity/{id}/exec`
#[derive(Debug, Serialize)]
pub(super) struct Exec {
    /// A JSON array, as text.
    pub(super) text: String,
}

/// The result of one command of a batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandResult {
    pub(super) index: usize,
    pub(super) result: String,
    #[serde(default)]
    pub(super) stderr: Option<String>,
    #[serde(default)]
    pub(super) message: Option<String>,
    #[serde(default)]
    pub(super) is_batch_finished: bool,
}

/// `POST /net`
#[derive(Debug, Serialize)]
pub(super) struct NewNetwork<'a> {
    pub(super) ip: &'a str,
}

/// A private network.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) ip: String,
    pub(super) mask: String,
}

/// A node of a private network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) ip: String,
}

/// An event of `GET /debitNoteEvents`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DebitNoteEvent {
    #[serde(alias = "eventtype")]
    pub(super) event_type: String,
    pub(super) event_date: String,
    pub(super) debit_note_id: String,
}

/// An event of `GET /invoiceEvents`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InvoiceEvent {
    #[serde(alias = "eventtype")]
    pub(super) event_type: String,
    pub(super) event_date: String,
    pub(super) invoice_id: String,
}

/// A debit note.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DebitNote {
    pub(super) debit_note_id: String,
    pub(super) agreement_id: String,
    pub(super) activity_id: String,
    pub(super) timestamp: String,
    /// GLM, the whole of the activity so far.
    pub(super) total_amount_due: String,
    /// Numbers in the order of the offer's usage vector.
    #[serde(default)]
    pub(super) usage_counter_vector: Option<Box<RawValue>>,
    pub(super) status: String,
}

/// An invoice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Invoice {
    pub(super) invoice_id: String,
    pub(super) agreement_id: String,
    /// GLM.
    pub(super) amount: String,
    pub(super) status: String,
}

/// Accepts a debit note or an invoice.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Acceptance<'a> {
    /// Exactly what was asked for, digit by digit.
    pub(super) total_amount_accepted: &'a str,
    pub(super) allocation_id: &'a str,
}

/// Rejects an invoice.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rejection<'a> {
    pub(super) rejection_reason: &'a str,
    pub(super) total_amount_accepted: &'a str,
    pub(super) message: &'a str,
}

/// An error's body. Its text may be missing.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Trouble {
    #[serde(default)]
    pub(super) message: Option<String>,
    /// Of `application/problem+json`.
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
}

/// Numbers of a JSON array, as they are written; `None` if it is none.
pub(super) fn numbers(raw: &RawValue) -> Option<Vec<super::decimal::Decimal>> {
    let raws: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    raws.into_iter().map(|raw| raw.get().parse().ok()).collect()
}

/// A property that is text.
pub(super) fn text(properties: &Properties, key: &str) -> Option<String> {
    serde_json::from_str(properties.get(key)?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_digit_by_digit() {
        let raw = "[6.944444444444444e-05, 0, 1.5]";
        let raw: Box<RawValue> = serde_json::from_str(raw).unwrap();
        let read: Vec<_> = numbers(&raw).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(read, ["0.00006944444444444444", "0", "1.5"]);
        let text: Box<RawValue> = serde_json::from_str("[\"1\"]").unwrap();
        assert_eq!(numbers(&text), None);
    }

    #[test]
    fn an_event_type_in_lower_case_is_the_same() {
        let text =
            r#"{"eventtype":"InvoiceReceivedEvent","eventDate":"2026-11-23T09:00:00Z","invoiceId":"i"}"#;
        let event: InvoiceEvent = serde_json::from_str(text).unwrap();
        assert_eq!(event.event_type, "InvoiceReceivedEvent");
    }

    #[test]
    fn an_activity_is_named_in_either_form() {
        for text in [r#""a1""#, r#"{"activityId":"a1","credentials":null}"#] {
            assert_eq!(serde_json::from_str::<MadeActivity>(text).unwrap().id(), "a1");
        }
    }
}
