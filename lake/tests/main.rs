//! The lake with real parts around it: other engines, servers, catalogs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;
mod parts;

mod engines;
