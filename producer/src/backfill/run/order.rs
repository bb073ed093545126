//! In which order lines are sent: those whose prompts begin alike one after the other, so that servers with a prefix cache compute a
//! beginning once. Pure.
//!
//! A window of [`LOOK_AHEAD`] lines is looked at, 16 bytes each. Lines that share their beginning are a *group*; groups take turns in the
//! order of their first lines, and each sends all that it has in the window before the next does. **One line of a group warms**: the
//! others follow when its job has ended, else they would all be computed at once. Meanwhile others go ahead; but a group that two younger
//! ones have passed, or that has waited for [`PATIENCE`], waits no longer: a keeper rents machines for jobs that wait in the server, not
//! for lines that wait here. A line that shares its beginning with no other keeps its place.
//!
//! The window ends so many lines behind the oldest line that is held, so no line is overtaken by one that is farther behind.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use schemas::prefix::{BLOCKS_MIN, Scope, Text, mixed};
use tokio::time::Instant;

use crate::lines::Line;

/// Lines looked at.
pub(super) const LOOK_AHEAD: usize = 10_000;
/// How long a group waits for its first job.
const PATIENCE: Duration = Duration::from_secs(10);
/// ... and how many younger groups may pass it meanwhile.
const PASSED_MOST: u8 = 2;
/// Beginnings that count as computed already.
const WARM_MOST: usize = 1_024;
/// The beginning of lines that have none: each is sent as its turn comes.
const NONE: u64 = 0;
/// Where a line is that is not held.
const NOWHERE: u64 = u64::MAX;

/// What a line begins with; lines with the same are a group. `None` for one that is too short.
pub(super) fn beginning(line: &Line) -> Option<u64> {
    let mut text = Text::new(Scope { model: line.model.as_str(), adapter: None, tenant: None });
    match (&line.body.messages, &line.body.prompt) {
        (Some(messages), _) => text.messages(messages),
        (None, Some(prompt)) => text.raw(prompt.as_bytes()),
        (None, None) => return None,
    }
    let prefix = text.end()?;
    let head = prefix.head().or_else(|| prefix.blocks().get(BLOCKS_MIN - 1).copied())?;
    // Machines of two regions share nothing.
    let region = line.region.iter().flat_map(|region| region.as_str().bytes());
    Some(region.fold(head, |hash, byte| mixed(hash ^ u64::from(byte))).max(1))
}

/// A line of the window.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it stands in the file; [`NOWHERE`] when it is not held.
    offset: u64,
    /// How far on the next line of its group is; 0 while there is none.
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing of it was sent.
    Cold,
    /// Its first line was sent, then.
    Warming(Instant),
    /// Its beginning is computed, or is not waited for.
    Warm,
}

/// Lines that begin alike.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The first line that is held, and the last that was; meaningless while none is held.
    first: u64,
    last: u64,
    held: usize,
    state: State,
    passed: u8,
}

/// The window.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// From line `base` on.
    lines: VecDeque<Entry>,
    base: u64,
    /// Groups that hold lines or wait for their first.
    groups: HashMap<u64, Group>,
    /// Groups that hold lines, by the first.
    turns: BTreeMap<u64, u64>,
    /// The group whose turn it is, until it holds none.
    current: Option<u64>,
    /// Lines whose jobs warm a group.
    leads: HashMap<u64, u64>,
    warm: HashSet<u64>,
    /// In the order in which they became warm.
    warmed: VecDeque<u64>,
}

impl Window {
    /// Whether it takes no more lines now.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= LOOK_AHEAD
    }

    /// Whether it holds no line.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a line is held: it was read and not sent.
    pub(super) fn holds(&self, line: u64) -> bool {
        self.at(line).is_some_and(|at| self.lines[at].offset != NOWHERE)
    }

    /// The first line that is held.
    pub(super) fn first(&self) -> Option<u64> {
        self.turns.keys().next().copied()
    }

    fn at(&self, line: u64) -> Option<usize> {
        let at = usize::try_from(line.checked_sub(self.base)?).ok()?;
        (at < self.lines.len()).then_some(at)
    }

    /// A line that was read and needs nothing to be sent. Lines are told in the order of the file.
    pub(super) fn skip(&mut self, line: u64) {
        self.push(line, Entry { offset: NOWHERE, next: 0 });
        self.trim();
    }

    /// A line that was read at `offset` and is to be sent.
    pub(super) fn hold(&mut self, line: u64, offset: u64, beginning: Option<u64>) {
        let beginning = beginning.unwrap_or(NONE);
        self.push(line, Entry { offset, next: 0 });
        let state =
            if beginning == NONE || self.warm.contains(&beginning) { State::Warm } else { State::Cold };
        let new = Group { first: line, last: line, held: 0, state, passed: 0 };
        let group = self.groups.entry(beginning).or_insert(new);
        if group.held == 0 {
            group.first = line;
            self.turns.insert(line, beginning);
        } else {
            let before = group.last;
            if let Some(at) = before.checked_sub(self.base).and_then(|at| usize::try_from(at).ok()) {
                self.lines[at].next = u32::try_from(line - before).unwrap_or_default();
            }
        }
        (group.last, group.held) = (line, group.held + 1);
    }

    fn push(&mut self, line: u64, entry: Entry) {
        if self.lines.is_empty() {
            self.base = line;
        }
        self.lines.push_back(entry);
    }

    fn trim(&mut self) {
        while self.lines.front().is_some_and(|entry| entry.offset == NOWHERE) {
            self.lines.pop_front();
            self.base += 1;
        }
    }

    /// The next line to be sent, with its place in the file; `None` while all that are held wait for the first of their groups. It is
    /// held no more.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u64, u64)> {
        let beginning = self.current.or_else(|| {
            let ready =
                |(_, beginning): &(&u64, &u64)| self.groups.get(*beginning).is_some_and(|it| it.goes(now));
            self.turns.iter().find(ready).map(|(_, beginning)| *beginning)
        })?;
        let group = self.groups.get_mut(&beginning)?;
        let line = group.first;
        let at = usize::try_from(line - self.base).ok()?;
        let entry = self.lines[at];
        self.lines[at].offset = NOWHERE;
        self.turns.remove(&line);
        group.held -= 1;
        if group.held > 0 {
            group.first = line + u64::from(entry.next);
            self.turns.insert(group.first, beginning);
        }
        match group.state {
            State::Cold => {
                group.state = State::Warming(now);
                self.leads.insert(line, beginning);
            }
            State::Warming(_) | State::Warm if beginning != NONE => {
                group.state = State::Warm;
                self.current = (group.held > 0).then_some(beginning);
                if group.held == 0 {
                    self.groups.remove(&beginning);
                    self.passes(line);
                    self.remember(beginning);
                }
            }
            State::Warming(_) | State::Warm => {}
        }
        self.trim();
        Some((line, entry.offset))
    }

    /// A group has sent all it had, the last being `line`: it has passed those that wait and are older.
    fn passes(&mut self, line: u64) {
        for beginning in self.turns.range(..line).map(|(_, beginning)| beginning) {
            if let Some(group) = self.groups.get_mut(beginning)
                && matches!(group.state, State::Warming(_))
            {
                group.passed = group.passed.saturating_add(1);
            }
        }
    }

    /// The job of a line has ended, or will never be.
    pub(super) fn ended(&mut self, line: u64) {
        let Some(beginning) = self.leads.remove(&line) else { return };
        if let Some(group) = self.groups.get_mut(&beginning) {
            group.state = State::Warm;
            if group.held == 0 {
                self.groups.remove(&beginning);
            }
        }
        self.remember(beginning);
    }

    fn remember(&mut self, beginning: u64) {
        if self.warm.insert(beginning) {
            self.warmed.push_back(beginning);
        }
        if self.warmed.len() > WARM_MOST
            && let Some(oldest) = self.warmed.pop_front()
        {
            self.warm.remove(&oldest);
        }
    }
}

impl Group {
    /// Whether its next line may go.
    fn goes(&self, now: Instant) -> bool {
        match self.state {
            State::Cold | State::Warm => true,
            State::Warming(since) => self.passed >= PASSED_MOST || now >= since + PATIENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::catalog::Catalog;
    use serde_json::json;

    use super::*;
    use crate::lines::{Defaults, read_line};

    /// A window over lines that begin as `text` says, `.` for one that is alone.
    fn window(text: &str) -> Window {
        let mut window = Window::default();
        for (line, name) in (1..).zip(text.bytes()) {
            window.hold(line, line * 100, (name != b'.').then_some(u64::from(name)));
        }
        window
    }

    /// Sends until nothing goes: the lines.
    fn drain(window: &mut Window, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| window.next(now))
            .map(|(line, offset)| {
                assert_eq!(offset, line * 100);
                line
            })
            .collect()
    }

    #[test]
    fn one_line_of_a_group_warms_and_the_others_follow_together_when_it_has_ended() {
        let (mut window, now) = (window("ab.a.bab"), Instant::now());
        assert_eq!(drain(&mut window, now), [1, 2, 3, 5], "the first of each, and those alone");
        assert!(window.holds(4) && !window.holds(3) && window.first() == Some(4));
        window.ended(2);
        assert_eq!(drain(&mut window, now), [6, 8]);
        window.ended(1);
        assert_eq!(drain(&mut window, now), [4, 7]);
        assert!(window.is_empty() && window.first().is_none());
    }

    #[test]
    fn a_group_sends_all_it_has_before_a_younger_one_does() {
        let (mut window, now) = (window("abababab"), Instant::now());
        assert_eq!(drain(&mut window, now), [1, 2]);
        window.ended(1);
        window.ended(2);
        assert_eq!(drain(&mut window, now), [3, 5, 7, 4, 6, 8]);
    }

    #[test]
    fn a_group_that_two_younger_ones_have_passed_waits_no_longer() {
        let (mut window, now) = (window("abcdabcd"), Instant::now());
        assert_eq!(drain(&mut window, now), [1, 2, 3, 4]);
        window.ended(4);
        assert_eq!(drain(&mut window, now), [8]);
        window.ended(3);
        assert_eq!(drain(&mut window, now), [7, 5, 6], "both have been passed twice");
    }

    #[test]
    fn a_group_waits_for_ten_seconds_at_most_and_one_that_is_warm_not_at_all() {
        let (mut window, now) = (window("aaa"), Instant::now());
        assert_eq!(drain(&mut window, now), [1]);
        assert!(window.next(now + PATIENCE - Duration::from_millis(1)).is_none());
        assert_eq!(drain(&mut window, now + PATIENCE), [2, 3]);
        window.hold(4, 400, Some(u64::from(b'a')));
        assert_eq!(drain(&mut window, now), [4], "a later line of it");
    }

    #[test]
    fn the_window_is_bounded_by_its_oldest_line_and_a_line_of_it_is_16_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
        let (mut window, now, mut line) = (Window::default(), Instant::now(), 0);
        let fill = |window: &mut Window, line: &mut u64| {
            while !window.is_full() {
                *line += 1;
                // All begin alike but the second.
                window.hold(*line, *line * 100, (*line != 2).then_some(7));
            }
        };
        fill(&mut window, &mut line);
        assert_eq!((line, window.next(now)), (10_000, Some((1, 100))));
        assert_eq!(window.next(now), Some((2, 200)));
        assert!(window.next(now).is_none());
        window.ended(1);
        for _ in 0..50_000 {
            fill(&mut window, &mut line);
            assert!(window.next(now).is_some() && window.lines.len() <= LOOK_AHEAD);
        }
        assert!(
            window.groups.len() <= 2 && window.warm.len() == 1 && window.lines.capacity() <= 2 * LOOK_AHEAD
        );
    }

    #[test]
    fn lines_that_share_a_system_message_begin_alike() {
        let catalog = Catalog::new(vec!["m".into()]).unwrap();
        let regions = ["eu-west".parse().unwrap()];
        let defaults = Defaults { catalog: &catalog, regions: &regions, model: None };
        let in_region = |region: Option<&str>, system: &str, user: &str| {
            let messages =
                json!([{ "role": "system", "content": system }, { "role": "user", "content": user }]);
            let text = json!({ "model": "m", "messages": messages, "region": region }).to_string();
            read_line(&text, 1, &defaults).unwrap()
        };
        let line = |system: &str, user: &str| in_region(None, system, user);
        let long = "be brief ".repeat(40);
        assert!(beginning(&line(&long, "one")).is_some());
        assert_eq!(beginning(&line(&long, "one")), beginning(&line(&long, "two")));
        assert_ne!(beginning(&line(&long, "one")), beginning(&line(&long.replace('b', "d"), "one")));
        assert_eq!(beginning(&line("be brief", "one")), None);
        let elsewhere = in_region(Some("eu-west"), &long, "one");
        assert_ne!(beginning(&elsewhere), beginning(&line(&long, "one")));
    }

    proptest! {
        /// Whatever begins alike and ends when: each line is sent once, no job is passed over by a group that is younger by its first
        /// line more than twice, and lines that are alone keep their order.
        #[test]
        fn every_line_is_sent_once(text in "[a-e.]{1,60}", ends in prop::collection::vec(0..60usize, 0..200)) {
            let (mut window, mut now, mut sent) = (window(&text), Instant::now(), Vec::new());
            let mut ends = ends.into_iter();
            while !window.is_empty() {
                sent.extend(drain(&mut window, now));
                match ends.next() {
                    Some(at) if !sent.is_empty() => window.ended(sent[at % sent.len()]),
                    _ => now += PATIENCE,
                }
            }
            let alone = |line: &u64| text.as_bytes()[usize::try_from(*line).unwrap() - 1] == b'.';
            let kept: Vec<_> = sent.iter().copied().filter(alone).collect();
            prop_assert!(kept.is_sorted());
            sent.sort_unstable();
            prop_assert_eq!(sent, (1..=text.len() as u64).collect::<Vec<_>>());
        }
    }
}
