//! The file of a backfill, by line: read once through, and here and there again by the index that the survey made.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Seek, SeekFrom},
    path::PathBuf,
};

use super::{BackfillError, at, survey::STRIDE};

/// The file, read once through, and here and there again.
pub(super) struct Input {
    path: PathBuf,
    index: PathBuf,
    reader: BufReader<File>,
    /// The line read last.
    pub(super) number: u64,
    /// Where the next one begins.
    offset: u64,
    /// The same file, for lines that are read again.
    again: BufReader<File>,
    buffer: Vec<u8>,
}

impl Input {
    /// Stands behind line `number`.
    pub(super) fn open(path: PathBuf, index: PathBuf, number: u64) -> Result<Self, BackfillError> {
        let mut reader = behind(&path, &index, number)?;
        let offset = reader.stream_position().map_err(at(&path))?;
        let again = BufReader::with_capacity(1 << 12, File::open(&path).map_err(at(&path))?);
        Ok(Self { path, index, reader, number, offset, again, buffer: Vec::new() })
    }

    /// The next line with its number and its place, without what surrounds it; bytes that are no UTF-8 are replaced.
    pub(super) fn next(&mut self) -> Result<Option<(u64, u64, String)>, BackfillError> {
        self.buffer.clear();
        let read = self.reader.read_until(b'\n', &mut self.buffer).map_err(at(&self.path))?;
        if read == 0 {
            return Ok(None);
        }
        let place = self.offset;
        (self.number, self.offset) = (self.number + 1, place + read as u64);
        Ok(Some((self.number, place, text_of(&self.buffer))))
    }

    /// The line at a place that [`Input::next`] gave.
    pub(super) fn line_at(&mut self, place: u64) -> Result<String, BackfillError> {
        self.again.seek(SeekFrom::Start(place)).map_err(at(&self.path))?;
        self.buffer.clear();
        self.again.read_until(b'\n', &mut self.buffer).map_err(at(&self.path))?;
        Ok(text_of(&self.buffer))
    }

    /// Line `number`, wherever it is.
    pub(super) fn line(&self, number: u64) -> Result<String, BackfillError> {
        let mut reader = behind(&self.path, &self.index, number.saturating_sub(1))?;
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).map_err(at(&self.path))?;
        Ok(text_of(&line))
    }
}

fn text_of(line: &[u8]) -> String {
    String::from_utf8_lossy(line.trim_ascii()).into_owned()
}

/// A reader that stands behind line `number`.
fn behind(path: &PathBuf, index: &PathBuf, number: u64) -> Result<BufReader<File>, BackfillError> {
    let mut entry = [0; 8];
    let mut offsets = File::open(index).map_err(at(index))?;
    offsets.seek(SeekFrom::Start(number / STRIDE * 8)).map_err(at(index))?;
    offsets.read_exact(&mut entry).map_err(at(index))?;
    let mut file = File::open(path).map_err(at(path))?;
    file.seek(SeekFrom::Start(u64::from_le_bytes(entry))).map_err(at(path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut skipped = Vec::new();
    for _ in 0..number % STRIDE {
        skipped.clear();
        reader.read_until(b'\n', &mut skipped).map_err(at(path))?;
    }
    Ok(reader)
}
