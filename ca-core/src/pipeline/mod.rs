//! From a grant to a released SVID, for many at once.

pub mod admission;
