//! The model catalog: which models exist, and the token each has in subjects.

use serde::{Deserialize, Serialize};

use crate::{ModelToken, token::TokenError};

/// The models an installation serves, in the order they were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Catalog {
    models: Vec<(String, ModelToken)>,
}

/// Why a list of names is no catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Two names fall on one token.
    #[error("models `{0}` and `{1}` have the same subject token `{2}`; rename one")]
    SameToken(String, String, ModelToken),
    /// A name leaves nothing to build a token from, or too much.
    #[error("model name `{0}`: {1}")]
    Name(String, TokenError),
    /// No model at all.
    #[error("models must name at least one model")]
    Empty,
}

/// `llama-3.2-1b` → `llama-3-2-1b`: lower case, and every run of other characters becomes one dash.
pub fn token_of(name: &str) -> Result<ModelToken, TokenError> {
    let mut token = String::with_capacity(name.len());
    for c in name.to_ascii_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => token.push(c),
            _ if token.ends_with('-') => {}
            _ => token.push('-'),
        }
    }
    ModelToken::try_from(token.trim_matches('-'))
}

impl Catalog {
    /// Checks that every name has a token of its own.
    pub fn new(names: Vec<String>) -> Result<Self, CatalogError> {
        let mut models: Vec<(String, ModelToken)> = Vec::with_capacity(names.len());
        for name in names {
            let token = token_of(&name).map_err(|e| CatalogError::Name(name.clone(), e))?;
            if let Some((other, _)) = models.iter().find(|(_, t)| *t == token) {
                return Err(CatalogError::SameToken(other.clone(), name, token));
            }
            models.push((name, token));
        }
        if models.is_empty() { Err(CatalogError::Empty) } else { Ok(Self { models }) }
    }

    /// The tokens, in order.
    pub fn tokens(&self) -> impl Iterator<Item = &ModelToken> {
        self.models.iter().map(|(_, token)| token)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|(name, _)| name.as_str())
    }

    /// The token of a model given by its name or by its token.
    pub fn find(&self, name: &str) -> Option<&ModelToken> {
        self.models.iter().find(|(n, t)| n == name || t.as_str() == name).map(|(_, token)| token)
    }
}

impl TryFrom<Vec<String>> for Catalog {
    type Error = CatalogError;
    fn try_from(names: Vec<String>) -> Result<Self, CatalogError> {
        Self::new(names)
    }
}

impl From<Catalog> for Vec<String> {
    fn from(catalog: Catalog) -> Self {
        catalog.models.into_iter().map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_becomes_a_token() {
        assert_eq!(token_of("llama-3.2-1b").unwrap().as_str(), "llama-3-2-1b");
        assert_eq!(token_of("meta-llama/Llama 3.2: 1B").unwrap().as_str(), "meta-llama-llama-3-2-1b");
        assert!(token_of("///").is_err());
    }

    #[test]
    fn two_models_with_one_token_are_a_configuration_error() {
        let error = Catalog::new(vec!["qwen-2.5".into(), "qwen 2.5".into()]).unwrap_err();
        assert!(error.to_string().contains("qwen-2-5"));
    }

    proptest! {
        #[test]
        fn a_token_is_its_own_token(name in ".{1,60}") {
            if let Ok(token) = token_of(&name) {
                prop_assert_eq!(token_of(token.as_str()).unwrap(), token);
            }
        }
    }
}
