//! Where a secret of a pool is: a variable or a file. The configuration itself never holds one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::rule::Rule;

/// A secret by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret {
    /// The key that names it, for messages: `api_key_env`.
    key: String,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Variable(String),
    File(PathBuf),
}

impl Secret {
    /// At most one of the two; `name` is the part of the keys before `_env` and `_file`.
    pub(super) fn named(
        pool: &str,
        name: &str,
        variable: Option<String>,
        file: Option<PathBuf>,
        folder: &Path,
    ) -> Result<Option<Self>, Rule> {
        let key = |suffix: &str| format!("{pool}.{name}_{suffix}");
        match (variable, file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Rule::new(key("file"), format!("only one of {name}_env and {name}_file may be given")))
            }
            (Some(variable), None) => Ok(Some(Self { key: key("env"), source: Source::Variable(variable) })),
            (None, Some(file)) => {
                Ok(Some(Self { key: key("file"), source: Source::File(folder.join(file)) }))
            }
        }
    }

    /// Reads the secret.
    pub(super) fn read(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String, Rule> {
        let refuse = |what: String| Rule::new(self.key.clone(), what);
        let text = match &self.source {
            Source::Variable(name) => variable(name)
                .ok_or_else(|| refuse(format!("the environment variable `{name}` is not set or empty")))?,
            Source::File(path) => fs::read_to_string(path)
                .map_err(|error| refuse(format!("`{}` cannot be read: {error}", path.display())))?,
        };
        let text = text.trim();
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(refuse("the secret must be one line of text".into()));
        }
        Ok(text.to_owned())
    }
}
