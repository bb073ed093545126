//! A job's life as the dispatcher sees it: one enum of states, one of events, one function that joins them.

use crate::{Micros, PoolId, reply::Status};

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody works on it: it lies in JOBS, or is parked in a dispatcher that holds its lease.
    Waiting {
        /// Attempts made so far.
        attempts: u16,
    },
    /// It was offered to a pool that has not answered.
    Offered {
        /// Which attempt it would be.
        attempt: u16,
        /// The offer's number.
        offer: u64,
        /// To whom.
        pool: PoolId,
        /// After this the offer has lapsed at the worker too.
        accept_by: Micros,
    },
    /// A worker took it, and with it the lease.
    Running {
        /// Which attempt.
        attempt: u16,
        /// Where.
        pool: PoolId,
    },
    /// It has its terminal result.
    Ended {
        /// Which.
        status: Status,
    },
}

/// News about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// We offer it to a pool.
    Offered {
        /// The offer's number.
        offer: u64,
        /// To whom.
        pool: PoolId,
        /// Until when.
        accept_by: Micros,
    },
    /// A worker took an offer.
    Accepted {
        /// Which.
        offer: u64,
    },
    /// A worker refused an offer.
    Refused {
        /// Which.
        offer: u64,
    },
    /// Nobody answered an offer in time, margin included.
    Lapsed {
        /// Which.
        offer: u64,
    },
    /// A worker gave the job back, or the lease came back because its holder vanished.
    GivenBack {
        /// The attempt that ended.
        attempt: u16,
    },
    /// The terminal result is stored.
    Ended {
        /// Which.
        status: Status,
    },
}

/// What an event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The job is somewhere else now.
    Moved(State),
    /// Late or repeated news about something that has moved on. Weather, not an error.
    Stale(State),
}

impl State {
    /// Joins a state and an event. Offers that lapse or are refused use up no attempt; an accepted one does.
    #[must_use]
    pub fn apply(self, event: Event) -> Step {
        use {Event as E, State as S};
        match (self, event) {
            (S::Waiting { attempts }, E::Offered { offer, pool, accept_by }) => {
                Step::Moved(S::Offered { attempt: attempts.saturating_add(1), offer, pool, accept_by })
            }
            (S::Offered { attempt, offer, pool, .. }, E::Accepted { offer: of }) if of == offer => {
                Step::Moved(S::Running { attempt, pool })
            }
            (S::Offered { attempt, offer, .. }, E::Refused { offer: of } | E::Lapsed { offer: of })
                if of == offer =>
            {
                Step::Moved(S::Waiting { attempts: attempt - 1 })
            }
            (S::Running { attempt, .. }, E::GivenBack { attempt: of }) if of == attempt => {
                Step::Moved(S::Waiting { attempts: attempt })
            }
            (S::Waiting { .. } | S::Offered { .. } | S::Running { .. }, E::Ended { status }) => {
                Step::Moved(S::Ended { status })
            }
            (
                state @ S::Waiting { .. },
                E::Accepted { .. } | E::Refused { .. } | E::Lapsed { .. } | E::GivenBack { .. },
            )
            | (
                state @ S::Offered { .. },
                E::Offered { .. }
                | E::Accepted { .. }
                | E::Refused { .. }
                | E::Lapsed { .. }
                | E::GivenBack { .. },
            )
            | (
                state @ S::Running { .. },
                E::Offered { .. }
                | E::Accepted { .. }
                | E::Refused { .. }
                | E::Lapsed { .. }
                | E::GivenBack { .. },
            )
            | (
                state @ S::Ended { .. },
                E::Offered { .. }
                | E::Accepted { .. }
                | E::Refused { .. }
                | E::Lapsed { .. }
                | E::GivenBack { .. }
                | E::Ended { .. },
            ) => Step::Stale(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> PoolId {
        "golem@us-east".parse().unwrap()
    }

    fn offered(attempt: u16, offer: u64) -> State {
        State::Offered { attempt, offer, pool: pool(), accept_by: Micros::new(9) }
    }

    fn check(from: State, event: Event, to: &Step) {
        assert_eq!(from.apply(event), *to);
    }

    #[test]
    fn an_answer_to_an_older_offer_changes_nothing() {
        check(offered(1, 8), Event::Accepted { offer: 7 }, &Step::Stale(offered(1, 8)));
        check(offered(1, 8), Event::Lapsed { offer: 7 }, &Step::Stale(offered(1, 8)));
    }

    #[test]
    fn a_refused_offer_uses_up_no_attempt() {
        check(offered(1, 8), Event::Refused { offer: 8 }, &Step::Moved(State::Waiting { attempts: 0 }));
    }

    #[test]
    fn a_job_that_has_ended_stays_ended() {
        let ended = State::Ended { status: Status::Succeeded };
        check(ended.clone(), Event::Ended { status: Status::Failed }, &Step::Stale(ended));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..4u64).prop_map(|offer| Event::Offered { offer, pool: pool(), accept_by: Micros::new(1) }),
            (0..4u64).prop_map(|offer| Event::Accepted { offer }),
            (0..4u64).prop_map(|offer| Event::Refused { offer }),
            (0..4u64).prop_map(|offer| Event::Lapsed { offer }),
            (0..4u16).prop_map(|attempt| Event::GivenBack { attempt }),
            Just(Event::Ended { status: Status::Succeeded }),
        ]
    }

    proptest! {
        #[test]
        fn attempts_never_fall_and_only_acceptance_uses_one(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut state = State::Waiting { attempts: 0 };
            let (mut accepted, mut ended) = (0u16, 0);
            for event in events {
                let is_end = matches!(event, Event::Ended { .. });
                let is_acceptance = matches!(event, Event::Accepted { .. });
                state = match state.apply(event) {
                    Step::Moved(next) => {
                        accepted += u16::from(is_acceptance);
                        ended += u16::from(is_end);
                        next
                    }
                    Step::Stale(same) => same,
                };
                match &state {
                    State::Waiting { attempts } => prop_assert_eq!(*attempts, accepted),
                    State::Running { attempt, .. } => prop_assert_eq!(*attempt, accepted),
                    State::Offered { attempt, .. } => prop_assert_eq!(*attempt, accepted + 1),
                    State::Ended { .. } => {}
                }
            }
            prop_assert!(ended <= 1);
        }
    }
}
