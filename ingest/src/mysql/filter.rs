use crate::pattern::matches;

/// Which tables are taken in.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    database: String,
    patterns: Vec<String>,
}

impl Filter {
    /// Tables of `database` that match one of `patterns`, in which `*` is anything, and none of those
    /// with a `!` before them.
    pub(crate) fn new(database: &str, patterns: &[String]) -> Self {
        let patterns = patterns.iter().map(|p| p.to_ascii_lowercase()).collect();
        Self { database: database.to_owned(), patterns }
    }

    pub(crate) fn is_database(&self, name: &str) -> bool {
        self.database == name
    }

    pub(crate) fn takes(&self, database: &str, table: &str) -> bool {
        let table = table.to_ascii_lowercase();
        let any = |out: bool| {
            let patterns = self.patterns.iter().filter(|p| p.starts_with('!') == out);
            patterns.map(|p| p.trim_start_matches('!')).any(|p| matches(p, &table))
        };
        self.is_database(database) && any(false) && !any(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_chosen_by_patterns() {
        let patterns = ["or*".to_owned(), "*_Item".to_owned(), "!*_tmp".to_owned()];
        let filter = Filter::new("shop", &patterns);
        for (table, expected) in [
            ("orders", true),
            ("Orders", true),
            ("cart_item", true),
            ("item", false),
            ("orders_tmp", false),
            ("or", true),
        ] {
            assert_eq!(filter.takes("shop", table), expected, "{table}");
        }
        assert!(!filter.takes("other", "orders"));
    }
}
