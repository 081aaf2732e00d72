//! What PostgreSQL would call the columns of a statement. Only what is shown changes: the plan
//! keeps the engine's own names, so a name here can never decide what a reference means.

use datafusion::sql::sqlparser::ast::{
    CastKind, Expr, ObjectNamePart, Query, SelectItem, SetExpr, Statement,
};

/// One name a column, or none where the statement does not say how many there are.
pub(crate) fn column_names(statement: &Statement) -> Option<Vec<String>> {
    let Statement::Query(query) = statement else { return None };
    of_query(query)
}

fn of_query(query: &Query) -> Option<Vec<String>> {
    of_body(&query.body)
}

fn of_body(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => select.projection.iter().map(of_item).collect(),
        SetExpr::Query(query) => of_query(query),
        SetExpr::SetOperation { left, .. } => of_body(left),
        _ => None,
    }
}

fn of_item(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
        SelectItem::UnnamedExpr(expr) => {
            Some(of_expr(expr).unwrap_or_else(|| "?column?".to_owned()))
        }
        _ => None,
    }
}

fn of_expr(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(fold(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold),
        Expr::Function(function) => match function.name.0.last() {
            Some(ObjectNamePart::Identifier(ident)) => Some(fold(ident)),
            _ => None,
        },
        Expr::Cast { expr, data_type, kind, .. } => of_expr(expr).or_else(|| {
            let name = data_type.to_string().to_lowercase();
            let name = name.split('(').next().unwrap_or_default().trim().to_owned();
            matches!(kind, CastKind::Cast | CastKind::DoubleColon).then(|| match name.as_str() {
                "int" | "integer" => "int4".to_owned(),
                "bigint" => "int8".to_owned(),
                "smallint" => "int2".to_owned(),
                "double precision" | "double" => "float8".to_owned(),
                "real" => "float4".to_owned(),
                "boolean" => "bool".to_owned(),
                "decimal" => "numeric".to_owned(),
                "character varying" => "varchar".to_owned(),
                _ => name,
            })
        }),
        Expr::Extract { .. } => Some("extract".into()),
        Expr::Case { else_result, .. } => {
            Some(else_result.as_deref().and_then(of_expr).unwrap_or_else(|| "case".into()))
        }
        Expr::Substring { .. } => Some("substring".into()),
        Expr::Trim { .. } => Some("btrim".into()),
        Expr::Position { .. } => Some("position".into()),
        Expr::Ceil { .. } => Some("ceil".into()),
        Expr::Floor { .. } => Some("floor".into()),
        Expr::Exists { .. } => Some("exists".into()),
        Expr::Array(_) => Some("array".into()),
        Expr::Interval(_) => Some("interval".into()),
        Expr::TypedString(typed) => Some(typed.data_type.to_string().to_lowercase()),
        Expr::Subquery(query) => of_query(query).and_then(|names| names.into_iter().next()),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => of_expr(inner),
        _ => None,
    }
}

fn fold(ident: &datafusion::sql::sqlparser::ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::PostgreSqlDialect, parser::Parser};

    use super::*;

    #[test]
    fn names_are_postgresqls() {
        let names = |sql: &str| {
            let all = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap();
            column_names(&all[0]).map(|names| names.join(","))
        };
        let is = |sql: &str, expected: &str| {
            assert_eq!(names(sql).as_deref(), Some(expected), "{sql}");
        };
        is("select 1, 'x', a.b, C, \"D\"", "?column?,?column?,b,c,D");
        is("select count(*), SUM(x) + 1, sum(x) as Total from t", "count,?column?,total");
        is("select 1::bigint, cast(x as date), '1'::numeric(10,2)", "int8,x,numeric");
        is("select case when a then 1 end, extract(year from d)", "case,extract");
        is("select a from t union all select b from u", "a");
        assert_eq!(names("select * from t"), None);
    }
}
