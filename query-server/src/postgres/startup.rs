use std::{collections::HashMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use futures::Sink;
use pgwire::{
    api::{
        ClientInfo, METADATA_DATABASE, METADATA_USER, PidSecretKeyGenerator,
        auth::{
            ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
            save_startup_parameters_to_metadata,
        },
        cancel::CancelHandler,
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, PgWireFrontendMessage, cancel::CancelRequest},
};

use super::{
    PostgresDoor,
    connection::{self, Connection},
    rows::to_wire,
    settings::Settings,
};

#[async_trait]
impl StartupHandler for PostgresDoor {
    /// Any user and password are taken: there are no accounts yet. So only this machine may come.
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let PgWireFrontendMessage::Startup(startup) = message else { return Ok(()) };
        let ip = client.socket_addr().ip();
        if !ip.to_canonical().is_loopback() {
            return Err(fatal("28000", format!("connections from {ip} are not allowed"), None));
        }
        protocol_negotiation(client, &startup).await?;
        save_startup_parameters_to_metadata(client, &startup);
        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
        let database = client.metadata().get(METADATA_DATABASE).cloned();
        if let Some(database) = database.filter(|name| *name != self.catalog) {
            let hint = format!("the database is \"{}\"", self.catalog);
            let message = format!("database \"{database}\" does not exist");
            return Err(fatal("3D000", message, Some(hint)));
        }
        let schema = self.engine.default_session().schema;
        let mut settings = Settings::new(&user, &schema, self.engine.statement_timeout());
        for (name, value) in &startup.parameters {
            match name.as_str() {
                "user" | "database" | "replication" => {}
                "options" => {
                    for (name, value) in command_line(value) {
                        settings.set_at_start(name, value).map_err(to_wire)?;
                    }
                }
                _ => settings.set_at_start(name, value).map_err(to_wire)?,
            }
        }
        let report = Report(settings.report());
        let (pid, secret) = self.pids.generate(client);
        let connection = Arc::new(Connection::new(settings));
        let seat = self.connections.add(&connection, (pid, &secret));
        client.set_pid_and_secret_key(pid, secret);
        client.session_extensions().insert(connection);
        client.session_extensions().insert(seat);
        finish_authentication(client, &report).await
    }
}

/// `-c name=value` and `--name=value`, as drivers write them.
fn command_line(options: &str) -> impl Iterator<Item = (&str, &str)> {
    options.split_whitespace().filter_map(|word| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or(word);
        word.split_once('=')
    })
}

fn fatal(code: &str, message: String, hint: Option<String>) -> PgWireError {
    let mut info = ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message);
    info.severity_nonlocalized = Some("FATAL".to_owned());
    info.hint = hint;
    PgWireError::UserError(Box::new(info))
}

struct Report(Vec<(String, String)>);

impl ServerParameterProvider for Report {
    fn server_parameters<C: ClientInfo>(&self, _client: &C) -> Option<HashMap<String, String>> {
        Some(self.0.iter().cloned().collect())
    }
}

#[async_trait]
impl CancelHandler for PostgresDoor {
    async fn on_cancel_request(&self, request: CancelRequest) {
        self.connections.cancel(request.pid, &request.secret_key);
    }
}

/// What a door does with statements that need no engine.
pub(super) fn connection_of<C: ClientInfo>(client: &C) -> PgWireResult<Arc<Connection>> {
    connection::of(client).map_err(to_wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_drivers_are_read() {
        let all: Vec<_> = command_line("-c statement_timeout=5s -cTimeZone=UTC --a=b x").collect();
        assert_eq!(all, [("statement_timeout", "5s"), ("TimeZone", "UTC"), ("a", "b")]);
    }
}
