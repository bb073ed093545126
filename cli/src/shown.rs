//! Quantities as people read them.

use std::time::Duration;

/// A span for people: two digits that matter.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_at_a_glance() {
        let text = |ms| span(Duration::from_millis(ms));
        assert_eq!(
            [text(20), text(1_500), text(61_000), text(7_260_000)],
            ["20 ms", "1.5 s", "1 min 1 s", "2 h 1 min"]
        );
    }
}
