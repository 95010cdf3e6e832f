//! What every state store owes: one suite, run by each implementation.
