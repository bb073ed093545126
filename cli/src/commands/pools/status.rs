//! `beacon pools status`: what is rented, how far workers are from their runners, and below the tables why, and what is wrong.

use std::{collections::BTreeMap, time::Duration};

use keepers::{operator::Operator, row::Row, wish::Status};
use schemas::{Micros, UsdNanos, machine::MachineState, time::Clock as _};
use serde_json::json;
use transport::SystemClock;

use super::{
    shown::{Shown, gather, machines},
    ways,
};
use crate::{args::PoolsStatus, output, session::Session, shown::span, table::table};

/// What a keeper said of an account holds so long; it repeats itself each few seconds.
const NOTICE_HOLDS: Duration = Duration::from_secs(60);
/// Workers say something each second.
const LISTEN: Duration = Duration::from_millis(1_500);
/// Letters of a reason that a line of the table has room for; `--json` has all of it.
const BECAUSE: usize = 70;

pub(super) async fn show(args: PoolsStatus, session: &Session, operator: &Operator) -> anyhow::Result<()> {
    let shown = gather(session, operator, &args.pools).await?;
    let now = SystemClock.now();
    let mut notices = Vec::new();
    for account in session.config.landlords.iter().map(|landlord| &landlord.name) {
        let told = operator.notices(account).await?;
        let fresh = told.filter(|told| now.since(told.at_us) <= NOTICE_HOLDS);
        notices.extend(fresh.into_iter().flat_map(|told| told.lines));
    }
    let ways = heard(&args, session, operator).await;
    if session.json {
        for pool in &shown {
            let Shown { pool: id, keeper, status, wish, rows, configured } = pool;
            let machines: Vec<_> = rows.iter().map(Row::machine).collect();
            output::json(&json!({
                "pool": id, "configured": configured, "kept_by": keeper, "status": status, "wish": wish,
                "machines": machines, "wrong": wrong(pool, now),
            }))?;
        }
        if !notices.is_empty() {
            output::json(&json!({ "wrong": notices }))?;
        }
        if !ways.is_empty() {
            output::json(&json!({ "ways": ways }))?;
        }
        return Ok(());
    }
    if shown.is_empty() && notices.is_empty() {
        session.say("no pool rents machines");
    }
    if !shown.is_empty() {
        let summary: Vec<[String; 8]> = shown.iter().map(line).collect();
        let header = ["pool", "kept by", "want", "machines", "$/h", "cost $", "by jobs $", "idle $"];
        output::line(table(header, &[2, 4, 5, 6, 7], &summary).to_string())?;
    }
    let rows: Vec<[String; 8]> =
        shown.iter().flat_map(|shown| shown.rows.iter().map(|row| machine_line(row, now))).collect();
    if !rows.is_empty() {
        let header = ["machine", "pool", "state", "for", "at", "$/h", "id", "because"];
        output::line(table(header, &[5], &rows).to_string())?;
    }
    if let Some(table) = ways::shown(&ways) {
        output::line(table.to_string())?;
    }
    for pool in &shown {
        for line in reasons(pool) {
            output::line(format!("{}: {line}", pool.pool))?;
        }
    }
    for line in shown.iter().flat_map(|pool| wrong(pool, now)).chain(notices) {
        output::line(format!("! {line}"))?;
    }
    Ok(())
}

/// What the workers of the configured pools say, for as long as it takes until each was heard, and no longer than [`LISTEN`].
async fn heard(args: &PoolsStatus, session: &Session, operator: &Operator) -> Vec<ways::Way> {
    let configured = session.config.pools.iter().map(|pool| pool.id.clone());
    let expected: Vec<_> =
        configured.filter(|pool| args.pools.is_empty() || args.pools.contains(pool)).collect();
    let beats = operator.heartbeats(LISTEN, |beats| ways::all_heard(beats, &expected)).await;
    ways::ways(&beats, &args.pools)
}

fn line(shown: &Shown) -> [String; 8] {
    let mut counts: BTreeMap<MachineState, usize> = BTreeMap::new();
    for row in &shown.rows {
        *counts.entry(row.life.state()).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(state, count)| format!("{count} {}", state.name())).collect();
    let counts = if counts.is_empty() { "-".to_owned() } else { counts.join(", ") };
    let keeper = shown.keeper.clone().unwrap_or_else(|| "nobody".into());
    let of = |figure: &dyn Fn(&Status) -> String| shown.status.as_ref().map_or_else(|| "-".into(), figure);
    [
        shown.pool.to_string(),
        keeper,
        of(&|status| status.want.to_string()),
        counts,
        of(&|status| money(status.usd_per_hour)),
        of(&|status| money(status.cost_usd)),
        of(&|status| money(status.jobs_usd)),
        of(&|status| money(status.standing_usd)),
    ]
}

/// Why there are so many machines, and whether they are worth their rent.
fn reasons(shown: &Shown) -> Vec<String> {
    let Some(status) = &shown.status else { return Vec::new() };
    let compared = (!status.compared.is_empty()).then(|| status.compared.clone());
    let mut lines = vec![format!("{} wanted: {}", machines(status.want), status.reason)];
    lines.extend(compared);
    lines.extend(status.cooling.iter().map(|cooling| {
        format!("nothing is ordered at {} until {}: {}", cooling.place, cooling.until_us, cooling.because)
    }));
    lines
}

/// What is wrong, and what to do, a line each.
fn wrong(shown: &Shown, now: Micros) -> Vec<String> {
    let pool = &shown.pool;
    let mut lines = Vec::new();
    let stand = shown.rows.iter().filter(|row| row.life.state().counts()).count();
    let count = machines(u32::try_from(stand).unwrap_or(u32::MAX));
    let left = match stand {
        0 => String::new(),
        1 => "; 1 machine of it costs on, and nobody watches it".to_owned(),
        _ => format!("; {count} of it cost on, and nobody watches them"),
    };
    match (&shown.keeper, &shown.status) {
        (Some(_), _) => {}
        (None, None) => lines.push(format!("no keeper has kept {pool} yet: start `beacon keeper`{left}")),
        (None, Some(status)) => lines.push(format!(
            "no keeper keeps {pool}: the last, {}, was heard {} ago; start `beacon keeper`{left}",
            status.keeper,
            span(now.since(status.at_us)),
        )),
    }
    if !shown.configured && stand > 0 {
        lines.push(format!(
            "{pool} rents nothing in this configuration: a keeper that does not know it either ends what it has ({count}); \
             put the pool back to keep it"
        ));
    }
    lines.extend(shown.status.iter().flat_map(|status| status.warnings.clone()));
    lines
}

fn machine_line(row: &Row, now: Micros) -> [String; 8] {
    let because = row.because.as_deref().unwrap_or("-");
    let short: String = because.chars().take(BECAUSE).collect();
    let because = if short.len() < because.len() { format!("{}…", short.trim_end()) } else { short };
    [
        row.specs.machine.to_string(),
        row.specs.pool.to_string(),
        row.life.state().name().to_owned(),
        span(now.since(row.since_us)),
        row.specs.place.clone(),
        money(row.specs.usd_per_hour),
        row.id.clone().unwrap_or_else(|| "-".to_owned()),
        because,
    ]
}

/// Dollars to a hundredth of a cent, for people; `--json` is exact.
fn money(usd: UsdNanos) -> String {
    let parts = (usd.get() + 50_000) / 100_000;
    format!("{}.{:04}", parts / 10_000, parts % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_four_places_so_that_a_column_lines_up() {
        let text = |usd: &str| money(usd.parse().unwrap());
        assert_eq!(
            ["0.17", "12", "0.000049999", "1.99995"].map(text),
            ["0.1700", "12.0000", "0.0000", "2.0000"]
        );
    }
}
