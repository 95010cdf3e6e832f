//! Stand-ins of the services that Mintmark keeps keys in, for tests and benches; never part of the product.

pub mod fake_kms;
