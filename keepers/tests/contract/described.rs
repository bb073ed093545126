//! What landlord and simulator said to each other, held against the provider's published description.

use std::collections::BTreeSet;

use simulators::Exchange;

use crate::description::{Description, Drift};

/// Fails with every disagreement on a line of its own. `allowed` says what differs on purpose.
pub(crate) fn assert_described(
    description: &Description,
    exchanges: &[Exchange],
    allowed: impl Fn(&Exchange, &Drift) -> bool,
) {
    assert!(exchanges.len() > 8, "only {} exchanges were written down", exchanges.len());
    let mut drifts = Vec::new();
    for exchange in exchanges {
        let Exchange { method, path, headers, request, status, content_type, response } = exchange;
        let asked = description.request(method, path, headers, request);
        let answered = description.response(method, path, *status, content_type, response);
        drifts.extend(asked.into_iter().chain(answered).map(|drift| (exchange, drift)));
    }
    drifts.retain(|(exchange, drift)| !allowed(exchange, drift));
    let lines: BTreeSet<String> = drifts.iter().map(|(_, drift)| drift.to_string()).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    assert!(lines.is_empty(), "landlord or simulator has drifted:\n{}", lines.join("\n"));
}
