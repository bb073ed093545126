//! The two headers of a create: how long its answer may take, and how long the prediction may.

use std::time::Duration;

use axum::http::HeaderMap;

/// The wishes of the headers, before scaling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// `Prefer: wait`: how long the answer is held.
    pub(crate) wait: Option<Duration>,
    /// `Cancel-After`: how long after its creation the prediction is stopped.
    pub(crate) cancel_after: Option<Duration>,
}

impl Wishes {
    /// Reads the headers, or gives the rule that they break.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let wait = match text("prefer") {
            None => None,
            Some(prefer) => {
                let rule = "Prefer must be \"wait\" or \"wait=n\" with n between 1 and 60";
                Some(wait(prefer).ok_or_else(|| rule.to_owned())?)
            }
        };
        let cancel_after = match text("cancel-after") {
            None => None,
            Some(after) => {
                let rule = "Cancel-After must be a duration such as 90s, 5m or 1h30m, at least 5 seconds";
                Some(duration(after).filter(|after| *after >= SHORTEST).ok_or_else(|| rule.to_owned())?)
            }
        };
        Ok(Self { wait, cancel_after })
    }
}

const SHORTEST: Duration = Duration::from_secs(5);
/// Longer than any run, and short enough for the timer.
const LONGEST_S: u64 = 365 * 86_400;

fn wait(prefer: &str) -> Option<Duration> {
    if prefer == "wait" {
        return Some(Duration::from_secs(60));
    }
    let seconds = prefer.strip_prefix("wait=").filter(|digits| !digits.starts_with(['0', '+']))?;
    let seconds = seconds.parse().ok().filter(|seconds| (1..=60).contains(seconds))?;
    Some(Duration::from_secs(seconds))
}

/// `90`, `90s`, `5m`, `1h30m45s`: larger units first, each at most once; a number alone is seconds.
fn duration(text: &str) -> Option<Duration> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|&seconds| seconds <= LONGEST_S).map(Duration::from_secs);
    }
    let (mut rest, mut total) = (text, 0_u64);
    for (unit, seconds) in [('h', 3_600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(seconds)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && total <= LONGEST_S).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &str) -> Result<Wishes, String> {
        Wishes::read(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
    }

    #[test]
    fn a_wait_is_between_one_second_and_sixty() {
        for (value, expected) in [
            ("wait", Some(60)),
            ("wait=1", Some(1)),
            ("wait=60", Some(60)),
            ("wait=61", None),
            ("wait=0", None),
            ("wait=05", None),
            ("wait=1.5", None),
            ("respond-async", None),
        ] {
            let got = read("prefer", value).ok().and_then(|wishes| wishes.wait);
            assert_eq!(got, expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn a_deadline_combines_units_and_is_at_least_five_seconds() {
        for (value, expected) in [
            ("30", Some(30)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("2h30m", Some(9_000)),
            ("1h30m45s", Some(5_445)),
            ("5s", Some(5)),
            ("4s", None),
            ("s", None),
            ("", None),
            ("5m1h", None),
            ("1h30", None),
            ("-9s", None),
            ("99999999999999999999h", None),
        ] {
            let got = read("cancel-after", value).ok().and_then(|wishes| wishes.cancel_after);
            assert_eq!(got, expected.map(Duration::from_secs), "{value}");
        }
    }
}
