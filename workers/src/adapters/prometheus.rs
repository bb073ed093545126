//! Reads pages of Prometheus metrics as inference servers write them. Pure.
//!
//! A page is not ours to trust: lines that do not read are passed over, and so are numbers that are none. Nothing is read from them
//! that is not there: a metric without a sound sample is missing, and not zero.

/// How the samples of one metric, which differ by their labels, are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// Requests of several engines, or of several models.
    Sum,
    /// Shares: the fullest engine counts.
    Most,
}

/// A metric that is looked for: its names, of which the first that is there counts, and how its samples are put together.
pub(super) type Wanted = (&'static [&'static str], Put);

/// The values of the wanted metrics. Of a name, `_total` at its end says nothing, and a colon may have become an underscore on the way.
pub(super) fn values<const N: usize>(page: &str, wanted: &[Wanted; N]) -> [Option<f64>; N] {
    let mut found = [None::<(usize, f64)>; N];
    for (name, value) in
        page.lines().filter_map(sample).filter(|(_, value)| value.is_finite() && *value >= 0.0)
    {
        for (slot, (names, put)) in found.iter_mut().zip(wanted) {
            let Some(rank) = names.iter().position(|wanted| is_same(wanted, name)) else { continue };
            *slot = Some(match *slot {
                Some((known, old)) if known == rank => match put {
                    Put::Sum => (rank, old + value),
                    Put::Most => (rank, old.max(value)),
                },
                Some((known, old)) if known < rank => (known, old),
                Some(_) | None => (rank, value),
            });
        }
    }
    found.map(|found| found.map(|(_, value)| value))
}

fn is_same(wanted: &str, name: &str) -> bool {
    let [wanted, name] = [wanted, name].map(|name| name.strip_suffix("_total").unwrap_or(name).as_bytes());
    let plain = |byte: u8| if byte == b':' { b'_' } else { byte };
    wanted.len() == name.len() && wanted.iter().zip(name).all(|(a, b)| plain(*a) == plain(*b))
}

/// The name and the value of a line; `None` for a comment, and for what is no sample.
fn sample(line: &str) -> Option<(&str, f64)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let rest = if rest.starts_with('{') { after_labels(rest)? } else { rest };
    // A timestamp or an exemplar may follow.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then_some((name, value))
}

/// What follows the labels, in whose texts braces and quotes may stand.
fn after_labels(text: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return text.get(at + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: [Wanted; 3] = [
        (&["vllm:num_requests_running"], Put::Sum),
        (&["vllm:generation_tokens"], Put::Sum),
        (&["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"], Put::Most),
    ];

    fn check(page: &str, expected: [Option<f64>; 3]) {
        assert_eq!(values(page, &WANTED), expected, "{page}");
    }

    #[test]
    fn samples_are_summed_over_their_labels_and_shares_are_not() {
        let page = "# HELP vllm:num_requests_running Requests.\n# TYPE vllm:num_requests_running gauge\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\nvllm:num_requests_running{engine=\"1\",model_name=\"m\"} 2.0\n\
            vllm:generation_tokens_total{engine=\"0\"} 1.5e3\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.75\n";
        check(page, [Some(5.0), Some(1_500.0), Some(0.75)]);
    }

    #[test]
    fn a_newer_name_counts_before_an_older_one_in_any_order() {
        let (old, new) = ("vllm:gpu_cache_usage_perc 0.9\n", "vllm:kv_cache_usage_perc 0.1\n");
        check(&format!("{old}{new}"), [None, None, Some(0.1)]);
        check(&format!("{new}{old}"), [None, None, Some(0.1)]);
        check(old, [None, None, Some(0.9)]);
    }

    #[test]
    fn pages_as_they_are_written_are_read() {
        check("vllm:num_requests_running{a=\"}\\\"{ 7\",b=\"\"} 3 1795420800000\n", [Some(3.0), None, None]);
        check("vllm:num_requests_running 3 # {trace_id=\"x\"} 1.0 2\r\n", [Some(3.0), None, None]);
        check("  vllm:num_requests_running{ model_name=\"é\", }  3", [Some(3.0), None, None]);
        check("vllm_num_requests_running 3\nvllm:generation_tokens 7", [Some(3.0), Some(7.0), None]);
        check("vllm:num_requests_running 0", [Some(0.0), None, None]);
    }

    #[test]
    fn what_is_no_number_is_missing_and_not_zero() {
        for odd in ["NaN", "+Inf", "-Inf", "-1", "x", "", "\"3\""] {
            check(
                &format!("vllm:num_requests_running {odd}\nvllm:generation_tokens_total 7"),
                [None, Some(7.0), None],
            );
        }
        check(
            "vllm:num_requests_running{engine=\"0\"} NaN\nvllm:num_requests_running{engine=\"1\"} 2",
            [Some(2.0), None, None],
        );
        for odd in [
            "",
            "#",
            "vllm:num_requests_running",
            "vllm:num_requests_running{a=\"b\" 3",
            "vllm:num_requests_running_sum 3",
            "<html>",
            "{} 3",
        ] {
            check(odd, [None; 3]);
        }
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_a_panic(page in ".{0,200}") {
            values(&page, &WANTED);
            values(&format!("vllm:num_requests_running{page}"), &WANTED);
        }
    }
}
