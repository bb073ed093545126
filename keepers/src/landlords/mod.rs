//! The providers of machines, a file each; none imports another. What all of them need of HTTP is in [`http`], how often an
//! account is asked in [`pace`]; [`mark`] and [`hold`] are for those whose only field for us is a name, and for those that say
//! how long to keep quiet.

pub mod hold;
pub mod http;
pub mod mark;
pub mod pace;

pub mod fly;
pub mod lambda;
pub mod railway;
pub mod render;
