//! All predictions of one simulator, in the order of their creation, and the pages of their list.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::prediction::{Draft, Prediction};

/// More than a test creates; creates beyond that are refused. Predictions are kept for ever, as Replicate does.
const PREDICTIONS_MAX: usize = 1_000_000;

/// Replicate's.
const PAGE: usize = 100;

/// All predictions.
#[derive(Debug)]
pub(crate) struct Archive {
    seed: u64,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// A prediction's number is its place.
    rows: Vec<Arc<Prediction>>,
    by_id: HashMap<String, usize>,
}

/// Where a page lies, seen from another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// Before this number, that is: older.
    Older(usize),
    /// After this number.
    Newer(usize),
}

/// Part of the list, newest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Arc<Prediction>>,
    pub(crate) next: Option<Cursor>,
    pub(crate) previous: Option<Cursor>,
}

impl Archive {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, shelf: Mutex::default() }
    }

    /// Takes in a new prediction; `None` when there are too many.
    pub(crate) fn enter(&self, draft: Draft) -> Option<Arc<Prediction>> {
        let mut shelf = self.shelf();
        let number = shelf.rows.len();
        if number >= PREDICTIONS_MAX {
            return None;
        }
        let prediction = Arc::new(Prediction::new(number, id(self.seed, number), draft, Instant::now()));
        shelf.by_id.insert(prediction.id.clone(), number);
        shelf.rows.push(Arc::clone(&prediction));
        Some(prediction)
    }

    /// The prediction of this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Prediction>> {
        let shelf = self.shelf();
        shelf.by_id.get(id).map(|&number| Arc::clone(&shelf.rows[number]))
    }

    /// One page of the predictions that are `wanted`: the newest without a cursor.
    pub(crate) fn page(&self, cursor: Option<Cursor>, wanted: impl Fn(&Prediction) -> bool) -> Page {
        let shelf = self.shelf();
        let all = &shelf.rows[..];
        let wanted = |row: &&Arc<Prediction>| wanted(row);
        let mut rows: Vec<_> = match cursor {
            None => all.iter().rev().filter(wanted).take(PAGE).cloned().collect(),
            Some(Cursor::Older(number)) => {
                all[..number.min(all.len())].iter().rev().filter(wanted).take(PAGE).cloned().collect()
            }
            Some(Cursor::Newer(number)) => {
                all.iter().skip(number.saturating_add(1)).filter(wanted).take(PAGE).cloned().collect()
            }
        };
        if matches!(cursor, Some(Cursor::Newer(_))) {
            rows.reverse();
        }
        let next =
            rows.last().map(|row| row.number).filter(|&oldest| all[..oldest].iter().any(|row| wanted(&row)));
        let previous = rows
            .first()
            .map(|row| row.number)
            .filter(|&newest| all[newest + 1..].iter().any(|row| wanted(&row)));
        Page { next: next.map(Cursor::Older), previous: previous.map(Cursor::Newer), rows }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cursor {
    /// As it stands in a URL.
    pub(crate) fn encode(self) -> String {
        URL_SAFE_NO_PAD.encode(match self {
            Self::Older(number) => format!("p={number}"),
            Self::Newer(number) => format!("r=1&p={number}"),
        })
    }

    /// `None` for a text that is no cursor.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        if let Some(number) = text.strip_prefix("r=1&p=") {
            return number.parse().ok().map(Self::Newer);
        }
        text.strip_prefix("p=")?.parse().ok().map(Self::Older)
    }
}

/// 26 characters of base32, as Replicate's ids are.
pub(crate) fn id(seed: u64, number: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let name = format!("{seed}/{number}");
    let hash = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    hash.as_ref().iter().take(26).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}
