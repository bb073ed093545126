//! Whether what is heard now is new. A process that was frozen, or whose messages were held up, takes in what lay on its way for as
//! long: deliveries whose leases have nearly run out, and no word of workers that speak all the time. Pure.

use std::time::Duration;

use schemas::Micros;

/// When nothing has happened for so long, not even a tick, this process was frozen, or its clock was set. A server that has not ended
/// a pull in time is out of reach, if nobody else was heard for so long either.
pub(super) const LATE: Duration = Duration::from_secs(2);
/// Once somebody is heard again, everything else that lay on its way comes within this time: several heartbeats.
pub(super) const TIME_TO_SPEAK: Duration = Duration::from_secs(5);
/// A link is not believed to be silent for longer: its workers may as well have died together.
const SILENT_MOST: Duration = Duration::from_secs(60);

/// What is known of the way to the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// When anything came from outside.
    heard: Micros,
    /// Since when messages may have lain on their way, and until when they may still come; without an end while nothing is heard.
    held_up: Option<(Micros, Option<Micros>)>,
    /// Until when nobody need have spoken, since this process has just begun to listen.
    begun: Option<Micros>,
}

impl Link {
    /// Something came from outside.
    pub(super) fn hears(&mut self, now: Micros) {
        self.heard = now;
        if let Some((_, until @ None)) = &mut self.held_up {
            *until = Some(now + TIME_TO_SPEAK);
        }
    }

    /// This process begins to listen. What it is sent from now on is new.
    pub(super) fn begins(&mut self, now: Micros) {
        self.begun = Some(now + TIME_TO_SPEAK);
    }

    /// This process was frozen since `since`.
    pub(super) fn was_frozen(&mut self, since: Micros, now: Micros) {
        let since = self.held_up.map_or(since, |(from, _)| from.min(since));
        self.held_up = Some((since, Some(now + TIME_TO_SPEAK)));
    }

    /// The server has not ended a pull that was asked for at `asked`.
    pub(super) fn lost_pull(&mut self, asked: Micros, now: Micros) {
        let silent = now.since(self.heard);
        if silent > LATE && silent <= SILENT_MOST {
            let since = asked.max(self.heard);
            self.held_up = Some((self.held_up.map_or(since, |(from, _)| from.min(since)), None));
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Micros) {
        self.begun = self.begun.filter(|until| *until >= now);
        let silent = now.since(self.heard);
        self.held_up =
            self.held_up.filter(|(_, until)| until.map_or(silent <= SILENT_MOST, |until| until >= now));
    }

    /// Since when a message that comes at `now` may have lain on its way.
    pub(super) fn sent_after(&self, now: Micros) -> Micros {
        self.held_up.map_or(now, |(since, _)| since)
    }

    /// Whether the silence of others means anything.
    pub(super) const fn is_clear(&self) -> bool {
        self.held_up.is_none() && self.begun.is_none()
    }

    /// The clock is set back.
    pub(super) fn clock_was_set_back(&mut self, by: Duration) {
        self.heard = self.heard - by;
        self.held_up = self.held_up.map(|(since, until)| (since - by, until.map(|until| until - by)));
        self.begun = self.begun.map(|until| until - by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Micros = Micros::new(1_795_000_000_000_000);

    fn at(seconds: u64) -> Micros {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn what_comes_after_a_freeze_may_be_as_old_as_the_freeze_is_long() {
        let mut link = Link::default();
        link.hears(at(0));
        assert_eq!((link.sent_after(at(1)), link.is_clear()), (at(1), true));
        link.was_frozen(at(1), at(20));
        link.hears(at(20));
        assert_eq!((link.sent_after(at(21)), link.is_clear()), (at(1), false));
        link.tick(at(26));
        assert_eq!((link.sent_after(at(26)), link.is_clear()), (at(26), true));
    }

    #[test]
    fn what_comes_first_of_all_is_new_and_says_nothing_of_who_is_silent() {
        let mut link = Link::default();
        link.begins(at(0));
        assert_eq!((link.sent_after(at(3)), link.is_clear()), (at(3), false));
        link.tick(at(6));
        assert!(link.is_clear());
    }

    #[test]
    fn a_pull_that_does_not_end_while_nobody_is_heard_means_that_the_link_is_silent() {
        let mut link = Link::default();
        link.hears(at(9));
        link.lost_pull(at(4), at(10));
        assert!(link.is_clear(), "its consumer was without a leader, and others speak");
        link.lost_pull(at(8), at(14));
        link.tick(at(40));
        assert_eq!((link.sent_after(at(40)), link.is_clear()), (at(9), false));
        link.hears(at(40));
        link.tick(at(46));
        assert!(link.is_clear());
        link.lost_pull(at(40), at(46));
        link.tick(at(120));
        assert!(link.is_clear(), "everybody may have died");
    }
}
