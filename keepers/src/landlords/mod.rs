//! The providers of machines, a file each; none imports another. What all of them need of HTTP is in [`http`].

pub mod golem;
pub mod http;
