//! A load generator for certificate authorities, as a library, so that tests start what ships.
//!
//! [`plan`] is what is to be asked for, [`pace`] says when, [`client`] asks, [`run()`] brings them
//! together and [`report`] says what became of each request.

pub mod client;
pub mod pace;
pub mod plan;
pub mod report;
pub mod run;

pub use run::run;
