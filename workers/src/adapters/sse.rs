//! Server-sent events as inference servers really write them: bytes in, events out. Pure.
//!
//! Follows the WHATWG rules for lines (`\n`, `\r\n`, `\r`) and fields (a blank after the colon is dropped, several
//! `data:` lines are one event), and four habits of the servers: comments are told, because they are signs of life
//! and Modal's carry the bill; an `error:` field, which older llama.cpp writes and the standard would drop, is told; an object alone
//! in a line, as a proxy may add one, is data;
//! and a stream may end without its last blank line. How the bytes are cut into pieces changes nothing.

/// Something the stream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The data of an event; never empty.
    Data(String),
    /// The value of an `error:` field, or the data of an event of type `error`.
    Error(String),
    /// An event of another type than `output`, in a stream that names its events: `done`, `logs`.
    Named(String),
    /// A line that began with a colon, without it and a blank.
    Comment(String),
}

/// One event grew past the limit; what follows cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {0} bytes")]
pub struct TooLong(pub usize);

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    /// The line that has begun.
    line: Vec<u8>,
    /// The event that has begun.
    data: String,
    is_error: bool,
    /// The event's type, in a stream that names its events.
    kind: Option<String>,
    /// The last byte was `\r`: a `\n` now belongs to it.
    after_return: bool,
    /// Nothing was read yet, so that a byte order mark may come.
    first_line: bool,
}

impl Reader {
    /// A reader that allows `limit` bytes for one event.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: String::new(),
            is_error: false,
            kind: None,
            after_return: false,
            first_line: true,
        }
    }

    /// A reader of a stream whose events say by their type what they are, as Replicate's do: `output` is data.
    pub fn of_named_events(limit: usize) -> Self {
        Self { kind: Some(String::new()), ..Self::new(limit) }
    }

    /// Takes the next bytes; appends the events that they complete.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|&b| b == b'\n' || b == b'\r');
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.data.len() + self.line.len() + piece.len() > self.limit {
                return Err(TooLong(self.limit));
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else {
                return Ok(());
            };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events);
        }
        Ok(())
    }

    /// The stream is over: what was begun is complete.
    pub fn finish(&mut self, events: &mut Vec<Event>) {
        if !self.line.is_empty() {
            self.end_line(events);
        }
        self.end_event(events);
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let mut line = std::mem::take(&mut self.line);
        let first = std::mem::take(&mut self.first_line);
        let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| first).unwrap_or(&line);
        if text.is_empty() {
            self.end_event(events);
        } else {
            // A line is whole here, so a character is never cut; bytes that are none become U+FFFD.
            self.field(&String::from_utf8_lossy(text), events);
        }
        // Its allocation serves the next line.
        line.clear();
        self.line = line;
    }

    fn field(&mut self, line: &str, events: &mut Vec<Event>) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => events.push(Event::Comment(value.to_owned())),
            // No field begins so: a proxy's error object among events.
            _ if name.starts_with('{') && self.kind.is_none() => events.push(Event::Data(line.to_owned())),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "error" => events.push(Event::Error(value.to_owned())),
            "event" => {
                self.is_error = value == "error";
                if let Some(kind) = &mut self.kind {
                    value.clone_into(kind);
                }
            }
            // `id`, `retry`, and whatever a proxy adds.
            _ => {}
        }
    }

    fn end_event(&mut self, events: &mut Vec<Event>) {
        let (data, is_error) = (std::mem::take(&mut self.data), std::mem::take(&mut self.is_error));
        let kind = self.kind.as_mut().map(std::mem::take);
        if !data.is_empty() {
            events.push(match kind {
                _ if is_error => Event::Error(data),
                Some(kind) if kind != "output" => Event::Named(kind),
                Some(_) | None => Event::Data(data),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1_000;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let (mut reader, mut events) = (Reader::new(LIMIT), Vec::new());
        for piece in pieces {
            reader.push(piece, &mut events).unwrap();
        }
        reader.finish(&mut events);
        events
    }

    fn check(text: &str, events: &[Event]) {
        assert_eq!(read([text.as_bytes()]), events, "{text:?}");
    }

    fn data(text: &str) -> Event {
        Event::Data(text.to_owned())
    }

    #[test]
    fn a_stream_that_names_its_events_is_told_apart() {
        let (mut reader, mut events) = (Reader::of_named_events(100), Vec::new());
        let text = b"event: output\ndata: a\ndata: b\n\nevent: logs\ndata: x\n\nevent: error\ndata: no\n\nevent: done\ndata: {}\n\n";
        reader.push(text, &mut events).unwrap();
        let named = |kind: &str| Event::Named(kind.to_owned());
        let expected =
            [Event::Data("a\nb".to_owned()), named("logs"), Event::Error("no".to_owned()), named("done")];
        assert_eq!(events, expected);
    }

    #[test]
    fn the_six_habits_of_the_servers_are_read() {
        check("data: a\n\ndata:b\n\n", &[data("a"), data("b")]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &[data("a"), data("b")]);
        check("data: a\ndata: b\n\n", &[data("a\nb")]);
        check("data:\n\ndata: \n\ndata: x\n\n", &[data("x")]);
        check(": ping\n\n:\n:x\n", &[comment("ping"), comment(""), comment("x")]);
        check("error: {\"code\":400}\n\ndata: [DONE]\n\n", &[error("{\"code\":400}"), data("[DONE]")]);
    }

    fn comment(text: &str) -> Event {
        Event::Comment(text.to_owned())
    }

    fn error(text: &str) -> Event {
        Event::Error(text.to_owned())
    }

    #[test]
    fn the_last_event_needs_no_blank_line() {
        check("data: a\n\ndata: b", &[data("a"), data("b")]);
        check("data: a\n", &[data("a")]);
        check("", &[]);
    }

    #[test]
    fn other_fields_are_passed_over_and_an_error_type_is_told() {
        check("\u{feff}id: 7\nretry: 10\nodd\ndata: a\n\n", &[data("a")]);
        check("event: error\ndata: {}\n\ndata: b\n\n", &[error("{}"), data("b")]);
        check("data:  two blanks\n\n", &[data(" two blanks")]);
        check("data: a\n\n{\"error\":1}\n", &[data("a"), data("{\"error\":1}")]);
    }

    #[test]
    fn an_endless_event_is_refused_in_one_line_or_in_many() {
        let endless = vec![b'x'; LIMIT + 1];
        assert_eq!(Reader::new(LIMIT).push(&endless, &mut Vec::new()), Err(TooLong(LIMIT)));
        let many = b"data: 123456789\n".repeat(LIMIT / 10);
        assert_eq!(Reader::new(LIMIT).push(&many, &mut Vec::new()), Err(TooLong(LIMIT)));
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "[ a-zé✓𝄞:]{0,6}".prop_map(|t| format!("data:{t}")),
            "[ a-zé✓𝄞:]{0,6}".prop_map(|t| format!("data: {t}")),
            ".{0,6}".prop_map(|t| format!(":{t}")),
            "[a-z:]{0,6}".prop_map(|t| format!("error:{t}")),
            "event: (error|message)",
            ".{0,8}",
        ]
    }

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_gives_the_same_events(
            lines in proptest::collection::vec((line(), "\n|\r\n|\r"), 0..12),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text: String = lines.into_iter().flat_map(|(line, end)| [line, end]).collect();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(read(pieces), read([bytes]));
            prop_assert_eq!(read(bytes.chunks(1)), read([bytes]));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(LIMIT);
            let mut events = Vec::new();
            let _ = reader.push(&bytes, &mut events);
            reader.finish(&mut events);
            prop_assert!(events.iter().all(|e| !matches!(e, Event::Data(d) if d.is_empty())));
        }
    }
}
