//! Empty until its first module.
