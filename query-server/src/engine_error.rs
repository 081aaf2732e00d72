//! From what the engine says to what a user can use: PostgreSQL's codes and words, a position in
//! the statement, and none of the engine's own prefixes.

use std::sync::Arc;

use datafusion::{
    arrow::error::ArrowError,
    common::{Location, SchemaError},
    error::DataFusionError,
    sql::sqlparser::parser::ParserError,
};
use medlake_contract::Kind;
use medlake_lake::LakeError;

use crate::error::{QueryError, SqlCode, SqlProblem};

/// Turns an error of the engine about `sql` into ours.
pub(crate) fn explain(error: DataFusionError, sql: &str) -> QueryError {
    let position = error
        .diagnostic()
        .and_then(|diagnostic| diagnostic.span)
        .and_then(|span| position_of(sql, span.start));
    match classify(&error) {
        Found::Problem(mut problem) => {
            problem.position = problem.position.or(position);
            // The planner names a table in full; a person knows it as it was written.
            if problem.code == SqlCode::UndefinedTable
                && let Some(diagnostic) = error.diagnostic()
                && let Some(name) = between(&diagnostic.message, "table '", "' not found")
            {
                problem.message = format!("relation \"{name}\" does not exist");
            }
            QueryError::from(problem)
        }
        Found::Syntax(message) => syntax(&message, sql),
        Found::Unsupported(what) => QueryError::Unsupported { what },
        Found::Memory => QueryError::Memory { source: error },
        Found::Query(found) => found,
        Found::Other(kind, message) => QueryError::Engine { message, kind, source: error },
    }
}

/// Turns an error of the parser about `sql` into ours.
pub(crate) fn explain_parser(error: &ParserError, sql: &str) -> QueryError {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            syntax(message, sql)
        }
        ParserError::RecursionLimitExceeded => {
            SqlProblem::new(SqlCode::StatementTooComplex, "the statement is nested too deeply")
                .hint("split it with common table expressions")
                .into()
        }
    }
}

enum Found {
    Problem(SqlProblem),
    Syntax(String),
    Unsupported(String),
    Memory,
    Query(QueryError),
    Other(Kind, String),
}

fn classify(error: &DataFusionError) -> Found {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            classify(inner)
        }
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => classify(first),
            None => Found::Other(Kind::Internal, "no reason given".into()),
        },
        DataFusionError::SQL(parser, _) => match parser.as_ref() {
            ParserError::TokenizerError(m) | ParserError::ParserError(m) => {
                Found::Syntax(m.clone())
            }
            ParserError::RecursionLimitExceeded => {
                Found::Syntax("the statement is nested too deeply".into())
            }
        },
        DataFusionError::SchemaError(schema, _) => Found::Problem(schema_problem(schema)),
        DataFusionError::Plan(message) => Found::Problem(plan_problem(message)),
        DataFusionError::NotImplemented(message) => Found::Unsupported(clean(message)),
        DataFusionError::Configuration(message) => {
            Found::Problem(SqlProblem::new(SqlCode::InvalidParameterValue, clean(message)))
        }
        DataFusionError::ArrowError(arrow, _) => arrow_problem(arrow),
        DataFusionError::Execution(message) => Found::Problem(execution_problem(message)),
        DataFusionError::ResourcesExhausted(_) => Found::Memory,
        DataFusionError::External(inner) => external(inner.as_ref()),
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => {
            Found::Other(Kind::Unavailable, clean(&error.message()))
        }
        DataFusionError::ParquetError(_) => Found::Other(Kind::Corrupt, clean(&error.message())),
        _ => Found::Other(Kind::Internal, clean(&error.message())),
    }
}

fn external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Found {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let shared = error.downcast_ref::<Arc<LakeError>>().map(AsRef::as_ref);
        if let Some(lake) = shared.or_else(|| error.downcast_ref()) {
            let why = if let LakeError::LeftOut { source, .. } = lake { source } else { lake };
            return Found::Other(why.kind(), clean(&why.to_string()));
        }
        if let Some(query) = error.downcast_ref::<QueryError>() {
            return match query {
                QueryError::Cancelled => Found::Query(QueryError::Cancelled),
                QueryError::Timeout { limit_ms } => {
                    Found::Query(QueryError::Timeout { limit_ms: *limit_ms })
                }
                QueryError::Sql(problem) => Found::Problem(problem.as_ref().clone()),
                other => Found::Other(other.kind(), other.to_string()),
            };
        }
        if let Some(inner) = error.downcast_ref::<DataFusionError>() {
            return classify(inner);
        }
        if let Some(inner) = error.downcast_ref::<ArrowError>() {
            return arrow_problem(inner);
        }
        next = error.source();
    }
    Found::Other(Kind::Internal, clean(&error.to_string()))
}

fn schema_problem(error: &SchemaError) -> SqlProblem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = match &field.relation {
                Some(relation) => format!("{}.{}", relation.table(), field.name),
                None => format!("\"{}\"", field.name),
            };
            let mut problem =
                SqlProblem::new(SqlCode::UndefinedColumn, format!("column {name} does not exist"));
            let wanted = field.name.to_lowercase();
            problem.hint = valid_fields
                .iter()
                .map(|valid| (distance(&wanted, &valid.name.to_lowercase()), valid))
                .filter(|(far, valid)| *far * 2 <= valid.name.len().max(wanted.len()))
                .min_by_key(|(far, _)| *far)
                .map(|(_, valid)| match &valid.relation {
                    Some(relation) => format!(
                        "perhaps you meant to reference the column \"{}.{}\"",
                        relation.table(),
                        valid.name
                    ),
                    None => format!("perhaps you meant \"{}\"", valid.name),
                });
            problem
        }
        SchemaError::AmbiguousReference { field } => SqlProblem::new(
            SqlCode::AmbiguousColumn,
            format!("column reference \"{}\" is ambiguous", field.name),
        ),
        SchemaError::DuplicateQualifiedField { qualifier, name } => SqlProblem::new(
            SqlCode::DuplicateAlias,
            format!("column \"{}.{name}\" occurs twice", qualifier.table()),
        )
        .hint("give one of them an alias"),
        SchemaError::DuplicateUnqualifiedField { name } => {
            SqlProblem::new(SqlCode::DuplicateAlias, format!("column \"{name}\" occurs twice"))
                .hint("give one of them an alias")
        }
    }
}

fn plan_problem(message: &str) -> SqlProblem {
    let message = clean(message);
    if let Some(name) = between(&message, "table function '", "' not found") {
        return no_function(name, None);
    }
    if let Some(name) = between(&message, "table '", "' not found") {
        let mut parts: Vec<&str> = name.split('.').collect();
        if parts.len() == 3 {
            parts.remove(0);
        }
        return SqlProblem::new(
            SqlCode::UndefinedTable,
            format!("relation \"{}\" does not exist", parts.join(".")),
        );
    }
    if let Some(name) = between(&message, "Invalid function '", "'") {
        return no_function(name, between(&message, "Did you mean '", "'"));
    }
    if let Some(name) = message.strip_prefix("failed to resolve schema: ") {
        return SqlProblem::new(
            SqlCode::UndefinedSchema,
            format!("schema \"{name}\" does not exist"),
        );
    }
    if message.starts_with("Projections require unique expression names") {
        return SqlProblem::new(SqlCode::DuplicateAlias, lower_first(&message))
            .hint("give one of them an alias");
    }
    if message.contains("must appear in the GROUP BY clause")
        && let Some(column) = between(&message, "column \"", "\"")
    {
        let column = column.rsplitn(3, '.').take(2).collect::<Vec<_>>();
        let column = column.into_iter().rev().collect::<Vec<_>>().join(".");
        return SqlProblem::new(
            SqlCode::GroupingError,
            format!(
                "column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate \
                 function"
            ),
        );
    }
    if message.contains("must appear in the GROUP BY clause")
        || message.contains("must be part of GROUP BY")
        || message.contains("could not be resolved from available columns")
    {
        return SqlProblem::new(SqlCode::GroupingError, lower_first(&message));
    }
    if message.contains("coerce") || message.contains("Cannot infer common argument type") {
        return SqlProblem::new(SqlCode::DatatypeMismatch, lower_first(&message));
    }
    if message.contains("laceholder") {
        return SqlProblem::new(SqlCode::UndefinedParameter, lower_first(&message));
    }
    SqlProblem::new(SqlCode::SyntaxErrorOrAccessRuleViolation, lower_first(&message))
}

fn no_function(name: &str, near: Option<&str>) -> SqlProblem {
    let mut problem =
        SqlProblem::new(SqlCode::UndefinedFunction, format!("function {name}() does not exist"));
    problem.hint = near
        .filter(|near| distance(name, near) * 3 <= name.len().max(near.len()))
        .map(|near| format!("perhaps you meant \"{near}\""));
    problem
}

fn execution_problem(message: &str) -> SqlProblem {
    let message = clean(message);
    let lower = message.to_lowercase();
    let code = if lower.contains("divide by zero") {
        return SqlProblem::new(SqlCode::DivisionByZero, "division by zero");
    } else if lower.contains("overflow") || lower.contains("out of range") {
        SqlCode::NumericValueOutOfRange
    } else if lower.contains("pars") || lower.contains("cast") {
        SqlCode::InvalidTextRepresentation
    } else {
        SqlCode::InvalidParameterValue
    };
    SqlProblem::new(code, lower_first(&message))
}

fn arrow_problem(error: &ArrowError) -> Found {
    let problem = |code, message: &str| Found::Problem(SqlProblem::new(code, lower_first(message)));
    match error {
        ArrowError::DivideByZero => problem(SqlCode::DivisionByZero, "division by zero"),
        ArrowError::CastError(m) | ArrowError::ParseError(m) => {
            problem(SqlCode::InvalidTextRepresentation, &cast_message(m))
        }
        ArrowError::ArithmeticOverflow(m) => problem(SqlCode::NumericValueOutOfRange, &clean(m)),
        ArrowError::ComputeError(m) | ArrowError::InvalidArgumentError(m) => {
            Found::Problem(execution_problem(m))
        }
        ArrowError::MemoryError(_) => Found::Memory,
        ArrowError::ExternalError(inner) => external(inner.as_ref()),
        ArrowError::NotYetImplemented(m) => Found::Unsupported(clean(m)),
        other => Found::Other(Kind::Internal, clean(&other.to_string())),
    }
}

/// "Cannot cast string 'x' to value of Int32 type" in PostgreSQL's words.
fn cast_message(message: &str) -> String {
    let message = clean(message);
    let parts = message
        .strip_prefix("Cannot cast string '")
        .and_then(|rest| rest.strip_suffix(" type"))
        .and_then(|rest| rest.rsplit_once("' to value of "));
    let Some((value, ty)) = parts else { return message };
    let ty = match ty {
        "Int8" | "Int16" => "smallint",
        "Int32" => "integer",
        "Int64" => "bigint",
        "Float32" => "real",
        "Float64" => "double precision",
        "Boolean" => "boolean",
        "Date32" | "Date64" => "date",
        ty if ty.starts_with("Timestamp") => "timestamp",
        ty if ty.starts_with("Decimal") => "numeric",
        ty if ty.starts_with("Time") => "time",
        ty => ty,
    };
    format!("invalid input syntax for type {ty}: \"{value}\"")
}

fn syntax(message: &str, sql: &str) -> QueryError {
    let (text, place) = match message.rsplit_once(" at Line: ") {
        Some((text, place)) => (text, parse_place(place)),
        None => (message, None),
    };
    let position = place.and_then(|place| position_of(sql, place));
    // "Expected: an expression, found: FROM" is how the parser speaks.
    let found = text.rsplit_once("found: ").map(|(_, found)| found.trim());
    let mut problem = match found {
        Some("EOF") => SqlProblem::new(SqlCode::SyntaxError, "syntax error at end of input"),
        Some(token) => {
            SqlProblem::new(SqlCode::SyntaxError, format!("syntax error at or near \"{token}\""))
        }
        None => {
            SqlProblem::new(SqlCode::SyntaxError, format!("syntax error: {}", lower_first(text)))
        }
    };
    if let Some((expected, _)) = text.split_once(", found: ") {
        problem.detail = Some(lower_first(expected));
    }
    problem.position = match found {
        Some("EOF") => Some(sql.chars().count() + 1),
        _ => position,
    };
    problem.into()
}

fn parse_place(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    let column = column.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(Location { line: line.trim().parse().ok()?, column: column.parse().ok()? })
}

/// Characters from 1, as PostgreSQL counts.
fn position_of(sql: &str, at: Location) -> Option<usize> {
    let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(at.column).ok()?;
    let before: usize = sql.split('\n').take(line).map(|l| l.chars().count() + 1).sum();
    let position = before + column;
    (column > 0 && position <= sql.chars().count() + 1).then_some(position)
}

/// Takes the engine's own prefixes, and its advice to file a bug, out of a message.
pub(crate) fn clean(message: &str) -> String {
    const PREFIXES: [&str; 12] = [
        "Arrow error: ",
        "Parquet error: ",
        "Object Store error: ",
        "Execution error: ",
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "Internal error: ",
        "External error: ",
        "This feature is not implemented: ",
        "Invalid or Unsupported Configuration: ",
        "Resources exhausted: ",
    ];
    let mut text = message.split(".\nThis issue was likely caused").next().unwrap_or(message);
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text.trim().to_owned()
}

fn lower_first(message: &str) -> String {
    let mut chars = message.trim_end_matches('.').chars();
    match (chars.next(), chars.clone().next()) {
        // "SELECT ..." and the like stay as they are.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => message.to_owned(),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)?;
    Some(&text[start..start + end])
}

/// Levenshtein's edit distance; names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_becomes_a_character_position() {
        let at = |sql: &str, line, column| position_of(sql, Location { line, column });
        assert_eq!(at("select x", 1, 8), Some(8));
        assert_eq!(at("select 营,\n  y", 2, 3), Some(13));
        assert_eq!(at("select", 1, 0), None);
        assert_eq!(at("select", 9, 1), None);
    }

    #[test]
    fn prefixes_go() {
        assert_eq!(clean("Execution error: Arrow error: Divide by zero"), "Divide by zero");
        assert_eq!(clean("Internal error: x.\nThis issue was likely caused by a bug"), "x");
    }

    #[test]
    fn the_parser_is_translated() {
        let error = ParserError::ParserError(
            "Expected: an expression, found: from at Line: 1, Column: 8".into(),
        );
        let QueryError::Sql(problem) = explain_parser(&error, "select from t") else {
            panic!("another kind");
        };
        assert_eq!(problem.message, "syntax error at or near \"from\"");
        assert_eq!(problem.detail.as_deref(), Some("expected: an expression"));
        assert_eq!(problem.position, Some(8));
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("gmv", "gmv"), 0);
        assert_eq!(distance("gvm_paid", "gmv_paid"), 2);
    }
}
