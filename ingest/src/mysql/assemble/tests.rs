use medlake_contract::SourceId;

use super::*;
use crate::source::Page;

/// Events as MariaDB writes them, of tables whose columns are integers and whose key is the first.
#[derive(Default)]
struct Binlog {
    events: Vec<Event>,
    end: u32,
}

impl Binlog {
    fn event(&mut self, kind: u8, body: Vec<u8>) {
        self.end += 100;
        self.events.push(Event { kind, end: self.end, timestamp: 1, ..Event::default() });
        if let Some(event) = self.events.last_mut() {
            event.body = body;
        }
    }

    fn statement(mut self, sql: &str) -> Self {
        let mut body = vec![0; 8];
        body.extend([4, 0, 0, 0, 0]);
        body.extend(b"shop\0");
        body.extend(sql.as_bytes());
        self.event(kind::QUERY, body);
        self
    }

    /// A transaction of one row, of ones.
    fn insert(self, table: &str, columns: &[&str]) -> Self {
        self.inserts(table, columns, 1)
    }

    /// A transaction of so many of them, each in an event of its own.
    fn inserts(mut self, table: &str, columns: &[&str], times: usize) -> Self {
        self = self.statement("BEGIN");
        let count = u8::try_from(columns.len()).unwrap();
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        let id = self.events.len().to_le_bytes()[..6].to_vec();
        let mut map = id.clone();
        map.extend([0, 0, 4]);
        map.extend(b"shop\0");
        map.push(length(table));
        map.extend(table.as_bytes());
        map.extend([0, count]);
        map.extend(vec![3; columns.len()]);
        // No more of their types; all but the first may be null.
        map.extend([0, 0xfe]);
        map.extend([1, 1, 0, 8, 1, 0]);
        let names: Vec<u8> =
            columns.iter().flat_map(|name| [&[length(name)], name.as_bytes()].concat()).collect();
        map.extend([4, u8::try_from(names.len()).unwrap()]);
        map.extend(names);
        self.event(kind::TABLE_MAP, map);
        let mut rows = id;
        rows.extend([0, 0, count, 0xff, 0]);
        rows.extend(columns.iter().flat_map(|_| 1_i32.to_le_bytes()));
        for _ in 0..times {
            self.event(kind::WRITE_V1, rows.clone());
        }
        self.event(kind::XID, vec![0; 8]);
        self
    }

    /// All pages, should nobody wait for one.
    fn pages(self) -> Vec<Page> {
        let mut assembler = assembler();
        for event in self.events {
            assembler.take(event).unwrap();
        }
        assembler.flush().unwrap();
        std::iter::from_fn(|| assembler.pop()).map(|ready| ready.page).collect()
    }
}

fn assembler() -> Assembler {
    let place = Place { file: "mysql-bin.000001".to_owned(), ..Place::default() };
    let filter = Filter::new("shop", &["*".to_owned()]);
    Assembler::new(SourceId::new("erp"), filter, Flavour::MariaDb, place, 0, &[])
}

/// What pages say: what begins them, with the columns that were renamed, and whose rows follow.
fn told(pages: &[Page]) -> Vec<String> {
    let schema = |change: &SchemaChange| {
        let names = change.table.columns().iter().map(|c| c.name.as_str());
        let renamed: Vec<String> = change.renamed.iter().map(|(b, n)| format!("{b}>{n}")).collect();
        let names = names.collect::<Vec<_>>().join(",");
        format!("{}({names}){}", change.table.name().table(), renamed.join(","))
    };
    pages
        .iter()
        .map(|page| {
            let schemas = page.schemas.iter().map(schema);
            let rows = page
                .batches
                .iter()
                .map(|b| format!("{}:{}", b.table().name().table(), b.ops().len()));
            schemas.chain(rows).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn tables_that_change_one_after_the_other_begin_one_page() {
    let pages = Binlog::default()
        .statement("alter table a add x int")
        .statement("alter table b rename column x to y")
        .statement("alter table c add x int")
        .insert("a", &["id", "x"])
        .insert("b", &["id", "y"])
        .insert("a", &["id", "x"])
        .insert("c", &["id", "x"])
        .pages();
    assert_eq!(told(&pages), ["a(id,x) b(id,y) c(id,x) a:2 b:1 c:1"]);
}

#[test]
fn a_statement_and_what_the_rows_after_it_tell_are_one_change() {
    let pages = Binlog::default()
        .insert("a", &["id", "x"])
        .statement("alter table a change x y int, add z int")
        .statement("alter table a rename column y to w")
        .insert("a", &["id", "w", "z"])
        .pages();
    assert_eq!(told(&pages), ["a(id,x) a:1", "a(id,w,z)x>y,y>w a:1"]);
}

#[test]
fn rows_of_two_shapes_are_on_two_pages() {
    let pages = Binlog::default()
        .insert("a", &["id"])
        .insert("b", &["id"])
        .statement("alter table a add x int")
        .insert("b", &["id"])
        .insert("a", &["id", "x"])
        .insert("b", &["id"])
        .pages();
    assert_eq!(told(&pages), ["a(id) b(id) a:1 b:2", "a(id,x) a:1 b:1"]);
}

#[test]
fn a_name_that_is_given_up_and_comes_back_is_told_apart() {
    let pages = Binlog::default()
        .insert("a", &["id", "x"])
        .statement("alter table a rename column x to y")
        .statement("alter table a add x int")
        .insert("a", &["id", "y", "x"])
        .pages();
    assert_eq!(told(&pages), ["a(id,x) a:1", "a(id,y)x>y", "a(id,y,x) a:1"]);
}

#[test]
fn what_no_column_becomes_another_by_changes_nothing() {
    let pages = Binlog::default()
        .insert("a", &["id", "x"])
        .statement("alter table a add index of_x (x), comment 'numbers'")
        .statement("alter table a alter x set default 7")
        .statement("create index other on a (id, x)")
        .insert("a", &["id", "x"])
        .pages();
    assert_eq!(told(&pages), ["a(id,x) a:2"]);
}

/// Who reads on from the place of an open page leaves out the events it had of its transaction: with
/// none of them, the transaction would be a new one, and the open page never end.
#[test]
fn a_page_that_is_full_before_a_large_transaction_ends_before_it() {
    let before = Binlog::default().insert("a", &["id"]).insert("a", &["id"]);
    let large = Binlog { end: before.end, ..Binlog::default() }.inserts("b", &["id"], 5);
    let mut assembler = assembler();
    for event in before.events {
        assembler.take(event).unwrap();
    }
    // Others of the same cut had much meanwhile.
    assembler.set_limits(CutLimits { max_rows: 2, ..CutLimits::default() });
    for event in large.events {
        assembler.take(event).unwrap();
    }
    let pages: Vec<Ready> = std::iter::from_fn(|| assembler.pop()).collect();
    let ends: Vec<(bool, u64)> =
        pages.iter().map(|ready| (ready.page.open, ready.events)).collect();
    assert_eq!(ends, [(false, 0), (true, 2), (true, 4), (false, 0)]);
    let pages: Vec<Page> = pages.into_iter().map(|ready| ready.page).collect();
    assert_eq!(told(&pages), ["a(id) b(id) a:2", "b:2", "b:2", "b:1"]);
}
