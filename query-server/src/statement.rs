//! From SQL text to what the doors understand: queries to plan, settings to keep, transaction
//! words to accept, and writes to refuse.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        Array, Expr, Function, FunctionArguments, ObjectName, ObjectNamePart, Query, Reset, Set,
        SetExpr, Statement, TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
    },
    dialect::PostgreSqlDialect,
    keywords::Keyword,
    tokenizer::{Token, Tokenizer},
};
use datafusion_pg_catalog::{pg_catalog::PG_CATALOG_TABLES, sql::PostgresCompatibilityParser};

use crate::{
    engine_error::explain_parser,
    error::{QueryError, SqlCode, SqlProblem},
    versions::parse,
};

/// The most operators of one text. Each may be a level of the tree a statement becomes, which the
/// engine goes down by recursion: a longer chain would overflow the stack and end the process, and
/// planning one takes time with its square.
const OPERATORS_MAX: usize = 1_000;

/// The most tables of one statement, each mention counted.
const RELATIONS_MAX: usize = 100;

/// One statement, understood as far as a door needs.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Something with rows.
    Query(Box<ParsedQuery>),
    /// `set name = value`; no value means the default.
    Set { name: String, value: Option<String> },
    /// `reset all`, `discard all`.
    ResetAll { tag: &'static str },
    /// `show name`.
    Show { name: String },
    /// `begin`.
    Begin,
    /// `commit`.
    Commit,
    /// `rollback`.
    Rollback,
    /// Accepted, and nothing happens; answered with this tag.
    Nothing { tag: &'static str },
}

/// A statement with rows.
#[derive(Debug, Clone)]
pub(crate) struct ParsedQuery {
    /// The statement to plan.
    pub(crate) statement: Statement,
    /// What was sent; positions in errors count in it.
    pub(crate) sql: String,
    /// The command tag, `SELECT` or `EXPLAIN`.
    pub(crate) tag: &'static str,
}

/// Splits and understands SQL text.
pub(crate) struct SqlReader {
    compatibility: PostgresCompatibilityParser,
}

impl std::fmt::Debug for SqlReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqlReader")
    }
}

impl SqlReader {
    pub(crate) fn new() -> Self {
        Self { compatibility: PostgresCompatibilityParser::new() }
    }

    /// The statements of `sql`, in order; none for an empty text.
    pub(crate) fn read(&self, sql: &str) -> Result<Vec<Command>, QueryError> {
        refuse_long_chains(sql)?;
        // The rewriter for catalog queries turns correlated subqueries of a select list into NULL,
        // so a statement about users' own tables must never pass through it.
        let statements = match parse(sql) {
            Ok(statements) => statements,
            Err(error) => match self.compatibility.parse(sql) {
                Ok(all) if !all.is_empty() && all.iter().all(about_catalog) => {
                    return all.into_iter().map(|s| query(s, sql)).collect();
                }
                _ => return Err(error),
            },
        };
        let alone = statements.len() == 1;
        statements
            .into_iter()
            .map(|statement| {
                if !matches!(statement, Statement::Query(_) | Statement::Explain { .. }) {
                    return understand(statement, sql);
                }
                refuse_hidden_writes(&statement)?;
                refuse_many_relations(&statement)?;
                if !about_catalog(&statement) {
                    return query(with_plain_function_names(statement), sql);
                }
                // The original text, where we have it: whole client queries are recognised in it.
                let text = if alone { sql.to_owned() } else { statement.to_string() };
                let mut rewritten =
                    self.compatibility.parse(&text).map_err(|error| explain_parser(&error, sql))?;
                match (rewritten.pop(), rewritten.is_empty()) {
                    (Some(rewritten), true) => query(without_array_queries(rewritten), sql),
                    _ => query(statement, sql),
                }
            })
            .collect()
    }
}

/// Counts operators in the text: brackets have a limit in the parser, chains such as `a or b or c`
/// have none, and a tree that is too deep cannot even be dropped.
fn refuse_long_chains(sql: &str) -> Result<(), QueryError> {
    // What is no text of tokens, the parser refuses in its own words.
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().unwrap_or_default();
    let mut operators = 0;
    let mut before = &Token::Comma;
    for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
        let operator = match token {
            // A sign, as in a list of numbers below zero.
            Token::Minus | Token::Plus => !matches!(before, Token::Comma | Token::LParen),
            Token::Word(word) => matches!(
                word.keyword,
                Keyword::AND
                    | Keyword::OR
                    | Keyword::NOT
                    | Keyword::IS
                    | Keyword::NOTNULL
                    | Keyword::IN
                    | Keyword::BETWEEN
                    | Keyword::LIKE
                    | Keyword::ILIKE
                    | Keyword::SIMILAR
                    | Keyword::COLLATE
                    | Keyword::AT
                    | Keyword::UNION
                    | Keyword::EXCEPT
                    | Keyword::INTERSECT
                    | Keyword::JOIN
                    | Keyword::OPERATOR
            ),
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::Placeholder(_)
            | Token::Comma
            | Token::Period
            | Token::SemiColon
            | Token::LParen
            | Token::RParen
            | Token::RBracket => false,
            _ => true,
        };
        operators += usize::from(operator);
        before = token;
    }
    if operators <= OPERATORS_MAX {
        return Ok(());
    }
    let message = format!("the statement has {operators} operators");
    let hint = format!("the limit is {OPERATORS_MAX}; write a list as in (...)");
    Err(SqlProblem::new(SqlCode::StatementTooComplex, message).hint(hint).into())
}

/// Planning a join of very many tables takes minutes that nothing can interrupt.
fn refuse_many_relations(statement: &Statement) -> Result<(), QueryError> {
    struct Relations(usize);
    impl Visitor for Relations {
        type Break = ();

        fn pre_visit_relation(&mut self, _: &ObjectName) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }
    let mut relations = Relations(0);
    let _ = statement.visit(&mut relations);
    let Relations(count) = relations;
    if count <= RELATIONS_MAX {
        return Ok(());
    }
    let message = format!("the statement names {count} tables");
    let hint = format!("the limit is {RELATIONS_MAX}");
    Err(SqlProblem::new(SqlCode::StatementTooComplex, message).hint(hint).into())
}

fn query(statement: Statement, sql: &str) -> Result<Command, QueryError> {
    let tag = if matches!(statement, Statement::Explain { .. }) { "EXPLAIN" } else { "SELECT" };
    Ok(Command::Query(Box::new(ParsedQuery { statement, sql: sql.to_owned(), tag })))
}

fn understand(statement: Statement, sql: &str) -> Result<Command, QueryError> {
    Ok(match statement {
        Statement::Set(set) => return understand_set(set),
        Statement::Reset(reset) => match reset.reset {
            Reset::ALL => Command::ResetAll { tag: "RESET" },
            Reset::ConfigurationParameter(name) => {
                Command::Set { name: setting_name(&name), value: None }
            }
        },
        Statement::ShowVariable { variable } => {
            let words: Vec<String> = variable.iter().map(|i| i.value.to_lowercase()).collect();
            let name = match words.join(" ").as_str() {
                "transaction isolation level" => "transaction_isolation".to_owned(),
                "session authorization" => "session_authorization".to_owned(),
                "time zone" => "timezone".to_owned(),
                _ => words.join("."),
            };
            Command::Show { name }
        }
        Statement::StartTransaction { .. } => Command::Begin,
        Statement::Commit { .. } => Command::Commit,
        Statement::Rollback { savepoint: None, .. } => Command::Rollback,
        Statement::Rollback { .. } => Command::Nothing { tag: "ROLLBACK" },
        Statement::Savepoint { .. } => Command::Nothing { tag: "SAVEPOINT" },
        Statement::ReleaseSavepoint { .. } => Command::Nothing { tag: "RELEASE" },
        Statement::Discard { .. } => Command::ResetAll { tag: "DISCARD ALL" },
        Statement::Deallocate { .. } => Command::Nothing { tag: "DEALLOCATE" },
        Statement::Close { .. } => Command::Nothing { tag: "CLOSE CURSOR" },
        Statement::UNLISTEN { .. } => Command::Nothing { tag: "UNLISTEN" },
        Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ExplainTable { .. } => return query(statement, sql),
        Statement::Declare { .. } | Statement::Fetch { .. } => {
            return Err(QueryError::Unsupported { what: "a cursor".into() });
        }
        Statement::Prepare { .. } | Statement::Execute { .. } => {
            return Err(QueryError::Unsupported { what: "prepare and execute as SQL".into() });
        }
        other => return Err(QueryError::ReadOnly { command: command_of(&other) }),
    })
}

fn understand_set(set: Set) -> Result<Command, QueryError> {
    Ok(match set {
        Set::SingleAssignment { variable, values, .. } => {
            let name = setting_name(&variable);
            let values: Vec<String> = values.iter().map(setting_value).collect();
            let value = values.join(", ");
            let default = value.eq_ignore_ascii_case("default");
            Command::Set { name, value: (!default).then_some(value) }
        }
        Set::SetTimeZone { value, .. } => {
            let value = setting_value(&value);
            let default = ["default", "local"].iter().any(|w| value.eq_ignore_ascii_case(w));
            Command::Set { name: "timezone".into(), value: (!default).then_some(value) }
        }
        Set::SetNames { charset_name, .. } => {
            Command::Set { name: "client_encoding".into(), value: Some(charset_name.value) }
        }
        Set::SetNamesDefault {} => Command::Set { name: "client_encoding".into(), value: None },
        Set::SetTransaction { .. } | Set::SetRole { .. } | Set::SetSessionAuthorization(_) => {
            Command::Nothing { tag: "SET" }
        }
        other => return Err(QueryError::Unsupported { what: format!("\"{other}\"") }),
    })
}

fn setting_name(name: &ObjectName) -> String {
    let parts: Vec<String> = name.0.iter().map(part).collect();
    parts.join(".").to_lowercase()
}

fn part(part: &ObjectNamePart) -> String {
    part.as_ident().map_or_else(|| part.to_string(), |ident| ident.value.clone())
}

fn setting_value(value: &Expr) -> String {
    match value {
        Expr::Identifier(ident) => ident.value.clone(),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text)
            | Value::DoubleQuotedString(text)
            | Value::EscapedStringLiteral(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn command_of(statement: &Statement) -> String {
    let text = statement.to_string().to_uppercase();
    let mut words = text
        .split_whitespace()
        .filter(|w| !["OR", "REPLACE", "TEMPORARY", "UNLOGGED", "EXTERNAL", "UNIQUE"].contains(w));
    let first = words.next().unwrap_or("STATEMENT").to_owned();
    match first.as_str() {
        "CREATE" | "ALTER" | "DROP" => format!("{first} {}", words.next().unwrap_or_default()),
        "TRUNCATE" => "TRUNCATE TABLE".into(),
        _ => first,
    }
}

/// Writes can hide in a common table expression, and locks in a select.
fn refuse_hidden_writes(statement: &Statement) -> Result<(), QueryError> {
    struct Writes(Option<String>);
    impl Visitor for Writes {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let command = match query.body.as_ref() {
                SetExpr::Insert(_) => "INSERT",
                SetExpr::Update(_) => "UPDATE",
                SetExpr::Delete(_) => "DELETE",
                SetExpr::Merge(_) => "MERGE",
                SetExpr::Select(select) if select.into.is_some() => "SELECT INTO",
                _ if !query.locks.is_empty() => "SELECT FOR UPDATE",
                _ => return ControlFlow::Continue(()),
            };
            self.0 = Some(command.into());
            ControlFlow::Break(())
        }

        fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
            if matches!(
                statement,
                Statement::Query(_) | Statement::Explain { .. } | Statement::ExplainTable { .. }
            ) {
                return ControlFlow::Continue(());
            }
            self.0 = Some(command_of(statement));
            ControlFlow::Break(())
        }
    }
    let mut writes = Writes(None);
    let _ = statement.visit(&mut writes);
    match writes.0 {
        Some(command) => Err(QueryError::ReadOnly { command }),
        None => Ok(()),
    }
}

/// Whether a statement asks about the catalog, and about nothing else.
fn about_catalog(statement: &Statement) -> bool {
    struct Names {
        catalog_relations: bool,
        other_relations: Vec<String>,
        catalog_words: bool,
        ctes: Vec<String>,
    }
    impl Visitor for Names {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if let Some(with) = &query.with {
                self.ctes.extend(with.cte_tables.iter().map(|c| c.alias.name.value.to_lowercase()));
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            let parts: Vec<String> = relation.0.iter().map(|p| part(p).to_lowercase()).collect();
            let catalog = match parts.as_slice() {
                // A function in the place of a table is visited as a relation, too.
                [table] => {
                    PG_CATALOG_TABLES.contains(&table.as_str())
                        || ["generate_series", "generate_subscripts"].contains(&table.as_str())
                }
                [.., schema, _] => schema == "pg_catalog" || schema == "information_schema",
                [] => false,
            };
            match (catalog, parts.as_slice()) {
                (true, _) => self.catalog_relations = true,
                (false, [table]) => self.other_relations.push(table.clone()),
                (false, _) => self.other_relations.push(String::new()),
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let words = match expr {
                Expr::Function(Function { name, .. }) => is_catalog_name(name),
                Expr::Cast { data_type, .. } => {
                    data_type.to_string().to_lowercase().starts_with("reg")
                }
                _ => false,
            };
            self.catalog_words |= words;
            ControlFlow::Continue(())
        }
    }
    let mut names = Names {
        catalog_relations: false,
        other_relations: Vec::new(),
        catalog_words: false,
        ctes: Vec::new(),
    };
    let _ = statement.visit(&mut names);
    let others = names.other_relations.iter().any(|name| !names.ctes.contains(name));
    !others && (names.catalog_relations || names.catalog_words)
}

fn is_catalog_name(name: &ObjectName) -> bool {
    name.0.len() == 2 && part(&name.0[0]).eq_ignore_ascii_case("pg_catalog")
}

/// `pg_catalog.lower(x)` is `lower(x)`, and a function in the place of a table may be written in any
/// case.
fn with_plain_function_names(mut statement: Statement) -> Statement {
    struct Plain;
    impl VisitorMut for Plain {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(Function { name, .. }) = expr
                && is_catalog_name(name)
            {
                name.0.remove(0);
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, args: Some(_), .. } = table
                && let [ObjectNamePart::Identifier(function)] = name.0.as_mut_slice()
                && function.quote_style.is_none()
            {
                function.value.make_ascii_lowercase();
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(&mut statement, &mut Plain);
    statement
}

/// `array(select ...)` has no plan. In catalog queries it lists roles and the like, of which there
/// are none.
fn without_array_queries(mut statement: Statement) -> Statement {
    struct Empty;
    impl VisitorMut for Empty {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(Function { name, args: FunctionArguments::Subquery(_), .. }) =
                expr
                && name.to_string().eq_ignore_ascii_case("array")
            {
                *expr = Expr::Array(Array {
                    elem: vec![Expr::value(Value::SingleQuotedString(String::new()))],
                    named: true,
                });
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(&mut statement, &mut Empty);
    statement
}

/// The one query of a text, for doors that have no session.
pub(crate) fn single_query(commands: Vec<Command>) -> Result<ParsedQuery, QueryError> {
    let mut commands = commands.into_iter();
    match (commands.next(), commands.next()) {
        (Some(Command::Query(query)), None) => Ok(*query),
        (None, _) => Err(SqlProblem::new(SqlCode::SyntaxError, "the statement is empty").into()),
        (Some(_), Some(_)) => {
            Err(SqlProblem::new(SqlCode::SyntaxError, "a request holds one statement")
                .hint("send them one by one")
                .into())
        }
        (Some(_), None) => Err(QueryError::Unsupported {
            what: "a statement about a session, outside of the Postgres door,".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Result<Vec<Command>, QueryError> {
        SqlReader::new().read(sql)
    }

    fn text(sql: &str) -> String {
        match read(sql).unwrap().remove(0) {
            Command::Query(query) => query.statement.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn writes_are_refused_by_name() {
        for (sql, command) in [
            ("insert into marts.x values (1)", "INSERT"),
            ("update marts.x set a = 1", "UPDATE"),
            ("delete from marts.x", "DELETE"),
            ("create table x (a int)", "CREATE TABLE"),
            ("create or replace view x as select 1", "CREATE VIEW"),
            ("drop table x", "DROP TABLE"),
            ("truncate x", "TRUNCATE TABLE"),
            ("copy x to '/tmp/x'", "COPY"),
            ("with a as (delete from marts.x returning 1) select * from a", "DELETE"),
            ("explain insert into x values (1)", "INSERT"),
            ("select * into y from x", "SELECT INTO"),
            ("select * from x for update", "SELECT FOR UPDATE"),
            ("grant select on x to y", "GRANT"),
        ] {
            match read(sql) {
                Err(QueryError::ReadOnly { command: found }) => assert_eq!(found, command, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[test]
    fn chains_have_an_end_and_lists_have_none() {
        let chain = |link: &str, links: usize| format!("select 1 {}", link.repeat(links));
        for link in ["+ 1 ", "or true ", "::int ", "is null ", "union select 1 ", "- - 1 "] {
            let code = match read(&chain(link, OPERATORS_MAX + 1)) {
                Err(QueryError::Sql(problem)) => problem.code,
                other => panic!("{link}: {other:?}"),
            };
            assert_eq!(code, SqlCode::StatementTooComplex, "{link}");
        }
        for link in [", -1 ", ", 'or' ", ", abs(-1.5) ", ", a.b "] {
            assert_eq!(read(&chain(link, 10 * OPERATORS_MAX)).unwrap().len(), 1, "{link}");
        }
    }

    #[test]
    fn a_statement_of_very_many_tables_is_refused() {
        let from = |tables: usize| format!("select 1 from {}", vec!["marts.t"; tables].join(", "));
        assert_eq!(read(&from(RELATIONS_MAX)).unwrap().len(), 1);
        match read(&from(RELATIONS_MAX + 1)) {
            Err(QueryError::Sql(problem)) => {
                assert_eq!(problem.code, SqlCode::StatementTooComplex);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_users_subquery_is_left_alone() {
        let sql = "SELECT d.x, (SELECT max(t.y) FROM marts.t AS t WHERE t.x = d.x) FROM marts.d";
        assert!(text(sql).contains("SELECT max(t.y)"));
    }

    #[test]
    fn what_is_about_the_catalog() {
        let about = |sql: &str| about_catalog(&parse(sql).unwrap()[0]);
        for sql in [
            "select * from pg_class",
            "select * from information_schema.tables t join pg_catalog.pg_namespace n on true",
            "with a as (select oid from pg_class) select * from a",
            "select pg_catalog.current_schema()",
            "select 'marts.x'::regclass",
        ] {
            assert!(about(sql), "{sql}");
        }
        for sql in [
            "select 1",
            "select * from marts.x",
            "select * from x, pg_class",
            "select pg_catalog.lower(a) from marts.x",
        ] {
            assert!(!about(sql), "{sql}");
        }
    }

    #[test]
    fn settings_and_transactions() {
        let set = |sql: &str| match read(sql).unwrap().remove(0) {
            Command::Set { name, value } => (name, value),
            other => panic!("{sql}: {other:?}"),
        };
        assert_eq!(
            set("set search_path to marts, mall"),
            ("search_path".into(), Some("marts, mall".into()))
        );
        assert_eq!(
            set("set statement_timeout = 500"),
            ("statement_timeout".into(), Some("500".into()))
        );
        assert_eq!(set("set time zone 'UTC'"), ("timezone".into(), Some("UTC".into())));
        assert_eq!(set("reset datestyle"), ("datestyle".into(), None));
        assert!(matches!(read("begin").unwrap()[0], Command::Begin));
        assert!(matches!(read("begin read only").unwrap()[0], Command::Begin));
        assert!(matches!(read("commit").unwrap()[0], Command::Commit));
        assert!(matches!(read("rollback").unwrap()[0], Command::Rollback));
        assert_eq!(read("select 1; select 2").unwrap().len(), 2);
        assert!(read("  -- nothing\n").unwrap().is_empty());
    }
}
