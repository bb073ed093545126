//! One file per provider, each behind [`crate::provider::Provider`].
