//! The one binary of Mintmark as a library, so that tests start what ships: configuration, command
//! line, wiring.

pub mod config;
