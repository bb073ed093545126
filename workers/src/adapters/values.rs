//! JSON values one after another, as bytes come in: a whole answer, or one object to a line. Pure.
//!
//! What stands between values is passed over, so `data:` in front of one does no harm.

/// The values grew past the limit; what follows cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of the answer is longer than {0} bytes")]
pub(super) struct TooLong(usize);

/// Splits bytes into objects and lists.
#[derive(Debug)]
pub(super) struct Values {
    limit: usize,
    /// The value that has begun.
    value: Vec<u8>,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Values {
    /// A splitter that allows `limit` bytes for one value.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, value: Vec::new(), depth: 0, quoted: false, escaped: false }
    }

    /// Takes the next bytes; appends the values that they complete. Bytes that are no UTF-8 become U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8], values: &mut Vec<String>) -> Result<(), TooLong> {
        for &byte in bytes {
            if self.depth == 0 && !matches!(byte, b'{' | b'[') {
                continue;
            }
            if self.value.len() == self.limit {
                return Err(TooLong(self.limit));
            }
            self.value.push(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                b'{' | b'[' if !self.quoted => self.depth += 1,
                b'}' | b']' if !self.quoted => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        values.push(String::from_utf8_lossy(&std::mem::take(&mut self.value)).into_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a value has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.depth > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
        let (mut values, mut found) = (Values::new(100), Vec::new());
        for piece in pieces {
            values.push(piece, &mut found).unwrap();
        }
        (found, values.is_open())
    }

    #[test]
    fn values_are_split_wherever_the_bytes_are_cut() {
        let text = "{\"a\":\"}\\\"{é\"}\n\n {\"b\":[{}]}[1]data: {\n \"c\": 1 }\n, [DONE] {\"d";
        let expected = ["{\"a\":\"}\\\"{é\"}", "{\"b\":[{}]}", "[1]", "{\n \"c\": 1 }", "[DONE]"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(read([text.as_bytes()]), (expected.clone(), true));
        assert_eq!(read(text.as_bytes().chunks(1)), (expected, true));
        assert_eq!(read([b"no value }]".as_slice()]), (Vec::new(), false));
    }

    #[test]
    fn an_endless_value_is_refused() {
        let mut values = Values::new(10);
        assert_eq!(values.push(&[b'['; 11], &mut Vec::new()), Err(TooLong(10)));
    }
}
