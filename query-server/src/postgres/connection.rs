use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use pgwire::{api::ClientInfo, messages::startup::SecretKey};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use crate::error::QueryError;

/// What the server keeps for one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    settings: Mutex<Settings>,
    running: Mutex<CancellationToken>,
}

impl Connection {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings: Mutex::new(settings), running: Mutex::new(CancellationToken::new()) }
    }

    /// The connection's own settings, locked. Never held while waiting.
    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for the statement that starts now. A cancel request that comes later stops this
    /// one, and none that came earlier does.
    pub(crate) fn start_statement(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        token
    }

    fn cancel(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

/// The connection behind a client.
///
/// # Errors
/// When it has not started up, which the protocol does not allow.
pub(crate) fn of<C: ClientInfo + ?Sized>(client: &C) -> Result<Arc<Connection>, QueryError> {
    client
        .session_extensions()
        .get::<Arc<Connection>>()
        .map(|connection| Arc::clone(connection.as_ref()))
        .ok_or_else(|| QueryError::Request {
            problem: "the connection has not started up".into(),
            detail: None,
        })
}

/// Finds a connection by the key it was given, for cancel requests, which come on connections of
/// their own.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    by_key: Mutex<HashMap<(i32, Bytes), Arc<Connection>>>,
}

impl Connections {
    pub(crate) fn add(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        key: (i32, &SecretKey),
    ) -> Seat {
        let key = (key.0, key.1.to_bytes());
        self.lock().insert(key.clone(), Arc::clone(connection));
        Seat { connections: Arc::clone(self), key }
    }

    /// Stops what runs on the connection with this key. A wrong key does nothing.
    pub(crate) fn cancel(&self, pid: i32, secret: &SecretKey) {
        if let Some(connection) = self.lock().get(&(pid, secret.to_bytes())) {
            connection.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(i32, Bytes), Arc<Connection>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection findable until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    connections: Arc<Connections>,
    key: (i32, Bytes),
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(connection) = self.connections.lock().remove(&self.key) {
            connection.cancel();
        }
    }
}
