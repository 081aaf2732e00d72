//! Ports of servers that go away and come again.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::TcpListener,
    ops::Range,
};

/// Below those that Linux gives to outgoing connections, one of which would else have the port when its
/// server comes again.
const PORTS: Range<u64> = 10_000..32_000;

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish() % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + random).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
