//! The text in a delta or a message, whatever its shape: a text, parts, a list of texts, halves of characters. Pure.

use serde::{
    Deserializer as _,
    de::{Error, Visitor},
};
use std::fmt;

use crate::adapters::json::{elements, fields};

/// Parts lie in lists, lists in objects; deeper than this there is nothing meant for us.
const DEPTH_MAX: u8 = 4;

/// What a piece says. Its bytes are UTF-8 but for halves of surrogate pairs, which some servers cut between two frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: Vec<u8>,
    /// Thoughts before the answer came: no output, but they were generated.
    pub(super) thought: bool,
    /// Calls of tools came.
    pub(super) tools: bool,
}

impl Said {
    /// Reads a delta or a message.
    pub(super) fn of(json: &str) -> Self {
        let names = [
            "content",
            "text",
            "refusal",
            "reasoning_content",
            "reasoning",
            "thinking",
            "tool_calls",
            "function_call",
        ];
        let Ok([content, text, refusal, thought, other_thought, third_thought, calls, call]) =
            fields(json, &names)
        else {
            // Not an object: the text itself, or a list of parts.
            return Self::of_content(json);
        };
        let mut said = content.map(Self::of_content).unwrap_or_default();
        // A refusal stands beside a content of null, and is the answer.
        for other in [text, refusal].into_iter().flatten() {
            if said.text.is_empty() {
                said.text = Self::of_content(other).text;
            }
        }
        // Servers have three names for thoughts.
        let thoughts = [thought, other_thought, third_thought];
        said.thought |=
            thoughts.into_iter().flatten().any(|thought| !Self::of_content(thought).text.is_empty());
        said.tools = calls.is_some_and(|calls| !elements(calls).is_empty())
            || call.is_some_and(|call| call.starts_with('{'));
        said
    }

    /// Reads a content.
    pub(super) fn of_content(json: &str) -> Self {
        let mut said = Self::default();
        said.add(json, DEPTH_MAX);
        said
    }

    fn add(&mut self, json: &str, depth: u8) {
        let Some(depth) = depth.checked_sub(1) else { return };
        match json.as_bytes().first() {
            Some(b'"') => self.text.extend(text(json)),
            Some(b'[') => elements(json).into_iter().for_each(|part| self.add(part, depth)),
            Some(b'{') => self.add_part(json, depth),
            Some(b'n') | None => {}
            // A number or a truth value; somewhere on the way the quotes were lost.
            Some(_) => self.text.extend(json.as_bytes()),
        }
    }

    fn add_part(&mut self, json: &str, depth: u8) {
        let names = ["type", "text", "content", "parts", "value", "thinking"];
        let Ok([kind, words, content, parts, value, thinking]) = fields(json, &names) else { return };
        let kind = kind.map(text).unwrap_or_default();
        if thinking.is_some() || [&b"thinking"[..], b"reasoning"].contains(&&kind[..]) {
            self.thought = true;
            return;
        }
        // A part of another type has none of these, or is not for us.
        if let Some(words) = words.or(content).or(parts).or(value) {
            self.add(words, depth);
        }
    }

    /// Whether anything was generated.
    pub(super) fn is_something(&self) -> bool {
        !self.text.is_empty() || self.thought || self.tools
    }
}

/// The bytes of a JSON text, halves of surrogate pairs included; empty for anything else.
pub(super) fn text(json: &str) -> Vec<u8> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
    serde_json::Deserializer::from_str(json).deserialize_bytes(Bytes).unwrap_or_default()
}

/// Puts together what pieces cut apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Joiner {
    /// The first half of a surrogate pair whose second half has not come.
    half: Vec<u8>,
}

impl Joiner {
    /// The text of the next piece; a half at its end is kept for the piece after it.
    pub(super) fn join(&mut self, piece: Vec<u8>) -> String {
        if piece.is_empty() {
            return String::new();
        }
        let mut bytes = std::mem::take(&mut self.half);
        bytes.extend(piece);
        if let Some(begin) =
            bytes.len().checked_sub(3).filter(|begin| half(&bytes[*begin..]).is_some_and(is_first))
        {
            self.half = bytes.split_off(begin);
        }
        String::from_utf8(bytes).unwrap_or_else(|error| whole(error.as_bytes()))
    }

    /// Whether a half waits for its other half.
    pub(super) fn is_open(&self) -> bool {
        !self.half.is_empty()
    }
}

/// The code unit that three bytes stand for, if it is half a surrogate pair.
fn half(bytes: &[u8]) -> Option<u16> {
    match *bytes {
        [0xed, b @ 0xa0..=0xbf, c, ..] => Some(0xd000 | u16::from(b & 0x3f) << 6 | u16::from(c & 0x3f)),
        _ => None,
    }
}

fn is_first(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

/// Pairs become their characters; a half alone becomes U+FFFD.
fn whole(bytes: &[u8]) -> String {
    let (mut text, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((byte, after)) = rest.split_first() {
        let Some(unit) = half(rest) else {
            text.push(*byte);
            rest = after;
            continue;
        };
        let second = rest.get(3..).and_then(half).filter(|_| is_first(unit));
        let units = [Some(unit), second];
        let decoded =
            char::decode_utf16(units.into_iter().flatten()).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        let mut buffer = [0; 4];
        decoded.for_each(|c| text.extend(c.encode_utf8(&mut buffer).as_bytes()));
        rest = &rest[if second.is_some() { 6 } else { 3 }..];
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, text: &str, thought: bool, tools: bool) {
        let said = Said::of(json);
        assert_eq!(
            (String::from_utf8(said.text).unwrap().as_str(), said.thought, said.tools),
            (text, thought, tools),
            "{json}"
        );
    }

    #[test]
    fn a_text_is_found_in_every_shape() {
        for json in [
            r#"{"content":"Hi"}"#,
            r#"{"role":"assistant","content":["H","i"]}"#,
            r#"{"content":[{"type":"text","text":"H"},{"type":"text","text":"i"}]}"#,
            r#"{"content":[{"type":"output_text","text":"Hi","annotations":[]}]}"#,
            r#"{"content":[{"type":"text","text":{"value":"Hi"}},{"type":"image_url","image_url":{"url":"x"}}]}"#,
            r#"{"content":{"text":"Hi"}}"#,
            r#"{"content":{"parts":[{"text":"Hi"}]}}"#,
            r#"{"content":null,"text":"Hi"}"#,
            r#"{"content":null,"refusal":"Hi"}"#,
            r#"{"content":"Hi","refusal":null,"tool_calls":null,"function_call":null,"reasoning":""}"#,
            r#"{"content":"Hi","tool_calls":[],"audio":{}}"#,
            r#""Hi""#,
            r#"["H","i"]"#,
        ] {
            check(json, "Hi", false, false);
        }
        check(r#"{"content":42}"#, "42", false, false);
        for nothing in [
            "{}",
            r#"{"content":null}"#,
            r#"{"content":""}"#,
            r#"{"content":[]}"#,
            r#"{"role":"assistant"}"#,
            "null",
        ] {
            check(nothing, "", false, false);
        }
    }

    #[test]
    fn thoughts_and_calls_are_no_text() {
        check(r#"{"content":null,"reasoning_content":"so"}"#, "", true, false);
        check(r#"{"content":"Hi","reasoning":"so"}"#, "Hi", true, false);
        check(
            r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"so"}]},{"type":"text","text":"Hi"}]}"#,
            "Hi",
            true,
            false,
        );
        check(
            r#"{"content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}"#,
            "",
            false,
            true,
        );
        check(r#"{"content":null,"function_call":{"name":"f"}}"#, "", false, true);
    }

    #[test]
    fn halves_of_a_character_are_joined_over_pieces_and_a_lone_one_is_replaced() {
        let joined = |pieces: &[&str]| {
            let mut joiner = Joiner::default();
            let text: Vec<String> = pieces.iter().map(|piece| joiner.join(text(piece))).collect();
            (text.concat(), joiner.is_open())
        };
        assert_eq!(joined(&[r#""a\ud83d""#, r#""\ude00b""#]), ("a😀b".to_owned(), false));
        assert_eq!(joined(&[r#""\ud83d\ude00""#]), ("😀".to_owned(), false));
        assert_eq!(joined(&[r#""a\ud83d""#, "\"\"", r#""b""#]), ("a\u{fffd}b".to_owned(), false));
        assert_eq!(joined(&[r#""\ude00a""#]), ("\u{fffd}a".to_owned(), false));
        assert_eq!(joined(&[r#""\ud83d\ud83d""#, r#""\ude00""#]), ("\u{fffd}😀".to_owned(), false));
        assert_eq!(joined(&[r#""a\ud83d""#]), ("a".to_owned(), true));
        assert_eq!(joined(&["\"é✓𝄞\""]), ("é✓𝄞".to_owned(), false));
    }
}
