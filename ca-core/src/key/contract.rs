//! What every key store owes: one suite, run by each implementation.
