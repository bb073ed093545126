//! One pass over the file before anything is sent: its hash, how many lines for which model, which `custom_id` comes twice,
//! and where every 1,024th line begins. Memory does not grow with the file: doubles are found by sorting outside.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::lines::{Defaults, read_line};

/// Lines between two entries of the index.
pub const STRIDE: u64 = 1_024;

/// Hashes sorted at a time: 16 MB.
const RUN: usize = 1_000_000;

/// What the file is and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its lines, blank ones included: a line's number is what an editor shows.
    pub lines: u64,
    /// Lines that are jobs, by model.
    pub models: BTreeMap<String, u64>,
    /// Lines that are blank.
    pub blank: u64,
    /// Lines that are no jobs.
    pub bad: u64,
    /// Numbers of lines whose `custom_id` stands in an earlier one.
    pub doubles: Vec<u64>,
}

/// Reads the whole file; the index, an offset for every [`STRIDE`] lines, goes to `index` as little-endian 64-bit numbers.
pub fn survey(file: &Path, index: &Path, defaults: &Defaults<'_>) -> io::Result<Survey> {
    let mut input = BufReader::with_capacity(1 << 20, File::open(file)?);
    let mut index = BufWriter::new(File::create(index)?);
    let (mut hash, mut found, mut sorter) = (Sha256::new(), Survey::default(), Sorter::default());
    let mut line = Vec::new();
    loop {
        line.clear();
        if found.lines.is_multiple_of(STRIDE) {
            index.write_all(&found.bytes.to_le_bytes())?;
        }
        let read = input.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        hash.update(&line);
        found.bytes += read as u64;
        found.lines += 1;
        if line.trim_ascii().is_empty() {
            found.blank += 1;
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        match read_line(text.trim(), found.lines, defaults) {
            Ok(job) => {
                *found.models.entry(job.model.to_string()).or_default() += 1;
                sorter.add(fingerprint(&job.custom_id), found.lines)?;
            }
            Err(_) => found.bad += 1,
        }
    }
    index.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    found.sha256 = hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    found.doubles = sorter.doubles()?;
    Ok(found)
}

/// A hundred and twenty-eight bits: two names of a file of ten million collide once in 10²⁴ files.
fn fingerprint(custom_id: &str) -> u128 {
    Uuid::new_v5(&super::NAMESPACE, custom_id.as_bytes()).as_u128()
}

/// Finds what was added twice: sorted runs in temporary files, merged at the end.
#[derive(Default)]
struct Sorter {
    current: Vec<(u128, u64)>,
    runs: Vec<File>,
}

impl Sorter {
    fn add(&mut self, hash: u128, line: u64) -> io::Result<()> {
        self.current.push((hash, line));
        if self.current.len() >= RUN { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.current.sort_unstable();
        let mut out = BufWriter::new(tempfile::tempfile()?);
        for (hash, line) in self.current.drain(..) {
            out.write_all(&hash.to_le_bytes())?;
            out.write_all(&line.to_le_bytes())?;
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        io::Seek::rewind(&mut file)?;
        self.runs.push(file);
        Ok(())
    }

    /// The numbers of all lines but the first of each hash, ascending.
    fn doubles(mut self) -> io::Result<Vec<u64>> {
        self.current.sort_unstable();
        let mut found = Vec::new();
        if self.runs.is_empty() {
            found.extend(self.current.windows(2).filter(|w| w[0].0 == w[1].0).map(|w| w[1].1));
        } else {
            if !self.current.is_empty() {
                self.spill()?;
            }
            let mut runs: Vec<_> = self.runs.into_iter().map(BufReader::new).collect();
            let mut heads = BinaryHeap::new();
            for (nth, run) in runs.iter_mut().enumerate() {
                heads.extend(next(run)?.map(|entry| Reverse((entry, nth))));
            }
            let mut last = None;
            while let Some(Reverse(((hash, line), nth))) = heads.pop() {
                if last == Some(hash) {
                    found.push(line);
                }
                last = Some(hash);
                heads.extend(next(&mut runs[nth])?.map(|entry| Reverse((entry, nth))));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn next(run: &mut impl Read) -> io::Result<Option<(u128, u64)>> {
    let (mut hash, mut line) = ([0; 16], [0; 8]);
    match run.read_exact(&mut hash) {
        Ok(()) => run.read_exact(&mut line)?,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Some((u128::from_le_bytes(hash), u64::from_le_bytes(line))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Sorted outside or in memory, the same lines come twice.
        #[test]
        fn doubles_are_found_however_they_are_spread(hashes in proptest::collection::vec(0..30u128, 0..80), spill in 1..20usize) {
            let mut sorter = Sorter::default();
            let (mut seen, mut expected) = (std::collections::HashSet::new(), Vec::new());
            for (at, hash) in hashes.iter().enumerate() {
                sorter.add(*hash, at as u64).unwrap();
                if at % spill == 0 { sorter.spill().unwrap(); }
                if !seen.insert(*hash) { expected.push(at as u64); }
            }
            prop_assert_eq!(sorter.doubles().unwrap(), expected);
        }
    }
}
