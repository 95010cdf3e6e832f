//! A load generator for certificate authorities, as a library, so that tests start what ships.
//!
//! A [`plan`] says what is to be asked for and a [`shape`] when. [`run()`] makes what is [asked](asks), keeps
//! the [`pace`], sends to a [`target`] and books what came of it in a [`ledger`], window by window of its [`course`], while others
//! [`check`] the answers and read the [`usage`] of the machine, whose speed is
//! [calibrated](calibration) before and after. The [`report`] shows all of it.

pub mod asks;
pub mod calibration;
pub mod check;
pub mod course;
pub mod ledger;
pub mod pace;
pub mod plan;
pub mod report;
pub mod run;
pub mod shape;
pub mod target;
pub mod usage;

pub use run::run;
