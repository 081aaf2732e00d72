//! End-to-end runs of the real binary, and the tests that hold the map of the house.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../ingest/tests/kafka/broker.rs"]
#[expect(dead_code, reason = "ingest's tests need more of it")]
mod broker;
mod platform;
#[path = "../lake/tests/ports.rs"]
mod ports;
#[path = "../lake/tests/s3_server.rs"]
mod s3_server;
#[path = "../lake/tests/servers.rs"]
#[expect(dead_code, reason = "the lake's tests need more of it")]
mod servers;
mod sources;

mod bad_input;
mod consistency;
mod crash;
mod description;
mod house;
mod ingest;
mod lifecycle;
mod notified;
mod orders_killed;
mod publishing;
mod readers;
mod recompute;
mod replay;
mod screen;
mod services;
mod tokens;
mod upkeep;
