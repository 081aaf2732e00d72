//! The doors, over a real lake in a temporary folder.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "whatever is missing fails the test, with its place"
)]

mod harness;
mod http;
mod live;
mod past;
mod psql;
mod wire;
