//! What can still be read of a message that is no job, so that its sender hears of it: a second, tolerant look.
//!
//! The look walks the top level of the body as far as it goes and reads the texts of `id` and `mailbox` there; every other value is
//! skipped by its outline, whatever it holds: half a surrogate pair, bytes that are no UTF-8, a wrong type, an unknown
//! extension. It goes over the body once and calls nothing for nested values. Where it gets lost, as behind a quote that a sender
//! forgot to escape, what is still missing is looked for by name in the rest.

use super::{JobHeaders, read_mailbox};
use crate::{Codec, JobId, Mailbox, Tenant, subjects::JobSubject};

/// What can still be read of a message that is not a job: enough to tell its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// The id, from the header or the body.
    pub id: Option<JobId>,
    /// The mailbox that the body names in its own tenant, or the default one when the body is a map that names none, as far as
    /// it can be read, or one that breaks the rule. `None` when the body is no map, names another tenant's mailbox, or was delayed by
    /// another tenant.
    pub mailbox: Option<Mailbox>,
    /// The codec for the reply.
    pub codec: Codec,
}

/// Reads id and mailbox out of a broken job, tolerating everything else.
pub fn salvage(subject: Option<&JobSubject>, headers: JobHeaders<'_>, body: &[u8]) -> Salvage {
    let codec = Codec::from_content_type(headers.content_type).unwrap_or_default();
    // The header may be wrong about the body, so the body's own first byte decides.
    let fields = Json::of(body).map(Json::fields).or_else(|| MsgPack::of(body).map(MsgPack::fields));
    let header = headers.message_id.and_then(|text| text.split(':').next()?.parse().ok());
    let id = header.or_else(|| fields.as_ref()?.id.as_ref()?.parse().ok());
    let mailbox = fields
        .zip(subject)
        // The subject is not the sender's own.
        .filter(|(_, subject)| headers.strange_owner(&subject.tenant).is_none())
        .and_then(|(fields, subject)| own_mailbox(fields.mailbox.as_deref(), &subject.tenant));
    Salvage { id, mailbox, codec }
}

/// Where to tell the sender, whatever its name for that is; nowhere if it is in another tenant.
fn own_mailbox(text: Option<&str>, tenant: &Tenant) -> Option<Mailbox> {
    let owner = text.and_then(|text| text.split_once('.')?.0.parse::<Tenant>().ok());
    owner.is_none_or(|owner| owner == *tenant).then(|| read_mailbox(text, tenant).unwrap_or_default())
}

/// The two texts that are looked for.
#[derive(Debug, Default)]
struct Fields {
    id: Option<String>,
    mailbox: Option<String>,
}

impl Fields {
    /// Where the value of a key goes, if that is one of the two. Of two equal keys the last counts, as most readers have it.
    fn place(&mut self, key: &[u8]) -> Option<&mut Option<String>> {
        match key {
            b"id" => Some(&mut self.id),
            b"mailbox" => Some(&mut self.mailbox),
            _ => None,
        }
    }
}

/// How far behind a name its text may end, in bytes: an id or a mailbox, and some space.
const NEAR: usize = 256;

/// A walk over JSON, behind the brace that opens its top level.
struct Json<'a> {
    rest: &'a [u8],
}

impl<'a> Json<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        Some(Self { rest: body.trim_ascii_start().strip_prefix(b"{")? })
    }

    fn fields(mut self) -> Fields {
        let mut fields = Fields::default();
        loop {
            let begin = self.rest;
            // `None`: it ends, breaks off or makes no sense there. What was found before holds.
            if self.entry(&mut fields).is_none() {
                Self { rest: begin }.by_name(&mut fields);
                return fields;
            }
        }
    }

    /// Looks for what is missing by name, wherever it stands. It may find what a nested value or a prompt says, but only in a body that
    /// makes no sense, and replies stay in the sender's tenant. Each name is looked at once and not further than [`NEAR`].
    fn by_name(self, fields: &mut Fields) {
        // Two ids: one of them may be another job's, which must not hear that it failed.
        let (known, mut ids) = (fields.id.is_some(), Vec::new());
        for at in 0..self.rest.len() {
            let near = &self.rest[at..self.rest.len().min(at + NEAR)];
            let names: [&[u8]; 4] = [br#""id""#, b"'id'", br#""mailbox""#, b"'mailbox'"];
            let Some(name) = names.into_iter().find(|name| near.starts_with(name)) else { continue };
            let mut walk = Json { rest: &near[name.len()..] };
            let Some(text) = walk.named_text() else { continue };
            if name[1..].starts_with(b"id") {
                ids.extend(Some(text).filter(|text| text.parse::<JobId>().is_ok()));
            } else {
                fields.mailbox = fields.mailbox.take().or(Some(text));
            }
        }
        ids.dedup();
        if !known && ids.len() == 1 {
            fields.id = ids.pop();
        }
    }

    /// The text behind a colon.
    fn named_text(&mut self) -> Option<String> {
        self.rest = self.rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        decoded(self.text()?)
    }

    fn entry(&mut self, fields: &mut Fields) -> Option<()> {
        // A comma or bracket too many is no reason to give up.
        let between = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b']');
        self.rest = &self.rest[self.rest.iter().position(|byte| !between(byte))?..];
        let key = self.text()?;
        self.rest = self.rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        match fields.place(decoded(key).unwrap_or_default().as_bytes()) {
            Some(place) if self.at_text() => *place = decoded(self.text()?),
            Some(_) | None => self.skip()?,
        }
        Some(())
    }

    fn at_text(&self) -> bool {
        matches!(self.rest.first(), Some(b'"' | b'\''))
    }

    /// Goes behind a text, and gives it with its quotes; they may be single ones, as Python prints a map.
    fn text(&mut self) -> Option<&'a [u8]> {
        let whole = self.rest;
        let (quote, mut bytes) = whole.split_first().filter(|_| self.at_text())?;
        loop {
            let at = bytes.iter().position(|byte| byte == quote || *byte == b'\\')?;
            let end = bytes[at] == *quote;
            // A backslash guards the next byte, whatever it is.
            bytes = bytes.get(at + if end { 1 } else { 2 }..)?;
            if end {
                self.rest = bytes;
                return Some(&whole[..whole.len() - bytes.len()]);
            }
        }
    }

    /// Goes behind a value of any kind. Brackets are counted, not matched: a wrong one is no reason to give up.
    fn skip(&mut self) -> Option<()> {
        if self.at_text() {
            return self.text().map(drop);
        }
        let mut depth = 0u64;
        loop {
            match self.rest.first()? {
                // A number or a name ends with its entry, also where the comma is missing.
                b'}' | b']' | b',' | b'"' if depth == 0 => return Some(()),
                b'"' | b'\'' if depth > 0 => {
                    self.text()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 1 => {
                    self.rest = &self.rest[1..];
                    return Some(());
                }
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.rest = &self.rest[1..];
        }
    }
}

/// A text without its quotes, if it reads.
fn decoded(text: &[u8]) -> Option<String> {
    match text {
        [b'\'', inner @ .., b'\''] => std::str::from_utf8(inner).ok().map(str::to_owned),
        _ => serde_json::from_slice(text).ok(),
    }
}

/// A walk over MessagePack, behind the head of the map that is its top level.
struct MsgPack<'a> {
    rest: &'a [u8],
    entries: u64,
}

/// What stands at the head of a value.
enum Head {
    /// A text of so many bytes.
    Text(u64),
    /// Another value without values in it, of so many bytes.
    Bytes(u64),
    /// So many values.
    Values(u64),
}

impl<'a> MsgPack<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let first = *body.first()?;
        let mut walk = Self { rest: body, entries: 0 };
        match (first, walk.head()?) {
            (0x80..=0x8f | 0xde | 0xdf, Head::Values(count)) => Some(Self { entries: count / 2, ..walk }),
            _ => None,
        }
    }

    fn fields(mut self) -> Fields {
        let mut fields = Fields::default();
        // A map may claim any number of entries; each that is read takes a byte at least.
        for _ in 0..self.entries {
            if self.entry(&mut fields).is_none() {
                break;
            }
        }
        fields
    }

    fn entry(&mut self, fields: &mut Fields) -> Option<()> {
        let (key, text) = (self.value()?, self.value()?);
        if let Some(place) = fields.place(key) {
            *place = std::str::from_utf8(text).ok().filter(|text| !text.is_empty()).map(str::to_owned);
        }
        Some(())
    }

    /// Goes behind a value, and gives its bytes if it is a text, none for any other value.
    fn value(&mut self) -> Option<&'a [u8]> {
        let mut left = match self.head()? {
            Head::Text(length) => return self.take(length),
            Head::Bytes(length) => return self.take(length).map(|_| &[][..]),
            Head::Values(count) => count,
        };
        while left > 0 {
            left -= 1;
            match self.head()? {
                Head::Text(length) | Head::Bytes(length) => drop(self.take(length)?),
                // Each claim takes a byte of the body at least, and is less than 2^33: no sum of them overflows.
                Head::Values(count) => left += count,
            }
        }
        Some(&[])
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    /// A big-endian number of so many bytes, 8 at most.
    fn number(&mut self, bytes: u64) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Goes behind the head of a value.
    fn head(&mut self) -> Option<Head> {
        let marker = self.number(1)?;
        Some(match marker {
            0x80..=0x8f => Head::Values(2 * (marker & 0x0f)),
            0x90..=0x9f => Head::Values(marker & 0x0f),
            0xa0..=0xbf => Head::Text(marker & 0x1f),
            // Some encoders write texts as binary data, and job readers take them.
            0xc4..=0xc6 => Head::Text(self.number(1 << (marker - 0xc4))?),
            // Extensions of any length with a byte for their type.
            0xc7..=0xc9 => Head::Bytes(self.number(1 << (marker - 0xc7))? + 1),
            0xca => Head::Bytes(4),
            0xcb => Head::Bytes(8),
            0xcc..=0xcf => Head::Bytes(1 << (marker - 0xcc)),
            0xd0..=0xd3 => Head::Bytes(1 << (marker - 0xd0)),
            0xd4..=0xd8 => Head::Bytes((1 << (marker - 0xd4)) + 1),
            0xd9..=0xdb => Head::Text(self.number(1 << (marker - 0xd9))?),
            0xdc | 0xdd => Head::Values(self.number(2 << (marker - 0xdc))?),
            0xde | 0xdf => Head::Values(2 * self.number(2 << (marker - 0xde))?),
            // MessagePack gives 0xc1 no meaning; it and the small numbers and names stand alone.
            _ => Head::Bytes(0),
        })
    }
}

#[cfg(test)]
mod tests;
