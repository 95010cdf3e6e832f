//! `mintmark dev`: the real server on throw-away keys, one mint of each kind, and a stranger's judgement.

mod home;
mod keys;
mod report;
mod session;

pub use home::{Home, HomeError};
pub use keys::{DevKeyError, KeyKind};
pub use report::Report;
pub use session::{DevError, Session};
