//! The line between Medlake and a server, which can be cut, can stand still, and can be a slow one.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

#[derive(Debug, Default)]
struct State {
    cut: bool,
    stalled: bool,
    /// Bytes a second, both ways and of all connections together.
    rate: Option<u32>,
    /// When those that passed have passed at that rate.
    passed: Option<Instant>,
    open: Vec<TcpStream>,
}

/// Passes on what comes to its port, until it is told not to.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) port: u16,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Line {
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let line = Self { port, shared: Arc::clone(&shared) };
        // Ends with the test's process; it holds nothing but sockets.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.cut {
                    continue;
                }
                let ends = [(&client, &server), (&server, &client)];
                let ends = ends.map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()));
                state.open.extend([client, server]);
                drop(state);
                for (from, to) in ends {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || carry(from, to, &shared));
                }
            }
        });
        line
    }

    /// Cuts all connections, and refuses new ones.
    pub(crate) fn cut(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.cut = true;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets nothing through, and says so to nobody.
    pub(crate) fn stall(&self) {
        self.shared.0.lock().unwrap().stalled = true;
    }

    /// Lets no more through than so many bytes a second.
    pub(crate) fn slow_down(&self, rate: u32) {
        self.shared.0.lock().unwrap().rate = Some(rate);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.shared.0.lock().unwrap();
        (state.cut, state.stalled) = (false, false);
        state.rate = None;
        self.shared.1.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let _ = from.set_nodelay(true);
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = shared.1.wait_while(state, |state| state.stalled && !state.cut);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let takes =
            state.rate.map(|rate| Duration::from_secs(1) * u32::try_from(count).unwrap() / rate);
        state.passed = takes.map(|takes| state.passed.map_or(now, |p| p.max(now)) + takes);
        let wait = state.passed.map(|passed| passed - now);
        drop(state);
        #[expect(clippy::disallowed_methods, reason = "a thread that does nothing else")]
        wait.into_iter().for_each(thread::sleep);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
