//! What happened in one world: time, who, what. Written only when somebody will read it, since a passing seed needs none; a
//! failing one is played again with its history.

use std::fmt::Write as _;

use schemas::Micros;

/// Stands for a job's place in lines about several jobs, which are left out where one job is asked for.
pub(crate) const MANY: u64 = u64::MAX;

/// The lines of one world.
#[derive(Debug, Default)]
pub(crate) struct History {
    lines: Option<Vec<Line>>,
    begun: Micros,
}

#[derive(Debug)]
struct Line {
    at: Micros,
    who: String,
    what: String,
    /// The job's place in the log, where the line is about one job; [`MANY`] where it is about several.
    job: Option<u64>,
}

impl History {
    /// A history that begins at `begun`; `written` says whether anybody will read it.
    pub(crate) fn new(written: bool, begun: Micros) -> Self {
        Self { lines: written.then(Vec::new), begun }
    }

    /// Notes something. `what` is only made when the history is written.
    pub(crate) fn note(&mut self, at: Micros, who: &str, job: Option<u64>, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, who: who.to_owned(), what: what(), job });
        }
    }

    /// The lines that are about `job` or about no single job; all of them without one. At most `most`, the last ones.
    pub(crate) fn text(&self, job: Option<u64>, most: usize) -> String {
        let about = |line: &&Line| match (job, line.job) {
            (None, _) | (Some(_), None) => true,
            (Some(wanted), Some(of)) => wanted == of,
        };
        let lines: Vec<&Line> = self.lines.iter().flatten().filter(about).collect();
        let mut text = String::new();
        if lines.len() > most {
            let _ = writeln!(text, "  … {} lines before these", lines.len() - most);
        }
        for line in &lines[lines.len().saturating_sub(most)..] {
            let since = line.at.since(self.begun);
            let job = line.job.filter(|job| *job != MANY).map_or_else(String::new, |job| format!("#{job} "));
            let _ = writeln!(text, "  {:>10.6} {:<12} {job}{}", since.as_secs_f64(), line.who, line.what);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_a_job_leaves_out_other_jobs_and_keeps_what_is_about_none() {
        let mut history = History::new(true, Micros::new(1_000_000));
        for (job, what) in [(Some(1), "first"), (Some(2), "second"), (None, "crash")] {
            history.note(Micros::new(1_500_000), "worker-1", job, || what.to_owned());
        }
        let text = history.text(Some(1), 10);
        assert!(text.contains("0.500000 worker-1     #1 first") && text.contains("crash"), "{text}");
        assert!(!text.contains("second") && history.text(None, 1).contains("2 lines before"));
    }

    #[test]
    fn nothing_is_made_up_for_a_history_that_nobody_reads() {
        let mut history = History::new(false, Micros::new(0));
        history.note(Micros::new(0), "x", None, || unreachable!("nobody reads it"));
        assert!(history.text(None, 10).is_empty());
    }
}
