//! End-to-end runs of the real binary, and the tests that hold the map of the house.

mod platform;
mod sources;

mod bad_input;
mod crash;
mod house;
mod lifecycle;
mod readers;
mod recompute;
mod replay;
mod screen;
