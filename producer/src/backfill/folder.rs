//! What must outlive a run, in a folder beside the file: manifest, index, checkpoint, output, and what another terminal asks.
//!
//! The checkpoint is the truth: whatever the other files hold beyond it is cut off before anything goes on.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use schemas::{Micros, Tenant, UsdNanos};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{BackfillError, Options, at, survey::Survey};

/// Which backfill a folder is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The file.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// Who pays.
    pub tenant: Tenant,
    /// When it was begun.
    pub begun_us: Micros,
    /// When the file was last written, as its file system says; a quick look instead of a hash.
    pub modified_us: Micros,
    /// What the file is and holds.
    pub survey: Survey,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Results up to this sequence of `REPLIES` are in the output.
    pub replies_seq: u64,
    /// When that `REPLIES` was made; another one has other sequences. Zero in a checkpoint of an older version.
    #[serde(default)]
    pub replies_created_us: Micros,
    /// Bytes of `results.jsonl`.
    pub results_len: u64,
    /// Bytes of `errors.jsonl`.
    pub errors_len: u64,
    /// Bytes of `done.log`.
    pub done_len: u64,
    /// Lines up to here are submitted, or are in the output, or blank.
    pub submitted: u64,
    /// Lines up to here may be submitted.
    pub reserved: u64,
    /// When the first of those that may be was reserved.
    pub reserved_at_us: Micros,
    /// Jobs that succeeded.
    pub succeeded: u64,
    /// Jobs that ended otherwise, and lines that are no jobs.
    pub failed: u64,
    /// What all jobs cost that have ended.
    pub spent_usd: UsdNanos,
    /// The dearest of them.
    pub dearest_usd: UsdNanos,
    /// Nothing is left to do.
    pub finished: bool,
    /// It was taken back: what was not submitted never is.
    pub cancelled: bool,
}

/// What another terminal asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Go on.
    #[default]
    Run,
    /// Submit no more for now.
    Pause,
    /// Submit no more, and take back what is out.
    Cancel,
}

/// The folder of one backfill, ours alone while it exists.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What it is of.
    pub manifest: Manifest,
    /// How far it is.
    pub checkpoint: Checkpoint,
    /// Which lines are in the output, a bit each.
    done: Vec<u64>,
    /// Whether there was no checkpoint: whatever ran before is known to the server only.
    pub fresh: bool,
    results: Appending,
    errors: Appending,
    log: Appending,
    _lock: File,
}

/// A file that only grows.
#[derive(Debug)]
struct Appending {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
}

impl Appending {
    /// Cuts off what was written after the checkpoint.
    fn open(path: PathBuf, len: u64) -> Result<Self, BackfillError> {
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(at(&path))?;
        file.set_len(len).map_err(at(&path))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 18, file), len })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackfillError> {
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(at(&self.path))
    }

    fn sync(&mut self) -> Result<(), BackfillError> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(at(&self.path))
    }
}

impl Folder {
    /// Opens or makes the folder of a backfill. `survey` reads the file when that was not done before, or to see whether it
    /// changed; its second argument is where the index goes.
    pub fn open(
        options: &Options,
        now: Micros,
        survey: impl FnOnce(&Path, &Path) -> std::io::Result<Survey>,
    ) -> Result<Self, BackfillError> {
        let path = options.folder.clone();
        fs::create_dir_all(&path).map_err(at(&path))?;
        let lock = lock(&path)?;
        let index = path.join("index.bin");
        let modified_us = modified(&options.file)?;
        let manifest = match read::<Manifest>(&path.join("manifest.json"))? {
            Some(found) if found.name != options.name || found.tenant != options.tenant => {
                return Err(BackfillError::Foreign { path, name: found.name, tenant: found.tenant });
            }
            Some(found) => {
                let bytes = fs::metadata(&options.file).map_err(at(&options.file))?.len();
                if bytes == found.survey.bytes && modified_us == found.modified_us {
                    found
                } else {
                    let scratch = path.join("index.new");
                    let again = survey(&options.file, &scratch).map_err(at(&options.file))?;
                    fs::remove_file(&scratch).map_err(at(&scratch))?;
                    if again.sha256 != found.survey.sha256 {
                        return Err(BackfillError::Changed(options.file.clone()));
                    }
                    Manifest { modified_us, ..found }
                }
            }
            None => Manifest {
                file: options.file.clone(),
                name: options.name.clone(),
                tenant: options.tenant.clone(),
                begun_us: now,
                modified_us,
                survey: survey(&options.file, &index).map_err(at(&options.file))?,
            },
        };
        replace(&path, "manifest.json", &manifest)?;
        let found = read::<Checkpoint>(&path.join("checkpoint.json"))?;
        let fresh = found.is_none();
        let checkpoint = found.unwrap_or_default();
        let open = |name: &str, len| Appending::open(path.join(name), len);
        let mut folder = Self {
            results: open("results.jsonl", checkpoint.results_len)?,
            errors: open("errors.jsonl", checkpoint.errors_len)?,
            log: open("done.log", checkpoint.done_len)?,
            done: vec![0; usize::try_from(manifest.survey.lines / 64 + 1).unwrap_or(usize::MAX)],
            manifest,
            checkpoint,
            fresh,
            path,
            _lock: lock,
        };
        folder.read_done()?;
        Ok(folder)
    }

    fn read_done(&mut self) -> Result<(), BackfillError> {
        let path = self.log.path.clone();
        let mut log = BufReader::new(File::open(&path).map_err(at(&path))?);
        let mut number = [0; 8];
        while log.read_exact(&mut number).is_ok() {
            self.set(u64::from_le_bytes(number));
        }
        Ok(())
    }

    fn set(&mut self, line: u64) {
        if let Some(word) = usize::try_from(line / 64).ok().and_then(|at| self.done.get_mut(at)) {
            *word |= 1 << (line % 64);
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the index is.
    pub fn index(&self) -> PathBuf {
        self.path.join("index.bin")
    }

    /// Whether a line is in the output.
    pub fn is_done(&self, line: u64) -> bool {
        usize::try_from(line / 64)
            .ok()
            .and_then(|at| self.done.get(at))
            .is_some_and(|word| word & (1 << (line % 64)) != 0)
    }

    /// How many lines up to `line` are in the output.
    pub fn done_up_to(&self, line: u64) -> u64 {
        (1..=line).filter(|n| self.is_done(*n)).count() as u64
    }

    /// Writes a line of `results.jsonl` for line `line` of the input.
    pub fn succeeded(&mut self, line: u64, text: &str) -> Result<(), BackfillError> {
        self.results.write(text.as_bytes())?;
        self.results.write(b"\n")?;
        self.checkpoint.succeeded += 1;
        self.settle(line)
    }

    /// Writes a line of `errors.jsonl` for line `line` of the input.
    pub fn failed(&mut self, line: u64, text: &str) -> Result<(), BackfillError> {
        self.errors.write(text.as_bytes())?;
        self.errors.write(b"\n")?;
        self.checkpoint.failed += 1;
        self.settle(line)
    }

    /// A blank line needs no output.
    pub fn blank(&mut self, line: u64) -> Result<(), BackfillError> {
        if self.is_done(line) { Ok(()) } else { self.settle(line) }
    }

    fn settle(&mut self, line: u64) -> Result<(), BackfillError> {
        self.log.write(&line.to_le_bytes())?;
        self.set(line);
        Ok(())
    }

    /// Makes everything so far last: first the output, then the checkpoint that counts it.
    pub fn keep(&mut self) -> Result<(), BackfillError> {
        for file in [&mut self.results, &mut self.errors, &mut self.log] {
            file.sync()?;
        }
        (self.checkpoint.results_len, self.checkpoint.errors_len) = (self.results.len, self.errors.len);
        self.checkpoint.done_len = self.log.len;
        replace(&self.path, "checkpoint.json", &self.checkpoint)
    }

    /// What another terminal asks for.
    pub fn asked(&self) -> Control {
        asked(&self.path)
    }
}

/// What was last asked of the backfill in that folder.
pub fn asked(folder: &Path) -> Control {
    // A request that does not read is none.
    read(&folder.join("control.json")).ok().flatten().unwrap_or_default()
}

/// Asks something of the backfill in that folder, whether it runs or not.
pub fn ask(folder: &Path, control: Control) -> Result<(), BackfillError> {
    replace(folder, "control.json", &control)
}

/// Manifest and checkpoint of a folder, and whether a process works on it.
pub fn look(folder: &Path) -> Result<Option<(Manifest, Checkpoint, bool)>, BackfillError> {
    let Some(manifest) = read::<Manifest>(&folder.join("manifest.json"))? else { return Ok(None) };
    let checkpoint = read(&folder.join("checkpoint.json"))?.unwrap_or_default();
    let busy = match lock(folder) {
        Ok(_) => false,
        Err(BackfillError::Busy(_)) => true,
        Err(other) => return Err(other),
    };
    Ok(Some((manifest, checkpoint, busy)))
}

fn lock(folder: &Path) -> Result<File, BackfillError> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackfillError::Busy(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(BackfillError::Io { path, source }),
    }
}

fn modified(file: &Path) -> Result<Micros, BackfillError> {
    let when = fs::metadata(file).and_then(|about| about.modified()).map_err(at(file))?;
    let since = when.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Micros::new(schemas::time::micros(since)))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, BackfillError> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(source) => Err(BackfillError::State { path: path.to_owned(), source }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BackfillError::Io { path: path.to_owned(), source }),
    }
}

/// Replaces a small file so that a crash leaves the old one or the new one.
fn replace(folder: &Path, name: &str, value: &impl Serialize) -> Result<(), BackfillError> {
    let (path, scratch) = (folder.join(name), folder.join(format!("{name}.new")));
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| BackfillError::State { path: path.clone(), source })?;
    let write = || {
        let mut file = File::create(&scratch)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&scratch, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(at(&path))
}
