//! References between models, found by parsing their SQL.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use datafusion::sql::sqlparser::{
    ast::{ObjectName, Query, Statement, TableFactor, Visit, VisitMut, Visitor, VisitorMut},
    dialect::GenericDialect,
    parser::Parser,
};

/// A table or model that a query names, and the line (from 1) it is named on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    /// `orders`, or `mall.orders`.
    pub(crate) name: String,
    pub(crate) line: u64,
}

/// One query out of one text.
///
/// # Errors
/// The line and what is wrong there.
pub(crate) fn parse(sql: &str) -> Result<Box<Query>, (u64, String)> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).map_err(|error| {
        let text = error.to_string();
        let line = text
            .split("Line: ")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .and_then(|line| line.trim().parse().ok());
        (line.unwrap_or(1), text)
    })?;
    match (statements.pop(), statements.len()) {
        (Some(Statement::Query(query)), 0) => Ok(query),
        _ => Err((1, "a model is one query, not something else and not several".to_owned())),
    }
}

/// What the query reads, its own `with` names left out.
pub(crate) fn references(query: &Query) -> BTreeSet<Reference> {
    #[derive(Default)]
    struct Finder {
        own: BTreeSet<String>,
        found: BTreeSet<Reference>,
    }
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
                self.own.insert(cte.alias.name.value.clone());
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, .. } = factor {
                let line = name.0.first().and_then(|part| part.as_ident());
                let line = line.map_or(1, |ident| ident.span.start.line).max(1);
                self.found.insert(Reference { name: plain(name), line });
            }
            ControlFlow::Continue(())
        }
    }
    let mut finder = Finder::default();
    // The visitor never breaks.
    let _ = query.visit(&mut finder);
    finder.found.retain(|reference| !finder.own.contains(&reference.name));
    finder.found
}

/// Puts the queries of views in the place of their names. The views must be expanded themselves.
pub(crate) fn expand(query: &mut Query, views: &BTreeMap<String, Query>) {
    struct Expander<'a> {
        views: &'a BTreeMap<String, Query>,
    }
    impl VisitorMut for Expander<'_> {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            let TableFactor::Table { name, alias, sample, .. } = &*factor else {
                return ControlFlow::Continue(());
            };
            let name = plain(name);
            if let Some(view) = self.views.get(&name) {
                let alias =
                    alias.clone().unwrap_or_else(|| datafusion::sql::sqlparser::ast::TableAlias {
                        explicit: true,
                        name: name.as_str().into(),
                        columns: Vec::new(),
                        at: None,
                    });
                *factor = TableFactor::Derived {
                    lateral: false,
                    subquery: Box::new(view.clone()),
                    alias: Some(alias),
                    sample: sample.clone(),
                };
            }
            ControlFlow::Continue(())
        }
    }
    // The visitor never breaks.
    let _ = query.visit(&mut Expander { views });
}

/// Names in an order in which each comes after what it refers to, and the circles there are.
pub(crate) fn order(edges: &BTreeMap<String, BTreeSet<String>>) -> (Vec<String>, Vec<Vec<String>>) {
    fn visit(
        name: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
        sorted: &mut Vec<String>,
        circles: &mut Vec<Vec<String>>,
    ) {
        if let Some(at) = path.iter().position(|p| p == name) {
            let mut circle = path[at..].to_vec();
            circle.push(name.to_owned());
            circles.push(circle);
            return;
        }
        if done.contains(name) {
            return;
        }
        path.push(name.to_owned());
        for next in edges.get(name).into_iter().flatten() {
            visit(next, edges, path, done, sorted, circles);
        }
        path.pop();
        if done.insert(name.to_owned()) {
            sorted.push(name.to_owned());
        }
    }
    let (mut done, mut sorted, mut circles) = (BTreeSet::new(), Vec::new(), Vec::new());
    for name in edges.keys() {
        visit(name, edges, &mut Vec::new(), &mut done, &mut sorted, &mut circles);
    }
    (sorted, circles)
}

fn plain(name: &ObjectName) -> String {
    let parts: Vec<&str> =
        name.0.iter().filter_map(|part| part.as_ident()).map(|i| i.value.as_str()).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_what_is_read_not_what_is_defined() {
        let query = parse(
            "with a as (select * from mall.orders)\nselect * from a\njoin stg_x on true\n\
             where id in (select id from b.c)",
        )
        .unwrap();
        let found: Vec<_> = references(&query).into_iter().map(|r| (r.name, r.line)).collect();
        let expected = [("b.c", 4), ("mall.orders", 1), ("stg_x", 3)];
        assert_eq!(found, expected.map(|(name, line)| (name.to_owned(), line)));
    }

    #[test]
    fn a_circle_is_named_once_and_the_rest_is_in_order() {
        let edges: BTreeMap<String, BTreeSet<String>> =
            [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]
                .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])))
                .into();
        let (sorted, circles) = order(&edges);
        assert_eq!(circles, [["b", "c", "b"]]);
        assert_eq!(sorted.last().map(String::as_str), Some("d"));
    }

    #[test]
    fn what_is_not_one_query_is_refused_with_its_line() {
        assert_eq!(parse("select 1\nfrom a where )").unwrap_err().0, 2);
        assert!(parse("drop table x").unwrap_err().1.contains("one query"));
        assert!(parse("select 1; select 2").is_err());
    }
}
