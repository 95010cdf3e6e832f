//! `Debug` of messages that carry a bearer token: everything but the token.

use std::fmt;

use crate::spire::types::{Jwtsvid, Witsvid};

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Witsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witsvid")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}
