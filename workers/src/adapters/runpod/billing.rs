//! What RunPod billed an endpoint: REST v2, `GET /v2/billing/serverless`, one record an hour. Amounts are JSON numbers, read by their
//! digits and never as floats.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::{Method, Url};
use schemas::{
    Micros, UsdNanos,
    failure::{Failure, FailureClass as C},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::RunPod;
use crate::adapters::{dialect::Dialect, http, refusal};

/// A year of hours is a few hundred kB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// A bill starts with the hour in which its reading began.
const BUCKET: Duration = Duration::from_secs(3_600);

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    records: Vec<Record<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    end_time: DateTime<Utc>,
    serverless_id: &'a str,
    #[serde(borrow)]
    total_amount: &'a RawValue,
}

impl RunPod {
    /// What all hours since that of `since` came to whose records are final at `now`.
    pub(super) async fn billed_since(
        &self,
        billing: &Url,
        since: Micros,
        now: Micros,
    ) -> Result<UsdNanos, Failure> {
        let endpoint = self.base.last_segment();
        let bucket = u64::try_from(BUCKET.as_micros()).unwrap_or(u64::MAX);
        let start = Micros::new(since.get() - since.get() % bucket);
        let mut url = billing.clone();
        url.query_pairs_mut()
            .append_pair("serverlessId", &endpoint)
            .append_pair("startTime", &rfc3339(start))
            .append_pair("endTime", &rfc3339(now))
            .append_pair("bucketSize", "hour");
        let response = self.request(Method::GET, url).send().await.map_err(http::broken)?;
        let status = response.status().as_u16();
        if status != 200 {
            let wait = http::retry_after(response.headers());
            let body = http::error_body(response).await;
            return Err(refusal::refused(status, &body, wait, Dialect::Vllm));
        }
        let body = http::whole_body(response, ANSWER_MAX).await?;
        sum(&body, &endpoint, now - self.config.billing_settles)
    }
}

fn rfc3339(at: Micros) -> String {
    let at = DateTime::<Utc>::from_timestamp_micros(i64::try_from(at.get()).unwrap_or(i64::MAX));
    at.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The amounts of an endpoint's records that end by `settled`.
fn sum(body: &[u8], endpoint: &str, settled: Micros) -> Result<UsdNanos, Failure> {
    let unreadable = |what: String| Failure::new(C::ProviderDown, format!("billing does not read: {what}"));
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| unreadable(error.to_string()))?;
    let mut total = UsdNanos::ZERO;
    for record in answer.records {
        let ends = u64::try_from(record.end_time.timestamp_micros()).unwrap_or(0);
        if record.serverless_id != endpoint || ends > settled.get() {
            continue;
        }
        let text = record.total_amount.get();
        let amount = dollars(text).ok_or_else(|| unreadable(format!("totalAmount {text:.40}")))?;
        total = total.checked_add(amount).ok_or_else(|| unreadable("too much".into()))?;
    }
    Ok(total)
}

/// A JSON number of dollars, rounded to the nano-dollar; `None` where it is negative or no such number.
pub(super) fn dollars(text: &str) -> Option<UsdNanos> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{part}");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) || digits.len() > 30 {
        return None;
    }
    // So many digits of it stand left of the nano-dollar's point.
    let kept = i32::try_from(whole.len()).ok()? + exponent + 9;
    if kept < 0 {
        return Some(UsdNanos::ZERO);
    }
    let kept = usize::try_from(kept).ok().filter(|kept| *kept <= 40)?;
    let padded = format!("{digits:0<kept$}0");
    let nanos: u64 = match &padded[..kept] {
        "" => 0,
        text => text.parse().ok()?,
    };
    let up = padded.as_bytes().get(kept).is_some_and(|digit| *digit >= b'5');
    nanos.checked_add(u64::from(up)).map(UsdNanos::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_by_its_digits() {
        let nanos = |text| dollars(text).map(UsdNanos::get);
        for (text, expected) in [
            ("8.9", 8_900_000_000),
            ("0", 0),
            ("12", 12_000_000_000),
            ("0.30000000000000004", 300_000_000),
            ("0.2999999999999999889", 300_000_000),
            ("1e-7", 100),
            ("1.5E-9", 2),
            ("4e-10", 0),
            ("1e-30", 0),
            ("2.5e1", 25_000_000_000),
        ] {
            assert_eq!(nanos(text), Some(expected), "{text}");
        }
        for bad in ["-1", "\"1\"", "null", "1e99", "", "."] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn records_of_other_endpoints_and_of_hours_that_are_not_final_are_left_out() {
        let body = br#"{"records":[
            {"startTime":"2026-06-01T00:00:00Z","endTime":"2026-06-01T01:00:00Z","serverlessId":"ep","totalAmount":1.5,"gpuAmount":1.5},
            {"startTime":"2026-06-01T00:00:00Z","endTime":"2026-06-01T01:00:00Z","serverlessId":"other","totalAmount":7,"gpuAmount":7},
            {"startTime":"2026-06-01T01:00:00Z","endTime":"2026-06-01T02:00:00Z","serverlessId":"ep","totalAmount":0.25,"gpuAmount":0}
        ],"metadata":{}}"#;
        let at = |text: &str| {
            Micros::new(
                u64::try_from(DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()).unwrap(),
            )
        };
        assert_eq!(sum(body, "ep", at("2026-06-01T01:30:00Z")).unwrap().to_string(), "1.5");
        assert_eq!(sum(body, "ep", at("2026-06-01T02:00:00Z")).unwrap().to_string(), "1.75");
        assert!(sum(br#"{"records":[{}]}"#, "ep", at("2026-06-01T02:00:00Z")).is_err());
        assert_eq!(rfc3339(at("2026-06-01T01:30:00Z")), "2026-06-01T01:30:00.000000Z");
    }
}
