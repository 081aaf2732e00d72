//! The lake with real parts around it: other engines, servers, catalogs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod digest;
mod engine_process;
mod fixtures;
mod histories;
mod parts;
mod ports;
mod s3_server;
mod servers;

mod catalogs;
mod delta;
mod duckdb;
mod engines;
mod foreign;
mod layout;
mod outside;
mod pruning;
mod rest;
mod s3;
mod scan;
mod spark;
