use std::{fmt::Debug, sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::{Sink, SinkExt, StreamExt};
use medlake_lake::ReadView;
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, PgWireConnectionState,
        query::{SimpleQueryHandler, send_ready_for_query},
        results::{QueryResponse, Response, Tag},
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        data::RowDescription,
        response::{CommandComplete, EmptyQueryResponse, TransactionStatus},
        simplequery::Query,
        startup::ParameterStatus,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    PostgresDoor, check_transaction,
    connection::Connection,
    rows::{fields, respond, respond_texts, to_wire},
    settings::Settings,
    startup::connection_of,
    value::utc,
};
use crate::{
    error::QueryError,
    naming::column_names,
    statement::{Command, ParsedQuery},
    stream::Limits,
};

/// What a statement without an engine answers.
pub(super) enum Answer {
    Tag(&'static str),
    Rows(QueryResponse),
    /// A setting changed that the client wants to hear of.
    Changed {
        name: &'static str,
        value: String,
    },
}

impl PostgresDoor {
    /// Answers everything that is not a query, and moves the transaction on.
    pub(super) fn answer(
        command: Command,
        connection: &Connection,
        status: &mut TransactionStatus,
    ) -> Result<Answer, QueryError> {
        Ok(match command {
            Command::Query(_) => {
                return Err(QueryError::Unsupported { what: "a query in this place".into() });
            }
            Command::Set { name, value } => {
                let mut settings = connection.settings();
                let tag = if value.is_some() { "SET" } else { "RESET" };
                settings.set(&name, value)?;
                match Settings::reported(&name) {
                    Some(reported) => {
                        let value = settings.show(reported).unwrap_or_default().to_owned();
                        Answer::Changed { name: reported, value }
                    }
                    None => Answer::Tag(tag),
                }
            }
            Command::ResetAll { tag } => {
                connection.settings().reset();
                Answer::Tag(tag)
            }
            Command::Show { name } if name == "all" => {
                let settings = connection.settings();
                let rows = settings
                    .all()
                    .map(|(name, value)| vec![name.to_owned(), value.to_owned(), String::new()]);
                let columns = ["name", "setting", "description"];
                Answer::Rows(respond_texts(&columns, rows.collect(), "SHOW"))
            }
            Command::Show { name } => {
                let value = connection.settings().show(&name)?.to_owned();
                Answer::Rows(respond_texts(&[&name], vec![vec![value]], "SHOW"))
            }
            // Each statement reads one view of its own; there is nothing to begin or to undo.
            Command::Begin => {
                *status = status.to_in_transaction_state();
                Answer::Tag("BEGIN")
            }
            Command::Commit => {
                let failed = *status == TransactionStatus::Error;
                *status = status.to_idle_state();
                Answer::Tag(if failed { "ROLLBACK" } else { "COMMIT" })
            }
            Command::Rollback => {
                *status = status.to_idle_state();
                Answer::Tag("ROLLBACK")
            }
            Command::Nothing { tag } => Answer::Tag(tag),
        })
    }

    /// How far a statement of this connection may go.
    pub(super) fn limits(connection: &Connection, cancel: CancellationToken) -> Limits {
        Limits { timeout: connection.settings().statement_timeout(), rows: None, cancel }
    }

    /// Plans and starts a query of a connection.
    async fn start(
        &self,
        view: &Arc<ReadView>,
        query: &ParsedQuery,
        connection: &Connection,
        limits: &Limits,
    ) -> Result<QueryResponse, QueryError> {
        let settings = connection.settings().clone();
        let schemas = view.catalog().schema_names();
        let session = settings.session(|name| schemas.iter().any(|schema| schema == name));
        let planned = self.engine.plan(view, &session, query).await?;
        let rows = self.engine.run(planned, limits).await?;
        let columns = fields(rows.schema(), column_names(&query.statement), None);
        let zone = match settings.zone() {
            Some(zone) => zone,
            None => utc().map_err(|e| QueryError::Unsupported { what: e.to_string() })?,
        };
        Ok(respond(rows, columns, query.tag, zone))
    }
}

/// Sends the rows as they come, and says how the statement ended.
pub(super) async fn send_rows<C>(
    client: &mut C,
    mut response: QueryResponse,
    describe: bool,
) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    if describe {
        let columns = response.row_schema().iter().map(Into::into).collect();
        let message = PgWireBackendMessage::RowDescription(RowDescription::new(columns));
        client.feed(message).await?;
    }
    let tag = response.command_tag().to_owned();
    let mut count = 0;
    while let Some(row) = response.data_rows().next().await {
        client.feed(PgWireBackendMessage::DataRow(row?)).await?;
        count += 1;
    }
    send_tag(client, Tag::new(&tag).with_rows(count)).await
}

pub(super) async fn send_tag<C>(client: &mut C, tag: Tag) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let message = PgWireBackendMessage::CommandComplete(CommandComplete::from(tag));
    client.feed(message).await?;
    Ok(())
}

pub(super) async fn send_change<C>(client: &mut C, name: &str, value: String) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let status = ParameterStatus::new(name.to_owned(), value);
    client.feed(PgWireBackendMessage::ParameterStatus(status)).await?;
    Ok(())
}

#[async_trait]
impl SimpleQueryHandler for PostgresDoor {
    /// One message may hold several statements. Each is run to its last row before the next is
    /// started; all of them read the same view, as they are one transaction in PostgreSQL.
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let connection = connection_of(client)?;
        let cancel = connection.start_statement();
        let commands = self.engine.read(&query.query).map_err(|error| {
            self.count(Instant::now(), Some(&error));
            to_wire(error)
        })?;
        if commands.is_empty() {
            client
                .feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))
                .await?;
        }
        let view = self.engine.view();
        let mut status = client.transaction_status();
        for command in commands {
            let started = Instant::now();
            let limits = Self::limits(&connection, cancel.clone());
            let answer = match check_transaction(status, &command) {
                Err(error) => Err(error),
                Ok(()) => match command {
                    Command::Query(query) => {
                        self.start(&view, &query, &connection, &limits).await.map(Answer::Rows)
                    }
                    other => Self::answer(other, &connection, &mut status),
                },
            };
            client.set_transaction_status(status);
            match answer {
                Err(error) => {
                    self.count(started, Some(&error));
                    return Err(to_wire(error));
                }
                Ok(Answer::Rows(response)) => {
                    let sent = send_rows(client, response, true).await;
                    self.count_sent(started, &sent);
                    sent?;
                }
                Ok(Answer::Tag(tag)) => send_tag(client, Tag::new(tag)).await?,
                Ok(Answer::Changed { name, value }) => {
                    send_tag(client, Tag::new("SET")).await?;
                    send_change(client, name, value).await?;
                }
            }
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, _client: &mut C, _query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(to_wire(QueryError::Unsupported { what: "a query in this place".into() }))
    }
}

impl PostgresDoor {
    /// Counts a statement whose rows were sent, or were not.
    pub(super) fn count_sent(&self, started: Instant, sent: &PgWireResult<()>) {
        let error = match sent {
            Ok(()) => None,
            Err(PgWireError::UserError(info)) if info.code == "57014" => {
                Some(QueryError::Cancelled)
            }
            Err(error) => Some(QueryError::Request { problem: error.to_string(), detail: None }),
        };
        self.count(started, error.as_ref());
    }
}
