//! Whether a line that was not taken is sent again, and when.

use std::time::Duration;

use transport::{PublishError, payloads::PayloadError};

use crate::SubmitError;

/// The first pause; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause: a stream that drains should not wait long.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a line is sent where the trouble may be for good: four minutes, in which a server is back and streams have leaders.
const TRIES_MAX: u32 = 12;

/// After which pause a line is sent again that was sent `tries` times; `None` when it never will be taken.
pub(super) fn again(error: &SubmitError, tries: u32) -> Option<Duration> {
    let pause = PAUSE_FIRST.saturating_mul(1 << tries.saturating_sub(1).min(8)).min(PAUSE_MAX);
    let most = match error {
        SubmitError::Publish(PublishError::Full { .. } | PublishError::Unknown(_)) => u32::MAX,
        SubmitError::Publish(PublishError::NoStream(_) | PublishError::Client { .. })
        | SubmitError::Payload(PayloadError::Store(_) | PayloadError::Slow(_) | PayloadError::Api(_)) => {
            TRIES_MAX
        }
        SubmitError::Publish(
            PublishError::NotPermitted(_) | PublishError::Refused { .. } | PublishError::TooLarge { .. },
        )
        | SubmitError::Payload(
            PayloadError::TooLarge(_) | PayloadError::Gone(_) | PayloadError::Unreadable(..),
        )
        | SubmitError::Job(_)
        | SubmitError::Codec(_) => 0,
    };
    (tries < most).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(error: PublishError) -> SubmitError {
        SubmitError::Publish(error)
    }

    #[test]
    fn trouble_that_passes_is_waited_out_with_growing_pauses() {
        let full = publish(PublishError::Full { subject: "s".into(), reason: "full".into() });
        let away = publish(PublishError::NoStream("s".into()));
        let store = SubmitError::Payload(PayloadError::Store("the object store is away".into()));
        for error in [&full, &away, &store] {
            let pauses = (1..8).map(|tries| again(error, tries).unwrap().as_secs()).collect::<Vec<_>>();
            assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30], "{error}");
        }
        assert!(again(&full, u32::MAX - 1).is_some(), "somebody has to make room");
        for error in [&away, &store] {
            assert_eq!(again(error, TRIES_MAX), None, "{error}");
        }
    }

    #[test]
    fn what_no_time_mends_is_not_sent_again() {
        let long = publish(PublishError::TooLarge { subject: "s".into(), bytes: 9, headers: 1 });
        for error in [long, SubmitError::Payload(PayloadError::TooLarge(9))] {
            assert_eq!(again(&error, 1), None, "{error}");
        }
    }
}
