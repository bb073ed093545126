//! A stream with limits retention: messages by sequence, ids remembered for a while, the newest by subject.
//!
//! A KV bucket is such a stream, too; the values that newer ones replaced are kept, so that a host that crashed can take back
//! its last writes.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use schemas::Micros;

use crate::wire::{Message, Refusal, Stored, matches};

/// How a stream is set.
#[derive(Clone, Debug)]
pub(crate) struct StreamConfig {
    /// Its name.
    pub(crate) name: Rc<str>,
    /// What it stores.
    pub(crate) subjects: Vec<Rc<str>>,
    /// How long it remembers message ids.
    pub(crate) window: Duration,
    /// How many bytes it holds before it refuses more.
    pub(crate) max_bytes: usize,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    config: StreamConfig,
    messages: Vec<Stored>,
    /// Sequence 1 is the first of `messages`.
    ids: BTreeMap<Rc<str>, (u64, Micros)>,
    newest: BTreeMap<Rc<str>, u64>,
    bytes: usize,
}

impl Stream {
    /// An empty stream.
    pub(crate) fn new(config: StreamConfig) -> Self {
        Self { config, messages: Vec::new(), ids: BTreeMap::new(), newest: BTreeMap::new(), bytes: 0 }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Rc<str> {
        &self.config.name
    }

    /// Whether it stores what is published on `subject`.
    pub(crate) fn takes(&self, subject: &str) -> bool {
        self.config.subjects.iter().any(|filter| matches(filter, subject))
    }

    /// Its last sequence; 0 when it is empty.
    pub(crate) fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    /// Sets how many bytes it holds before it refuses more.
    pub(crate) fn limit(&mut self, max_bytes: usize) {
        self.config.max_bytes = max_bytes;
    }

    /// Stores a message and gives its sequence, and whether its id was known. `id_first` is the order of checks: a single server
    /// looks at the expected sequence before the id, a cluster after.
    pub(crate) fn store(
        &mut self,
        message: Message,
        id_first: bool,
        now: Micros,
    ) -> Result<(u64, bool), Refusal> {
        let known = message.id.as_ref().and_then(|id| self.ids.get(id)).copied();
        // The window counts from the first message; repeats do not extend it.
        let known = known.filter(|(_, at)| now.since(*at) < self.config.window).map(|(seq, _)| seq);
        let newest = self.newest.get(&message.subject).copied().unwrap_or(0);
        let fits = message.expect.is_none_or(|expected| expected == newest);
        match known {
            Some(seq) if fits || id_first => return Ok((seq, true)),
            Some(_) | None if !fits => return Err(Refusal::WrongSequence),
            Some(_) | None => {}
        }
        if self.bytes + message.bytes > self.config.max_bytes {
            // A refused message's id is not remembered.
            return Err(Refusal::Full);
        }
        let seq = self.last() + 1;
        self.bytes += message.bytes;
        self.remember(&message, seq, now);
        self.messages.push(Stored { seq, at: now, message });
        Ok((seq, false))
    }

    fn remember(&mut self, message: &Message, seq: u64, at: Micros) {
        if let Some(id) = &message.id {
            self.ids.insert(id.clone(), (seq, at));
        }
        self.newest.insert(message.subject.clone(), seq);
    }

    /// The message at a sequence.
    pub(crate) fn at(&self, seq: u64) -> Option<&Stored> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.messages.get(index)
    }

    /// The newest message on a subject.
    #[cfg(test)]
    pub(crate) fn newest(&self, subject: &str) -> Option<&Stored> {
        self.at(*self.newest.get(subject)?)
    }

    /// All messages, oldest first.
    pub(crate) fn messages(&self) -> &[Stored] {
        &self.messages
    }

    /// Forgets what was stored after `since`, as a host does that lost its power before it wrote to the disk.
    pub(crate) fn roll_back(&mut self, since: Micros) {
        let keep = self.messages.partition_point(|stored| stored.at <= since);
        let mut messages = std::mem::take(&mut self.messages);
        messages.truncate(keep);
        self.ids.clear();
        self.newest.clear();
        for stored in &messages {
            self.remember(&stored.message, stored.seq, stored.at);
        }
        self.bytes = messages.iter().map(|stored| stored.message.bytes).sum();
        self.messages = messages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Body;

    fn stream() -> Stream {
        let subjects = vec!["a.*".into()];
        let window = Duration::from_secs(120);
        Stream::new(StreamConfig { name: "S".into(), subjects, window, max_bytes: 10_000 })
    }

    fn message(subject: &str, id: &str) -> Message {
        Message::new(subject, Body::Plain).with_id(id)
    }

    fn at(seconds: u64) -> Micros {
        Micros::new(seconds * 1_000_000)
    }

    #[test]
    fn an_id_on_another_subject_is_a_duplicate_and_names_the_first() {
        let mut stream = stream();
        assert_eq!(stream.store(message("a.x", "1"), false, at(0)), Ok((1, false)));
        assert_eq!(stream.store(message("a.y", "1"), false, at(1)), Ok((1, true)));
        assert_eq!(stream.last(), 1);
    }

    #[test]
    fn repeats_do_not_extend_the_window() {
        let mut stream = stream();
        for (seconds, answer) in [(0, (1, false)), (100, (1, true)), (119, (1, true)), (120, (2, false))] {
            assert_eq!(stream.store(message("a.x", "1"), false, at(seconds)), Ok(answer));
        }
    }

    #[test]
    fn a_refused_message_leaves_no_id() {
        let mut stream = stream();
        let large = Message { bytes: 20_000, ..message("a.x", "1") };
        assert_eq!(stream.store(large, false, at(0)), Err(Refusal::Full));
        assert_eq!(stream.store(message("a.x", "1"), false, at(0)), Ok((1, false)));
    }

    #[test]
    fn a_value_is_replaced_only_at_the_version_expected() {
        let mut stream = stream();
        let put = |expect, id: &str| Message { expect: Some(expect), ..message("a.key", id) };
        assert_eq!(stream.store(put(0, "1"), false, at(0)), Ok((1, false)));
        assert_eq!(stream.store(put(0, "2"), false, at(0)), Err(Refusal::WrongSequence));
        assert_eq!(stream.store(put(1, "2"), false, at(0)), Ok((2, false)));
        // The same write again: a single server refuses it, a cluster knows the id.
        assert_eq!(stream.store(put(1, "2"), false, at(0)), Err(Refusal::WrongSequence));
        assert_eq!(stream.store(put(1, "2"), true, at(0)), Ok((2, true)));
        assert_eq!(stream.newest("a.key").map(|stored| stored.seq), Some(2));
    }

    #[test]
    fn power_loss_takes_back_the_last_writes_and_their_ids() {
        let mut stream = stream();
        for second in 1..=3 {
            stream.store(message("a.x", &second.to_string()), false, at(second)).expect("it fits");
        }
        stream.roll_back(at(2));
        assert_eq!((stream.last(), stream.newest("a.x").map(|stored| stored.seq)), (2, Some(2)));
        assert_eq!(stream.store(message("a.x", "3"), false, at(4)), Ok((3, false)));
        assert_eq!(stream.store(message("a.x", "2"), false, at(4)), Ok((2, true)));
    }
}
