//! As much of a statement as says which tables it defines anew. What they are then, the next table
//! map tells; what it cannot tell is which column is which under a new name, that rows went, and what
//! fixed bytes are.

use super::table_map::FixedBytes;

/// What a statement does to tables, as far as it matters to whoever holds their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ddl {
    /// Columns have other names, as (before, now).
    Columns(Name, Vec<(String, String)>),
    /// There are new columns.
    Added(Name, Vec<Added>),
    /// Columns that may have been there have fixed bytes from here on.
    Fixed(Name, Vec<(String, FixedBytes)>),
    /// Its texts are bytes from here on.
    Bytes(Name),
    /// All rows went.
    Truncate(Name),
    /// Some rows went, or came, without a trace in the binlog; and how.
    Partition(Name),
    /// The table went, or has this other name.
    Gone(Name, Option<Name>),
    /// The table is there, and may be new.
    Made(Name),
    /// All tables of a database went.
    Database(String),
    /// Rows were changed by a statement, and the binlog has the statement instead of the rows: the
    /// words that may be names in it.
    Rows(Vec<String>),
}

/// A column that is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) name: String,
    /// The rows there are have more in it than null, or may have.
    pub(crate) filled: bool,
    /// Unless there is one of its name.
    pub(crate) if_not_exists: bool,
    /// What it has, if that is a fixed number of bytes.
    pub(crate) bytes: Option<FixedBytes>,
}

/// A table, with its database if the statement names that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) database: Option<String>,
    pub(crate) table: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word as it is.
    Word(String),
    /// A name in back ticks, or in double quotes.
    Name(String),
    /// A text or number.
    Literal,
    Sign(char),
}

/// What `sql` does, in order.
pub(crate) fn parse(sql: &str) -> Vec<Ddl> {
    let tokens = tokens(sql);
    let mut words = Words { tokens: &tokens };
    let mut found = Vec::new();
    // MariaDB lets settings stand before any statement, and logs them with it.
    if words.eat("SET") && words.eat("STATEMENT") {
        while !words.tokens.is_empty() && !words.eat("FOR") {
            words.skip();
        }
    }
    if words.eat("ALTER") {
        words.eat("ONLINE");
        words.eat("IGNORE");
        if words.eat("TABLE") {
            alter(&mut words, &mut found);
        }
    } else if words.eat("RENAME") {
        if words.eat("TABLE") || words.eat("TABLES") {
            words.if_exists();
            while let Some(before) = words.name() {
                // MariaDB lets a wait stand in between.
                while !words.tokens.is_empty() && !words.eat("TO") {
                    words.skip();
                }
                let now = words.name();
                found.push(Ddl::Gone(before, now));
                if !words.sign(',') {
                    break;
                }
            }
        }
    } else if words.eat("DROP") {
        // Temporary tables are not the ones we have.
        if words.eat("TABLE") || words.eat("TABLES") {
            words.if_exists();
            while let Some(table) = words.name() {
                found.push(Ddl::Gone(table, None));
                if !words.sign(',') {
                    break;
                }
            }
        } else if words.eat("DATABASE") || words.eat("SCHEMA") {
            words.if_exists();
            found.extend(words.identifier().map(Ddl::Database));
        }
    } else if words.eat("TRUNCATE") {
        words.eat("TABLE");
        found.extend(words.name().map(Ddl::Truncate));
    } else if words.eat("CREATE") {
        // One that takes the place of another. Temporary tables are nobody's but their session's.
        let replaces = words.eat("OR") && words.eat("REPLACE");
        if words.eat("TABLE") {
            words.if_exists();
            if let Some(name) = words.name() {
                found.extend(replaces.then(|| Ddl::Gone(name.clone(), None)));
                found.push(Ddl::Made(name));
            }
        }
    } else if ["INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "WITH"].iter().any(|w| words.eat(w))
    {
        let names = tokens.iter().filter_map(|token| match token {
            Token::Word(name) | Token::Name(name) => Some(name.clone()),
            _ => None,
        });
        found.push(Ddl::Rows(names.collect()));
    }
    found
}

fn alter(words: &mut Words<'_>, found: &mut Vec<Ddl>) {
    words.if_exists();
    let Some(table) = words.name() else { return };
    if words.eat("WAIT") || words.eat("NOWAIT") {
        while matches!(words.tokens.first(), Some(Token::Literal)) {
            words.skip();
        }
    }
    let (mut renamed, mut added, mut fixed) = (Vec::new(), Vec::new(), Vec::new());
    let mut new_name = None;
    let (mut partition, mut bytes) = (false, false);
    for clause in words.clauses() {
        let mut words = Words { tokens: clause };
        if words.eat("RENAME") {
            if words.eat("COLUMN") {
                words.if_exists();
                let before = words.identifier();
                words.eat("TO");
                renamed.extend(before.zip(words.identifier()));
            } else if !["INDEX", "KEY", "CONSTRAINT"].iter().any(|w| words.eat(w)) {
                let _ = words.eat("TO") || words.eat("AS") || words.sign('=');
                new_name = words.name();
            }
        } else if words.eat("CHANGE") {
            words.eat("COLUMN");
            words.if_exists();
            let before = words.identifier();
            let now = words.identifier();
            fixed.extend(now.clone().zip(words.fixed_bytes()));
            renamed.extend(before.zip(now));
        } else if words.eat("MODIFY") {
            words.eat("COLUMN");
            words.if_exists();
            fixed.extend(words.identifier().zip(words.fixed_bytes()));
        } else if words.eat("ADD") {
            added.extend(words.added());
        } else if ["DROP", "TRUNCATE", "EXCHANGE", "CONVERT", "DISCARD", "IMPORT"]
            .iter()
            .any(|w| words.eat(w))
        {
            partition |= words.eat("PARTITION") || words.eat("TABLE") || words.eat("TABLESPACE");
            bytes |= words.eat("TO") && words.words().iter().any(|word| word == "BINARY");
        }
    }
    // A name that only changes its case is the same name here.
    renamed.retain(|(before, now)| !before.eq_ignore_ascii_case(now));
    if !renamed.is_empty() {
        found.push(Ddl::Columns(table.clone(), renamed));
    }
    if !fixed.is_empty() {
        found.push(Ddl::Fixed(table.clone(), fixed));
    }
    if !added.is_empty() {
        found.push(Ddl::Added(table.clone(), added));
    }
    if bytes {
        found.push(Ddl::Bytes(table.clone()));
    }
    if partition {
        found.push(Ddl::Partition(table.clone()));
    }
    if new_name.is_some() {
        found.push(Ddl::Gone(table, new_name));
    }
}

struct Words<'a> {
    tokens: &'a [Token],
}

impl<'a> Words<'a> {
    fn skip(&mut self) {
        self.tokens = self.tokens.get(1..).unwrap_or_default();
    }

    fn eat(&mut self, word: &str) -> bool {
        let found =
            matches!(self.tokens.first(), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        if found {
            self.skip();
        }
        found
    }

    fn sign(&mut self, sign: char) -> bool {
        let found = self.tokens.first() == Some(&Token::Sign(sign));
        if found {
            self.skip();
        }
        found
    }

    fn if_exists(&mut self) -> bool {
        let found = self.eat("IF");
        if found {
            self.eat("NOT");
            self.eat("EXISTS");
        }
        found
    }

    fn identifier(&mut self) -> Option<String> {
        let (Token::Word(name) | Token::Name(name)) = self.tokens.first()? else { return None };
        self.skip();
        Some(name.clone())
    }

    fn name(&mut self) -> Option<Name> {
        let first = self.identifier()?;
        if !self.sign('.') {
            return Some(Name { database: None, table: first });
        }
        Some(Name { database: Some(first), table: self.identifier()? })
    }

    /// The columns that are added, after the word.
    fn added(&mut self) -> Vec<Added> {
        let is_column = self.eat("COLUMN");
        let if_not_exists = self.if_exists();
        let inside = match self.tokens {
            [Token::Sign('('), inside @ .., Token::Sign(')')] => inside,
            all => all,
        };
        let columns = Words { tokens: inside }.clauses();
        columns.filter_map(|tokens| Words { tokens }.column(is_column, if_not_exists)).collect()
    }

    fn column(&mut self, is_column: bool, if_not_exists: bool) -> Option<Added> {
        const OTHERS: [&str; 12] = [
            "INDEX",
            "KEY",
            "CONSTRAINT",
            "PRIMARY",
            "UNIQUE",
            "FULLTEXT",
            "SPATIAL",
            "FOREIGN",
            "CHECK",
            "PARTITION",
            "PERIOD",
            "SYSTEM",
        ];
        if !is_column && OTHERS.iter().any(|word| self.eat(word)) {
            return None;
        }
        let name = self.identifier()?;
        let bytes = self.fixed_bytes();
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let is_filled = words.windows(2).any(|two| match two {
            ["NOT", "NULL"] => true,
            ["DEFAULT", value] => *value != "NULL",
            _ => false,
        });
        let is_made = ["GENERATED", "AS", "AUTO_INCREMENT", "SERIAL"];
        // A server may give it the time of now, if it is not told to let it be null.
        let is_now = words.first() == Some(&"TIMESTAMP") && !words.contains(&"NULL");
        let filled = is_filled || is_now || is_made.iter().any(|word| words.contains(word));
        Some(Added { name, filled, if_not_exists, bytes })
    }

    /// What the type that comes next has, if that is a fixed number of bytes.
    fn fixed_bytes(&self) -> Option<FixedBytes> {
        let words = self.words();
        let is_binary = |two: &[String]| {
            matches!(two[0].as_str(), "SET" | "CHARSET") && two[1] == "BINARY" || two[1] == "BYTE"
        };
        match words.first()?.as_str() {
            "UUID" => Some(FixedBytes::Uuid),
            "INET4" | "INET6" => Some(FixedBytes::Address),
            "BINARY" => Some(FixedBytes::Plain),
            "CHAR" | "CHARACTER" => words.windows(2).any(is_binary).then_some(FixedBytes::Plain),
            _ => None,
        }
    }

    /// The words that are left, in upper case; empty for what is no word.
    fn words(&self) -> Vec<String> {
        let word = |token: &Token| match token {
            Token::Word(word) => word.to_ascii_uppercase(),
            _ => String::new(),
        };
        self.tokens.iter().map(word).collect()
    }

    /// What is between commas that are not in brackets.
    fn clauses(&self) -> impl Iterator<Item = &'a [Token]> + use<'a> {
        let mut depth = 0_usize;
        self.tokens.split(move |token| {
            match token {
                Token::Sign('(') => depth += 1,
                Token::Sign(')') => depth = depth.saturating_sub(1),
                Token::Sign(',') => return depth == 0,
                _ => {}
            }
            false
        })
    }
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = match first {
            _ if first.is_whitespace() => after,
            // What is in a comment for this server is part of the statement.
            '/' if after.starts_with("*!") || after.starts_with("*M!") => {
                let inside = after.trim_start_matches(['*', 'M', '!']);
                inside.trim_start_matches(|c: char| c.is_ascii_digit())
            }
            '/' if after.starts_with('*') => after.split_once("*/").map_or("", |(_, rest)| rest),
            '*' if after.starts_with('/') => &after[1..],
            '#' => after.split_once('\n').map_or("", |(_, rest)| rest),
            '-' if after.starts_with("- ")
                || after.starts_with("-\t")
                || after.starts_with("-\n") =>
            {
                after.split_once('\n').map_or("", |(_, rest)| rest)
            }
            '`' | '"' | '\'' => {
                let (text, rest) = quoted(after, first);
                tokens.push(if first == '\'' { Token::Literal } else { Token::Name(text) });
                rest
            }
            _ if first.is_alphanumeric() || matches!(first, '_' | '$') => {
                let end = rest
                    .find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$'))
                    .unwrap_or(rest.len());
                let word = &rest[..end];
                tokens.push(if word.chars().all(|c| c.is_ascii_digit()) {
                    Token::Literal
                } else {
                    Token::Word(word.to_owned())
                });
                &rest[end..]
            }
            sign => {
                tokens.push(Token::Sign(sign));
                after
            }
        };
    }
    tokens
}

/// The text up to `quote`, which stands twice for itself, and what follows.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character == quote {
            if !rest.as_str().starts_with(quote) {
                return (out, rest.as_str());
            }
            rest.next();
        } else if character == '\\' && quote != '`' {
            out.extend(rest.next());
            continue;
        }
        out.push(character);
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        match text.split_once('.') {
            Some((d, t)) => Name { database: Some(d.to_owned()), table: t.to_owned() },
            None => Name { database: None, table: text.to_owned() },
        }
    }

    #[test]
    fn statements_are_understood_as_far_as_they_matter() {
        let columns = |table, pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            Ddl::Columns(name(table), pairs.collect())
        };
        let of_mark = |column: &str| match column {
            _ if column.contains('#') => Some(FixedBytes::Uuid),
            _ if column.contains('@') => Some(FixedBytes::Address),
            _ if column.contains('=') => Some(FixedBytes::Plain),
            _ => None,
        };
        let unmarked = |column: &str| column.trim_end_matches(['+', '?', '#', '@', '=']).to_owned();
        // A `+` for one that has values, a `?` for one that may be there; `#` for a UUID, `@` for an
        // address, `=` for other fixed bytes.
        let added = |table, columns: &[&str]| {
            let column = |column: &&str| Added {
                name: unmarked(column),
                filled: column.contains('+'),
                if_not_exists: column.contains('?'),
                bytes: of_mark(column),
            };
            Ddl::Added(name(table), columns.iter().map(column).collect())
        };
        let fixed = |table, columns: &[&str]| {
            let columns = columns.iter().map(|c| (unmarked(c), of_mark(c).unwrap()));
            Ddl::Fixed(name(table), columns.collect())
        };
        for (sql, expected) in [
            ("alter table t rename column a to b", vec![columns("t", &[("a", "b")])]),
            (
                "/* x */ ALTER TABLE `shop`.`t` CHANGE `a``x` `b` decimal(10,2) NOT NULL COMMENT \
                 'change c d, e', add column (x int, y int), change column if exists c d int",
                vec![columns("shop.t", &[("a`x", "b"), ("c", "d")]), added("shop.t", &["x", "y"])],
            ),
            (
                "alter table t add a int default 5 comment 'x', add column b int null default null, \
                 add index (c), add column if not exists d varchar(9) not null after b, \
                 add (e int as (a + 1), f int), add g timestamp, add h timestamp null, \
                 add key int (i), add column `key` text default (uuid())",
                vec![added("t", &["a+", "b", "d+?", "e+", "f", "g+", "h", "key+"])],
            ),
            (
                "alter table t add column a int, add unique key b (a), add check (a is not null)",
                vec![added("t", &["a"])],
            ),
            ("alter table t change a A int", vec![]),
            (
                "alter table t add (a uuid default uuid(), b INET4), add column c binary(4) null, \
                 add d char(4) charset binary, add e char(4) binary, add f varchar(9) comment 'byte'",
                vec![added("t", &["a+#", "b@", "c=", "d=", "e", "f"])],
            ),
            (
                "alter table t modify a inet6, modify column if exists b char(16) character set \
                 binary, modify uuid int, change c d uuid not null, modify e varchar(16)",
                vec![columns("t", &[("c", "d")]), fixed("t", &["a@", "b=", "d#"])],
            ),
            (
                "set statement lock_wait_timeout=5, sql_mode='' for alter table t rename column a to b",
                vec![columns("t", &[("a", "b")])],
            ),
            ("set names utf8mb4", vec![]),
            ("alter table t convert to character set binary", vec![Ddl::Bytes(name("t"))]),
            ("alter table t convert to character set utf8mb4 collate utf8mb4_bin", vec![]),
            ("alter table t convert table u to partition p", vec![Ddl::Partition(name("t"))]),
            ("alter table t rename index a to b, add key (x), drop column y", vec![]),
            (
                "alter online ignore table t rename as s.u",
                vec![Ddl::Gone(name("t"), Some(name("s.u")))],
            ),
            ("alter table t truncate partition p0", vec![Ddl::Partition(name("t"))]),
            ("alter table t drop partition p0, p1", vec![Ddl::Partition(name("t"))]),
            (
                "rename table a to b, x.c to d",
                vec![
                    Ddl::Gone(name("a"), Some(name("b"))),
                    Ddl::Gone(name("x.c"), Some(name("d"))),
                ],
            ),
            (
                "DROP TABLE IF EXISTS `a`,`b` /* generated by server */",
                vec![Ddl::Gone(name("a"), None), Ddl::Gone(name("b"), None)],
            ),
            ("drop temporary table a", vec![]),
            ("create temporary table a (b int)", vec![]),
            (
                "create or replace table a (b int)",
                vec![Ddl::Gone(name("a"), None), Ddl::Made(name("a"))],
            ),
            ("CREATE TABLE IF NOT EXISTS `s`.`a` LIKE b", vec![Ddl::Made(name("s.a"))]),
            ("create temporary table a (b int)", vec![]),
            ("create or replace view a as select 1", vec![]),
            ("truncate s.t -- x\n", vec![Ddl::Truncate(name("s.t"))]),
            ("/*!40000 truncate table t */", vec![Ddl::Truncate(name("t"))]),
            ("drop database if exists s", vec![Ddl::Database("s".to_owned())]),
            ("create table t (a int default 'x')", vec![Ddl::Made(name("t"))]),
            ("", vec![]),
            ("alter table", vec![]),
            ("alter table t rename column 'a", vec![]),
        ] {
            assert_eq!(parse(sql), expected, "{sql}");
        }
        let Some(Ddl::Rows(words)) = parse("insert into `t` select * from u").pop() else {
            panic!("rows were changed");
        };
        assert!(words.contains(&"t".to_owned()) && words.contains(&"u".to_owned()));
    }
}
