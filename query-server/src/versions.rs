//! `from orders for system_time as of '2026-11-20'`: tables of the past as SQL:2011 writes them. The
//! parser does not know the words in PostgreSQL's dialect, so they are read before it, and the name
//! the lake knows such a table by (`"orders@2026-11-20"`) is put in their place.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::{
    ast::{Ident, ObjectNamePart, Statement, TableAlias, TableFactor, VisitMut, VisitorMut},
    dialect::PostgreSqlDialect,
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word},
};

use crate::{
    engine_error::explain_parser,
    error::{QueryError, SqlCode, SqlProblem},
};

/// The statements of a text.
pub(crate) fn parse(sql: &str) -> Result<Vec<Statement>, QueryError> {
    let wrong = |error: ParserError| explain_parser(&error, sql);
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| wrong(error.into()))?;
    let (renamed, named) = name_versions(&tokens)?;
    let tokens = if named.is_empty() { tokens } else { renamed };
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(wrong)?;
    if !named.is_empty() {
        let mut aliases = Aliases(named);
        let _ = VisitMut::visit(&mut statements, &mut aliases);
        if !aliases.0.is_empty() {
            return Err(misplaced());
        }
    }
    Ok(statements)
}

/// What tables were called, by where their names stand.
type Named = HashMap<Location, Ident>;

/// Puts names of versions in the place of names followed by `for system_time as of` and the like.
fn name_versions(tokens: &[TokenWithSpan]) -> Result<(Vec<TokenWithSpan>, Named), QueryError> {
    let mut rest = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_)));
    let (mut read, mut named) = (Vec::<TokenWithSpan>::new(), Named::new());
    while let Some(next) = rest.next() {
        read.push(next.clone());
        if !ends_in_as_of(&read) {
            continue;
        }
        read.truncate(read.len() - 4);
        let version = version(&mut rest)?;
        let relation = begins_relation(&read);
        let Some(TokenWithSpan { token: Token::Word(word), span }) = read.last_mut() else {
            return Err(misplaced());
        };
        if !relation {
            return Err(misplaced());
        }
        let mut table = word.value.clone();
        if word.quote_style.is_none() {
            table.make_ascii_lowercase();
        }
        named.insert(span.start, Ident::with_quote('"', table.as_str()));
        *word = Word {
            value: format!("{table}@{version}"),
            quote_style: Some('"'),
            keyword: Keyword::NoKeyword,
        };
    }
    Ok((read, named))
}

fn is_word(token: Option<&TokenWithSpan>, words: &[&str]) -> bool {
    let Some(TokenWithSpan { token: Token::Word(found), .. }) = token else { return false };
    found.quote_style.is_none() && words.iter().any(|word| found.value.eq_ignore_ascii_case(word))
}

/// `for system_time as of`, or what others write for it.
fn ends_in_as_of(read: &[TokenWithSpan]) -> bool {
    let [.., with, kind, connect, of] = read else { return false };
    let kinds = ["system_time", "system_version", "timestamp", "version"];
    is_word(Some(of), &["of"])
        && is_word(Some(connect), &["as"])
        && is_word(Some(kind), &kinds)
        && is_word(Some(with), &["for"])
}

/// Whether the name at the end is where a table is named: not an alias, above all.
fn begins_relation(read: &[TokenWithSpan]) -> bool {
    let mut before = read.len().saturating_sub(1);
    while before >= 2 && read[before - 1].token == Token::Period {
        before -= 2;
    }
    let before = before.checked_sub(1).and_then(|at| read.get(at));
    is_word(before, &["from", "join"])
        || before.is_some_and(|t| matches!(t.token, Token::Comma | Token::LParen))
}

/// A constant: a text with a time, a branch or a tag, or the number of a snapshot.
fn version<'a>(rest: &mut impl Iterator<Item = &'a TokenWithSpan>) -> Result<String, QueryError> {
    let mut next = rest.next();
    if is_word(next, &["timestamp", "timestamptz", "date"]) {
        next = rest.next();
    }
    match next.map(|t| &t.token) {
        Some(Token::SingleQuotedString(text)) => Ok(text.clone()),
        Some(Token::Number(digits, _)) => Ok(digits.clone()),
        _ => Err(SqlProblem::new(
            SqlCode::SyntaxError,
            "for system_time as of takes a constant: a time, a snapshot id, a branch or a tag",
        )
        .hint("write mall.orders for system_time as of '2026-11-20T10:00:00Z'")
        .into()),
    }
}

fn misplaced() -> QueryError {
    SqlProblem::new(
        SqlCode::SyntaxError,
        "for system_time as of can only follow the name of a table",
    )
    .hint("an alias comes after it: mall.orders for system_time as of '2026-11-20' as o")
    .into()
}

/// Lets a statement call its tables as it wrote them.
struct Aliases(Named);

impl VisitorMut for Aliases {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, args: None, .. } = table
            && let Some(ObjectNamePart::Identifier(last)) = name.0.last()
            && let Some(name) = self.0.remove(&last.span.start)
            && alias.is_none()
        {
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_names() {
        let text = |sql: &str| parse(sql).unwrap().remove(0).to_string();
        for (sql, expected) in [
            (
                "select * from mall.orders for system_time as of '2026-11-20 10:00'",
                "SELECT * FROM mall.\"orders@2026-11-20 10:00\" AS \"orders\"",
            ),
            (
                "select o.x from Orders FOR SYSTEM_TIME AS OF timestamp '2026-11-20' o",
                "SELECT o.x FROM \"orders@2026-11-20\" o",
            ),
            (
                "select * from a join \"B\" for version as of 12 as b using (x)",
                "SELECT * FROM a JOIN \"B@12\" AS b USING(x)",
            ),
            (
                "select 1 from a, c.b for system_version as of 'main' where exists \
                 (select 1 from d for timestamp as of '2026-11-20')",
                "SELECT 1 FROM a, c.\"b@main\" AS \"b\" WHERE EXISTS \
                 (SELECT 1 FROM \"d@2026-11-20\" AS \"d\")",
            ),
            ("select substring(a for 3), 'for system_time as of' from b", {
                "SELECT SUBSTRING(a FOR 3), 'for system_time as of' FROM b"
            }),
        ] {
            assert_eq!(text(sql), expected, "{sql}");
        }
    }

    #[test]
    fn words_in_another_place_are_refused() {
        for (sql, part) in [
            ("select * from a x for system_time as of '2026-11-20'", "can only follow the name"),
            ("select * from (select 1) for system_time as of '2026-11-20'", "can only follow"),
            ("select a, b for system_time as of '2026-11-20' from c", "can only follow"),
            ("for system_time as of '2026-11-20'", "can only follow the name"),
            ("select * from a for system_time as of $1", "takes a constant"),
            ("select * from a for system_time as of now()", "takes a constant"),
            ("select * from a for system_time as of", "takes a constant"),
        ] {
            let error = parse(sql).unwrap_err();
            assert!(error.to_string().contains(part), "{sql}: {error}");
            assert_eq!(error.sqlstate(), "42601", "{sql}");
        }
    }
}
