//! The providers of machines, a file each; none imports another. What all of them need of HTTP is in [`http`], how often an
//! account is asked in [`pace`].

pub mod fly;
pub mod http;
pub mod lambda;
pub mod pace;
