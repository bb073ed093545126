//! What a replay has sent, in a file that only grows: the new id and the time of each job, 24 bytes.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use schemas::{JobId, Micros};
use uuid::Uuid;

use super::ReplayError;

const RECORD: usize = 24;

/// The file, and what is known to be sent.
pub(super) struct SentLog {
    path: PathBuf,
    file: File,
    last: Option<Micros>,
    /// Everything that stands there, and what its reader found out elsewhere.
    pub(super) known: HashSet<JobId>,
}

impl SentLog {
    /// Opens or makes the file of a replay; half a record at its end is cut off.
    pub(super) fn open(folder: &Path, key: &str) -> Result<Self, ReplayError> {
        let path = folder.join(format!("{key}.sent"));
        let open = || {
            fs::create_dir_all(folder)?;
            let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            file.set_len((bytes.len() / RECORD * RECORD) as u64)?;
            io::Result::Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(failed(&path))?;
        let (records, _) = bytes.as_chunks::<RECORD>();
        let known = records.iter().map(|record| read(record).0).collect();
        let last = records.last().map(|record| read(record).1);
        Ok(Self { path, file, last, known })
    }

    /// When the last was sent.
    pub(super) fn last(&self) -> Option<Micros> {
        self.last
    }

    /// Writes down what was sent; when it returns, it lasts.
    pub(super) fn add(&mut self, jobs: impl Iterator<Item = JobId>, now: Micros) -> Result<(), ReplayError> {
        let mut bytes = Vec::new();
        for job in jobs {
            bytes.extend(job.uuid().as_bytes());
            bytes.extend(now.get().to_le_bytes());
            self.known.insert(job);
        }
        self.last = Some(now);
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(failed(&self.path))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ReplayError {
    move |source| ReplayError::State { path: path.to_owned(), source }
}

fn read(record: &[u8; RECORD]) -> (JobId, Micros) {
    let (mut id, mut at) = ([0; 16], [0; 8]);
    id.copy_from_slice(&record[..16]);
    at.copy_from_slice(&record[16..]);
    (JobId::new(Uuid::from_bytes(id)), Micros::new(u64::from_le_bytes(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_known_again_and_half_a_record_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let job = |n| JobId::new(Uuid::from_u128(n));
        let mut log = SentLog::open(folder.path(), "k").unwrap();
        assert_eq!((log.last(), log.known.len()), (None, 0));
        log.add([job(1), job(2)].into_iter(), Micros::new(7)).unwrap();
        log.file.write_all(&[9; 10]).unwrap();
        let mut log = SentLog::open(folder.path(), "k").unwrap();
        assert_eq!((log.last(), log.known.len()), (Some(Micros::new(7)), 2));
        log.add([job(3)].into_iter(), Micros::new(8)).unwrap();
        let log = SentLog::open(folder.path(), "k").unwrap();
        assert!(log.known.contains(&job(3)) && log.known.len() == 3);
        assert!(SentLog::open(folder.path(), "other").unwrap().known.is_empty());
    }
}
