use std::{fmt::Debug, ops::DerefMut, sync::Arc, time::Instant};

use async_trait::async_trait;
use datafusion::arrow::datatypes::Schema;
use futures::{Sink, SinkExt};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type,
        portal::{Format, Portal, PortalExecutionState},
        query::{ExtendedQueryHandler, send_partial_query_response},
        results::{FieldFormat, FieldInfo, Response, Tag},
        stmt::QueryParser,
        store::{Entry, PortalStore},
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage, extendedquery::Execute, response::EmptyQueryResponse,
        response::TransactionStatus,
    },
};

use super::{
    PostgresDoor, check_transaction,
    parameters::{Parameter, cast_parameters, parameter_types, value, with_limits},
    rows::{fields, respond, to_wire},
    simple::{Answer, send_change, send_tag},
    startup::connection_of,
    value::utc,
};
use crate::{
    engine::Engine,
    error::{QueryError, SqlCode, SqlProblem},
    naming::column_names,
    statement::Command,
    telemetry::{Door, Telemetry},
};

/// A prepared statement. It is planned to learn its types, and planned again at each execution,
/// over the view of that moment.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    command: Command,
    parameters: Vec<Parameter>,
    columns: Option<Arc<Schema>>,
    names: Option<Vec<String>>,
}

impl Prepared {
    fn fields(&self, format: Option<&Format>) -> Vec<FieldInfo> {
        match (&self.columns, &self.command) {
            (Some(columns), _) => fields(columns, self.names.clone(), format),
            (None, Command::Show { name }) => {
                let names = match name.as_str() {
                    "all" => vec!["name", "setting", "description"],
                    name => vec![name],
                };
                let text = |name: &&str| {
                    let name = (*name).to_owned();
                    FieldInfo::new(name, None, None, Type::TEXT, FieldFormat::Text)
                };
                names.iter().map(text).collect()
            }
            (None, _) => Vec::new(),
        }
    }
}

/// Plans statements that clients prepare.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub(super) engine: Arc<Engine>,
    pub(super) telemetry: Arc<Telemetry>,
}

#[async_trait]
impl QueryParser for Preparer {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let connection = connection_of(client)?;
        let settings = connection.settings().clone();
        let started = Instant::now();
        let prepare = async {
            let mut commands = self.engine.read(sql)?;
            if commands.len() > 1 {
                return Err(SqlProblem::new(
                    SqlCode::SyntaxError,
                    "cannot insert multiple commands into a prepared statement",
                )
                .into());
            }
            let Some(mut command) = commands.pop() else { return Ok(None) };
            check_transaction(client.transaction_status(), &command)?;
            let Command::Query(query) = &mut command else {
                let (parameters, columns, names) = (Vec::new(), None, None);
                return Ok(Some(Prepared { command, parameters, columns, names }));
            };
            let types = with_limits(&query.statement, types);
            cast_parameters(&mut query.statement, &types);
            let view = self.engine.view();
            let schemas = view.catalog().schema_names();
            let session = settings.session(|name| schemas.iter().any(|schema| schema == name));
            let planned = self.engine.plan(&view, &session, query).await?;
            let found = planned
                .plan
                .get_parameter_types()
                .map_err(|error| crate::engine_error::explain(error, sql))?;
            let parameters = parameter_types(&found, &types)?;
            let columns = Some(Arc::new(planned.plan.schema().as_arrow().clone()));
            let names = column_names(&query.statement);
            Ok(Some(Prepared { command, parameters, columns, names }))
        };
        Box::pin(prepare).await.map_err(|error| {
            self.telemetry.count(Door::Postgres, Some(&error), started.elapsed());
            to_wire(error)
        })
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(statement.parameters.iter().map(|p| p.shown.clone()).collect())
    }

    fn get_result_schema(
        &self,
        statement: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        Ok(statement.fields(format))
    }
}

impl PostgresDoor {
    async fn start_portal<C>(
        &self,
        client: &mut C,
        portal: &Portal<Prepared>,
        status: &mut TransactionStatus,
    ) -> Result<Answer, QueryError>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let connection = super::connection::of(client)?;
        let cancel = connection.start_statement();
        let prepared = &portal.statement.statement;
        check_transaction(*status, &prepared.command)?;
        let Command::Query(query) = &prepared.command else {
            return Self::answer(prepared.command.clone(), &connection, status);
        };
        if portal.parameters.len() != prepared.parameters.len() {
            return Err(QueryError::Request {
                problem: format!(
                    "bind message supplies {} parameters, but the prepared statement requires {}",
                    portal.parameters.len(),
                    prepared.parameters.len()
                ),
                detail: None,
            });
        }
        let values = prepared
            .parameters
            .iter()
            .zip(&portal.parameters)
            .enumerate()
            .map(|(i, (parameter, bytes))| {
                let format = match &portal.parameter_format {
                    Format::UnifiedText => FieldFormat::Text,
                    Format::UnifiedBinary => FieldFormat::Binary,
                    Format::Individual(codes) => {
                        codes.get(i).map_or(FieldFormat::Text, |code| FieldFormat::from(*code))
                    }
                };
                value(bytes.as_ref(), format, parameter, i + 1)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let settings = connection.settings().clone();
        let view = self.engine.view();
        let schemas = view.catalog().schema_names();
        let session = settings.session(|name| schemas.iter().any(|schema| schema == name));
        let limits = Self::limits(&connection, cancel);
        let planned = self.engine.plan(&view, &session, query).await?.bind(values)?;
        let rows = self.engine.run(planned, &limits).await?;
        let columns =
            fields(rows.schema(), prepared.names.clone(), Some(&portal.result_column_format));
        let zone = match settings.zone() {
            Some(zone) => zone,
            None => utc().map_err(|e| QueryError::Unsupported { what: e.to_string() })?,
        };
        Ok(Answer::Rows(respond(rows, columns, query.tag, zone)))
    }
}

#[async_trait]
impl ExtendedQueryHandler for PostgresDoor {
    type Statement = Prepared;
    type QueryParser = Preparer;

    fn query_parser(&self) -> Arc<Preparer> {
        Arc::clone(&self.preparer)
    }

    /// Sends rows as they come; pgwire's own way would hold all of them first.
    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                client
                    .feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))
                    .await?;
                client.set_state(PgWireConnectionState::ReadyForQuery);
                return Ok(());
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        let started = Instant::now();
        let state = portal.state();
        let mut state = state.lock().await;
        if matches!(*state, PortalExecutionState::Initial) {
            let mut status = client.transaction_status();
            let answer = Box::pin(self.start_portal(client, &portal, &mut status)).await;
            client.set_transaction_status(status);
            match answer {
                Err(error) => {
                    self.count(started, Some(&error));
                    return Err(to_wire(error));
                }
                Ok(Answer::Rows(response)) => *state = PortalExecutionState::Suspended(response),
                Ok(Answer::Tag(tag)) => {
                    send_tag(client, Tag::new(tag)).await?;
                    client.set_state(PgWireConnectionState::ReadyForQuery);
                    return Ok(());
                }
                Ok(Answer::Changed { name, value }) => {
                    send_tag(client, Tag::new("SET")).await?;
                    send_change(client, name, value).await?;
                    client.set_state(PgWireConnectionState::ReadyForQuery);
                    return Ok(());
                }
            }
        }
        let max_rows = usize::try_from(message.max_rows).unwrap_or(0);
        match state.deref_mut() {
            PortalExecutionState::Suspended(response) => {
                let sent = send_partial_query_response(client, response, max_rows).await;
                match sent {
                    Ok(true) => {}
                    Ok(false) => {
                        *state = PortalExecutionState::Finished;
                        self.count(started, None);
                    }
                    Err(error) => {
                        *state = PortalExecutionState::Finished;
                        let failed = Err(error);
                        self.count_sent(started, &failed);
                        return failed;
                    }
                }
            }
            _ => send_tag(client, Tag::new("SELECT").with_rows(0)).await?,
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    async fn do_query<C>(
        &self,
        _client: &mut C,
        _portal: &Portal<Prepared>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(to_wire(QueryError::Unsupported { what: "a query in this place".into() }))
    }
}
