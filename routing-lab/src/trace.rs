//! Real arrivals: the Azure LLM inference traces of 2023 (Patel et al., "Splitwise", ISCA 2024), or drawn arrivals with the same
//! marginal distributions if a file is missing. Opens no file: the text comes in.
//!
//! A trace has no tenants, regions, models or lanes: each job draws its own, by the shares of the scenario. Several copies of a
//! trace can be laid over each other. Each copy begins at another place of the trace and goes round, so that the copies are not
//! in step.

use super::chance::{About, Chance};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Microseconds after the first request.
    pub(super) at_us: u64,
    /// Tokens of its prompt.
    pub(super) prompt: u32,
    /// Tokens of its answer.
    pub(super) output: u32,
}

/// Requests, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// At least one.
    requests: Vec<Request>,
    /// False if it was drawn because the file is missing.
    pub real: bool,
}

/// Why a trace cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line cannot be read.
    #[error("line {line}: {what}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// There are no requests.
    #[error("holds no request")]
    Empty,
    /// The file is missing, and its distributions are not known.
    #[error(
        "`{0}` is not there, and only azure-llm-2023-code.csv and azure-llm-2023-conv.csv have a stand-in"
    )]
    Unknown(String),
}

/// The marginal distributions of a trace whose file may be missing.
struct Marginals {
    file: &'static str,
    rate: f64,
    minutes: u32,
    /// Sigma of the lognormal distribution of the rate of a minute, from the busiest minute over the mean.
    minute_sigma: f64,
    /// Median, 90th and 99th percentile.
    prompt: [f64; 3],
    output: [f64; 3],
}

/// The distributions of the two files, measured.
const KNOWN: [Marginals; 2] = [
    Marginals {
        file: "azure-llm-2023-code.csv",
        rate: 2.57,
        minutes: 57,
        minute_sigma: 0.62,
        prompt: [1_469.0, 5_186.0, 7_436.0],
        output: [13.0, 55.0, 249.0],
    },
    Marginals {
        file: "azure-llm-2023-conv.csv",
        rate: 5.53,
        minutes: 58,
        minute_sigma: 0.17,
        prompt: [1_020.0, 2_734.0, 4_142.0],
        output: [129.0, 424.0, 601.0],
    },
];

impl Trace {
    /// Reads `TIMESTAMP,ContextTokens,GeneratedTokens`.
    pub fn read(text: &str) -> Result<Self, TraceError> {
        let mut requests = Vec::new();
        let mut first = None;
        for (index, line) in text.lines().enumerate().skip(1) {
            let refuse = |what| TraceError::Line { line: index + 1, what };
            let mut fields = line.trim_end().split(',');
            let (Some(at), Some(prompt), Some(output)) = (fields.next(), fields.next(), fields.next()) else {
                return Err(refuse("must be a time, prompt tokens and output tokens"));
            };
            let at =
                micros_of(at).ok_or(refuse("must begin with a time such as 2023-11-16 18:17:03.9799600"))?;
            let tokens = |text: &str| text.parse::<u32>().ok();
            let (Some(prompt), Some(output)) = (tokens(prompt), tokens(output)) else {
                return Err(refuse("tokens must be whole numbers"));
            };
            let at_us =
                at.checked_sub(*first.get_or_insert(at)).ok_or(refuse("is earlier than the first"))?;
            requests.push(Request { at_us, prompt, output });
        }
        requests.sort_by_key(|request| request.at_us);
        if requests.is_empty() { Err(TraceError::Empty) } else { Ok(Self { requests, real: true }) }
    }

    /// Draws arrivals with the distributions of a file that is missing: the same rate, variation by minute, and tokens.
    pub fn stand_in(file: &str, seed: u64) -> Result<Self, TraceError> {
        let Some(known) = KNOWN.iter().find(|known| known.file == file) else {
            return Err(TraceError::Unknown(file.chars().take(60).collect()));
        };
        let mut chance = Chance::of(seed, About::Arrivals, 0, 1);
        let mut requests = Vec::new();
        for minute in 0..known.minutes {
            // The mean is 1 for any sigma.
            let sigma = known.minute_sigma;
            let rate = known.rate * (sigma * chance.normal() - sigma * sigma / 2.0).exp();
            let mut at = 0.0;
            loop {
                at += chance.gap() / rate;
                if at >= 60.0 {
                    break;
                }
                requests.push(Request {
                    at_us: whole((f64::from(minute) * 60.0 + at) * 1e6),
                    prompt: tokens(&mut chance, known.prompt),
                    output: tokens(&mut chance, known.output),
                });
            }
        }
        if requests.is_empty() { Err(TraceError::Empty) } else { Ok(Self { requests, real: false }) }
    }

    /// Copies laid over each other, each begun at a place of its own; the requests until `until_us`, in order.
    pub(super) fn overlaid(&self, copies: u32, until_us: u64, seed: u64) -> Vec<Request> {
        let span = self.requests.last().map_or(0, |last| last.at_us) + 1;
        let mut all = Vec::with_capacity(self.requests.len() * copies as usize);
        for copy in 0..u64::from(copies) {
            let shift = if copy == 0 {
                0
            } else {
                whole(Chance::of(seed, About::Shift, copy, 0).unit() * span as f64)
            };
            let moved = |request: &Request| Request { at_us: (request.at_us + shift) % span, ..*request };
            all.extend(self.requests.iter().map(moved).filter(|request| request.at_us < until_us));
        }
        all.sort_by_key(|request| request.at_us);
        all
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
fn whole(number: f64) -> u64 {
    number.max(0.0) as u64
}

/// Interpolates between the known percentiles on a logarithmic scale, and a little beyond the last.
fn tokens(chance: &mut Chance, [p50, p90, p99]: [f64; 3]) -> u32 {
    let u = chance.unit();
    let between = |low: f64, high: f64, part: f64| low * (high / low).powf(part);
    let tokens = if u < 0.5 {
        between(p50 / 8.0, p50, u / 0.5)
    } else if u < 0.9 {
        between(p50, p90, (u - 0.5) / 0.4)
    } else {
        between(p90, p99, (u - 0.9) / 0.09)
    };
    u32::try_from(whole(tokens)).unwrap_or(u32::MAX).max(1)
}

/// Microseconds of a time such as `2023-11-16 18:17:03.9799600`.
fn micros_of(text: &str) -> Option<u64> {
    let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok()?;
    u64::try_from(time.and_utc().timestamp_micros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n";

    #[test]
    fn a_trace_reads_with_times_from_its_first_request() {
        let trace = Trace::read(TEXT).unwrap();
        assert_eq!(trace.requests[1], Request { at_us: 52_000, prompt: 3_180, output: 8 });
    }

    #[test]
    fn what_does_not_read_is_refused_with_its_line() {
        for (line, says) in
            [("x,1,2", "line 2"), ("2023-11-16 18:17:03.9,a,2", "line 2: tokens"), ("2023", "line 2")]
        {
            let error = Trace::read(&format!("T,C,G\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
        assert_eq!(Trace::read("T,C,G\n"), Err(TraceError::Empty));
        assert!(Trace::stand_in("x.csv", 1).is_err());
    }

    #[test]
    fn copies_go_round_and_lose_nothing() {
        let trace = Trace::stand_in("azure-llm-2023-conv.csv", 1).unwrap();
        let three = trace.overlaid(3, u64::MAX, 1);
        assert_eq!(three.len(), 3 * trace.requests.len());
        assert!(three.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
    }

    #[test]
    fn a_stand_in_has_the_marginals_of_the_file() {
        for known in &KNOWN {
            let trace = Trace::stand_in(known.file, 3).unwrap();
            let wanted = known.rate * f64::from(known.minutes) * 60.0;
            assert!((trace.requests.len() as f64 / wanted - 1.0).abs() < 0.3, "{}", trace.requests.len());
            let mut outputs: Vec<u32> = trace.requests.iter().map(|request| request.output).collect();
            outputs.sort_unstable();
            let median = f64::from(outputs[outputs.len() / 2]);
            assert!((median / known.output[0] - 1.0).abs() < 0.2, "{median}");
        }
    }
}
