//! The addresses of the streams of predictions that are watched live. A prediction's address comes with its submission, and
//! the reader of its stream takes it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Addresses by the prediction's id.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<String, String>>);

impl Streams {
    pub(super) fn add(&self, run: &str, url: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run.to_owned(), url);
    }

    pub(super) fn take(&self, run: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run)
    }
}
