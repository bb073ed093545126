//! The arguments of `replay`, `dead` and `cancel` that select jobs.

use clap::Args as ClapArgs;
use producer::replay::Selection;
use schemas::{
    JobId, Lane, ProviderId, Region, Tenant, failure::FailureClass, time::Clock as _, topology::Settings,
};
use transport::SystemClock;

use crate::{exit::Usage, named, when::When};

/// Selects jobs; every given condition must hold.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct Which {
    /// Only jobs published to this region
    #[arg(long)]
    pub(crate) region: Option<Region>,
    /// Only jobs for this model, by name or token
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Only jobs of this lane
    #[arg(long)]
    pub(crate) lane: Option<Lane>,
    /// Only jobs with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
}

/// Selects entries of a log; every given condition must hold.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct Selecting {
    /// Only what was stored since: a span before now, or a time
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<When>,
    /// Only what was stored before
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<When>,
    /// Only these sequences of the stream, for instance 100..200, 100.. or ..200
    #[arg(long, value_name = "RANGE", value_parser = range)]
    pub(crate) seq: Option<(Option<u64>, Option<u64>)>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only jobs of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<Tenant>,
    /// Only jobs that failed like this, for instance timeout
    #[arg(long)]
    pub(crate) class: Option<FailureClass>,
    /// Only jobs whose last attempt was at this provider
    #[arg(long)]
    pub(crate) provider: Option<ProviderId>,
    /// Only dead letters of this group, as `beacon dead list` shows it
    #[arg(long, value_name = "GROUP")]
    pub(crate) fingerprint: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn range(text: &str) -> Result<(Option<u64>, Option<u64>), String> {
    let number = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
    let refuse = |_| format!("`{text}` must be FIRST..LAST");
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (first, last) = (number(first).map_err(refuse)?, number(last).map_err(refuse)?);
    match (first, last) {
        (None, None) => Err(format!("`{text}` must be FIRST..LAST")),
        (Some(a), Some(b)) if a > b => Err(format!("`{text}` must not go backwards")),
        other => Ok(other),
    }
}

impl Selecting {
    /// The selection, checked against the configuration.
    pub(crate) fn selection(&self, jobs: &[JobId], topology: &Settings) -> anyhow::Result<Selection> {
        let now = SystemClock.now();
        let (first_seq, last_seq) = self.seq.unwrap_or_default();
        let (since, until) = (self.since.map(|w| w.from(now)), self.until.map(|w| w.from(now)));
        if since.zip(until).is_some_and(|(since, until)| since >= until) {
            return Err(Usage("--since must be before --until".into()).into());
        }
        Ok(Selection {
            jobs: jobs.iter().copied().collect(),
            since,
            until,
            first_seq,
            last_seq,
            region: self.which.region.clone(),
            model: self.which.model.as_deref().map(|name| named::model(Some(name), topology)).transpose()?,
            lane: self.which.lane,
            tenant: self.tenant.clone(),
            class: self.class,
            provider: self.provider.clone(),
            labels: self.which.labels.iter().cloned().collect(),
            fingerprint: self.fingerprint.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_be_open_at_one_end() {
        assert_eq!(range("5..9"), Ok((Some(5), Some(9))));
        assert_eq!(range("5.."), Ok((Some(5), None)));
        assert_eq!(range("..9"), Ok((None, Some(9))));
        assert_eq!(range("7"), Ok((Some(7), Some(7))));
        for bad in ["..", "9..5", "a..b", ""] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
