//! Sources with the real servers they read.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod kafka;
