//! What a check found, as tables. Pure.

use std::fmt;

use comfy_table::Table;
use schemas::{
    PoolId,
    check::{Finding, Voice},
};

use super::ask::Looked;
use crate::table::{table, wrapped};

/// Letters of a finding, and of what to do, that a line of the table has room for.
const FOUND: usize = 60;
const TODO: usize = 44;

/// How many findings have which voice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts([usize; 4]);

const VOICES: [Voice; 4] = [Voice::Ok, Voice::Warning, Voice::Unknown, Voice::Wrong];

impl Counts {
    pub(super) fn of(looked: &[Looked]) -> Self {
        let findings = || looked.iter().flat_map(|one| &one.findings);
        Self(VOICES.map(|voice| findings().filter(|finding| finding.voice == voice).count()))
    }

    pub(super) fn of_voice(self, voice: Voice) -> usize {
        VOICES.iter().zip(self.0).find(|(one, _)| **one == voice).map_or(0, |(_, count)| count)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ok, warnings, unknown, wrong] = self.0;
        let s = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{wrong} wrong, {warnings} warning{}, {unknown} unknown, {ok} ok", s(warnings))
    }
}

/// One row per check and pool.
pub(super) fn findings(looked: &[Looked]) -> Table {
    let rows: Vec<[String; 5]> = looked
        .iter()
        .flat_map(|one| {
            one.findings.iter().enumerate().map(|(index, finding)| {
                let pool = if index == 0 { one.pool.to_string() } else { String::new() };
                let todo = finding.todo.as_deref().unwrap_or_default();
                [
                    pool,
                    finding.aspect.name().to_owned(),
                    finding.voice.name().to_owned(),
                    wrapped(&finding.found, FOUND),
                    wrapped(todo, TODO),
                ]
            })
        })
        .collect();
    table(["pool", "check", "says", "found", "what to do"], &[], &rows)
}

/// What keeps jobs from running, in the order in which a person sees to it: from an account to a paid answer.
pub(super) fn missing(looked: &[Looked]) -> Vec<(&PoolId, &Finding)> {
    let mut missing: Vec<(&PoolId, &Finding)> = looked
        .iter()
        .flat_map(|one| one.findings.iter().map(move |finding| (&one.pool, finding)))
        .filter(|(_, finding)| finding.voice == Voice::Wrong)
        .collect();
    missing.sort_by_key(|(_, finding)| finding.aspect);
    missing
}

/// The same as a table; `None` where nothing is missing.
pub(super) fn still_missing(looked: &[Looked]) -> Option<Table> {
    let rows: Vec<[String; 5]> = missing(looked)
        .into_iter()
        .enumerate()
        .map(|(index, (pool, finding))| {
            [
                (index + 1).to_string(),
                pool.to_string(),
                finding.aspect.name().to_owned(),
                wrapped(&finding.found, FOUND),
                wrapped(finding.todo.as_deref().unwrap_or_default(), TODO),
            ]
        })
        .collect();
    (!rows.is_empty()).then(|| table(["", "pool", "check", "missing", "do"], &[0], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::check::Aspect;

    fn looked() -> Vec<Looked> {
        let of = |pool: &str, findings| Looked { pool: pool.parse().unwrap(), findings };
        vec![
            of(
                "modal@us-east",
                vec![
                    Finding::ok(Aspect::Key, "the provider takes the key"),
                    Finding::wrong(Aspect::App, "there is no such app", "deploy it"),
                    Finding::warning(Aspect::Price, "dearer", "accept it"),
                ],
            ),
            of("runpod@eu-west", vec![Finding::wrong(Aspect::Secret, "`RUNPOD_KEY` is not set", "set it")]),
        ]
    }

    #[test]
    fn what_is_missing_comes_in_the_order_of_doing_and_only_what_is_wrong_is() {
        let looked = looked();
        let order: Vec<Aspect> = missing(&looked).iter().map(|(_, finding)| finding.aspect).collect();
        assert_eq!(order, [Aspect::Secret, Aspect::App]);
        let table = still_missing(&looked).unwrap().to_string();
        assert!(table.find("RUNPOD_KEY").unwrap() < table.find("no such app").unwrap(), "{table}");
        assert!(still_missing(&looked[..0]).is_none());
    }

    #[test]
    fn each_finding_is_a_row_and_a_pool_is_named_once() {
        let table = findings(&looked()).to_string();
        assert_eq!(table.matches("modal@us-east").count(), 1, "{table}");
        for word in ["app or image", "warning", "deploy it", "sku and price"] {
            assert!(table.contains(word), "{word} is not in {table}");
        }
        assert_eq!(Counts::of(&looked()).to_string(), "2 wrong, 1 warning, 0 unknown, 1 ok");
    }
}
