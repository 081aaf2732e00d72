//! The doors, over a real lake in a temporary folder.

mod harness;
mod http;
mod live;
mod psql;
mod wire;
