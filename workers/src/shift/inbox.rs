//! What one dispatcher is told next.

use std::{collections::BTreeMap, time::Duration};

use schemas::handover::{Acceptances, EndedAttempt, RefusedBecause};

/// Heartbeats and roll calls come at least so often.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(1);

/// News in one message at most: 1,000 of the longest are about 150 KB, far below the smallest limit in use.
const NEWS_MAX: usize = 1_000;

/// Offers in one roll call at most. A roll call is one message, since it means all that is not named; 40,000 numbers of 20
/// digits are 840 KB. A worker with more slots for one dispatcher sends none.
const OPEN_MAX: usize = 40_000;

/// Roll calls that name nobody, after the last attempt of a dispatcher has ended: each is a message that can be lost.
const LAST_CALLS: u8 = 5;

/// One dispatcher's inbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inbox {
    pub(super) accepted: Vec<u64>,
    pub(super) refused: Vec<(u64, RefusedBecause)>,
    pub(super) ended: Vec<EndedAttempt>,
    /// Attempts of this dispatcher that run here.
    pub(super) running: usize,
    /// Whether a roll call is due now, whatever the time.
    pub(super) due: bool,
    /// When the last roll call was, and how many more follow though they name nobody.
    called: Option<(Duration, u8)>,
}

/// The inbox of that name.
pub(super) fn of<'a>(inboxes: &'a mut BTreeMap<String, Inbox>, accept: &str) -> &'a mut Inbox {
    // Looked up twice rather than copied: nearly always it is there.
    if !inboxes.contains_key(accept) {
        inboxes.insert(accept.to_owned(), Inbox::default());
    }
    inboxes.get_mut(accept).expect("it was put there if it was missing")
}

impl Inbox {
    pub(super) fn has_news(&self) -> bool {
        !(self.accepted.is_empty() && self.refused.is_empty() && self.ended.is_empty())
    }

    /// When the next roll call is due: at once for a dispatcher that has attempts here and never heard one, each second while
    /// something of it runs, and some times more when nothing does.
    pub(super) fn call_at(&self) -> Option<Duration> {
        match self.called {
            _ if self.due => Some(Duration::ZERO),
            None => (self.running > 0).then_some(Duration::ZERO),
            Some((at, left)) => (self.running > 0 || left > 0).then(|| at + BEAT_EVERY),
        }
    }

    /// Whether nothing is left to say: no news, and no roll call to come.
    pub(super) fn is_done(&self) -> bool {
        self.running == 0 && !self.has_news() && self.call_at().is_none()
    }

    /// Takes all news, in messages of at most [`NEWS_MAX`], the last with the roll call.
    pub(super) fn parts(
        &mut self,
        empty: &Acceptances,
        open: Option<Vec<u64>>,
        now: Duration,
    ) -> impl Iterator<Item = Acceptances> + use<> {
        let mut parts = Vec::new();
        loop {
            let mut left = NEWS_MAX;
            let accepted = take(&mut self.accepted, &mut left);
            let refused = take(&mut self.refused, &mut left);
            let ended = take(&mut self.ended, &mut left);
            parts.push(Acceptances { accepted, refused, ended, ..empty.clone() });
            if !self.has_news() {
                break;
            }
        }
        if let Some(open) = open {
            let before = self.called.map_or(LAST_CALLS, |(_, left)| left);
            let left = if open.is_empty() { before.saturating_sub(1) } else { LAST_CALLS };
            self.called = Some((now, left));
            self.due = false;
            if let Some(last) = parts.last_mut().filter(|_| open.len() <= OPEN_MAX) {
                last.open = Some(open);
            }
        }
        parts.into_iter()
    }
}

/// The first of a list, at most `left`, by which `left` falls.
fn take<T>(list: &mut Vec<T>, left: &mut usize) -> Vec<T> {
    let count = list.len().min(*left);
    *left -= count;
    if count == list.len() { std::mem::take(list) } else { list.drain(..count).collect() }
}
