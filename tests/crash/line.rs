//! The line between Medlake and a server, which can be cut and can stand still.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

#[derive(Debug, Default)]
struct State {
    cut: bool,
    stalled: bool,
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

    pub(crate) fn heal(&self) {
        let mut state = self.shared.0.lock().unwrap();
        (state.cut, state.stalled) = (false, false);
        self.shared.1.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let _ = from.set_nodelay(true);
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(shared.1.wait_while(state, |state| state.stalled && !state.cut));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
