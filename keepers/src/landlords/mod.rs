//! The providers of machines, a file each; none imports another. What all of them need of HTTP is in [`http`], how often an
//! account is asked in [`pace`] and [`hold`]; [`mark`] is for those whose only field for us is a name, `pen` writes notes. [`quick`]
//! wraps any of them for an account that is simulated.

pub mod hold;
pub mod http;
pub mod mark;
pub mod pace;
mod pen;
pub mod quick;

pub mod fly;
pub mod golem;
pub mod lambda;
pub mod railway;
pub mod render;
