//! The `mintmark` binary.
fn main() {}
