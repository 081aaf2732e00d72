//! Tables, values and transactions as a source of any kind could have them, made from a seed.

use std::ops::Range;

use rand::{RngExt as _, rngs::StdRng};
use uuid::Uuid;

/// What a column holds. Each source has its own type for those it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    TinyInt,
    SmallInt,
    Int,
    IntUnsigned,
    BigInt,
    BigIntUnsigned,
    /// Digits in all, and after the point.
    Decimal(u8, u8),
    Float,
    Double,
    /// So many characters.
    Varchar(u16),
    Text,
    Blob,
    Date,
    DateTime,
    Timestamp,
    Time,
    Year,
    Enum,
    Set,
    Json,
    Bits,
    Uuid,
    /// An address of the internet.
    Inet6,
}

/// The words of an enum or a set column.
pub(crate) const WORDS: [&str; 4] = ["neu", "bezahlt", "退款", "it's"];

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    /// Decimal digits with a point.
    Decimal(String),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Days since 1970.
    Days(i32),
    /// Microseconds since 1970, of a day and a time.
    Micros(i64),
    /// Microseconds of a time of day or a duration.
    Clock(i64),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
}

impl Column {
    pub(crate) fn new(name: &str, kind: Kind, nullable: bool) -> Self {
        Self { name: name.to_owned(), kind, nullable }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Int,
    Text,
    Composite,
    Uuid,
    /// Rows may occur more than once.
    None,
}

/// A table: the columns of its key, its slot, and others that come and go.
///
/// Each row has a slot, a number statements find it by; the key is made from it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) key: Key,
    pub(crate) columns: Vec<Column>,
    /// How many columns were ever added: names are not used again.
    added: usize,
}

impl Table {
    pub(crate) fn new(name: &str, key: Key, payload: &[Kind]) -> Self {
        let mut columns = match key {
            Key::Int => vec![Column::new("id", Kind::BigInt, false)],
            Key::Text => vec![Column::new("code", Kind::Varchar(40), false)],
            Key::Composite => vec![
                Column::new("region", Kind::Int, false),
                Column::new("code", Kind::Varchar(40), false),
            ],
            Key::Uuid => vec![Column::new("code", Kind::Uuid, false)],
            Key::None => vec![],
        };
        columns.push(Column::new("slot", Kind::BigInt, false));
        let mut table = Self { name: name.to_owned(), key, columns, added: 0 };
        for kind in payload {
            let column = table.next_column(*kind);
            table.columns.push(column);
            table.added += 1;
        }
        table
    }

    pub(crate) fn key_columns(&self) -> &[Column] {
        let count = match self.key {
            Key::Int | Key::Text | Key::Uuid => 1,
            Key::Composite => 2,
            Key::None => 0,
        };
        &self.columns[..count]
    }

    /// The columns after key and slot begin here.
    pub(crate) fn payload(&self) -> usize {
        self.key_columns().len() + 1
    }

    /// The key columns and the slot of the row at `slot`.
    pub(crate) fn head(&self, slot: i64) -> Vec<Value> {
        let int = |n: i64| Value::Int(i128::from(n));
        let mut head = match self.key {
            Key::Int => vec![int(slot)],
            Key::Text => vec![Value::Text(format!("k-{slot}-药"))],
            Key::Composite => vec![int(slot % 7), Value::Text(format!("c'{}", slot / 7))],
            // Of the first version or the seventh, which a server has in different orders.
            Key::Uuid => {
                let version = if slot % 2 == 0 { "1" } else { "7" };
                vec![Value::Text(format!("{slot:08x}-0000-{version}000-8000-{:012x}", slot % 5))]
            }
            Key::None => vec![],
        };
        head.push(int(slot));
        head
    }

    fn next_column(&self, kind: Kind) -> Column {
        Column::new(&format!("c{}", self.added), kind, true)
    }

    pub(crate) fn alter(&mut self, change: &Alter) {
        match change {
            Alter::Add { column, at } => {
                self.columns.insert(*at, column.clone());
                self.added += 1;
            }
            Alter::Drop { name } => self.columns.retain(|c| c.name != *name),
            Alter::Rename { name, to } => {
                if let Some(column) = self.columns.iter_mut().find(|c| c.name == *name) {
                    column.name.clone_from(to);
                }
                self.added += 1;
            }
            Alter::Widen { name, kind } => {
                if let Some(column) = self.columns.iter_mut().find(|c| c.name == *name) {
                    column.kind = *kind;
                }
            }
        }
    }
}

/// What becomes of a table's columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Alter {
    /// A new column, null in the rows there are, before the one that is at this place now.
    Add {
        column: Column,
        at: usize,
    },
    Drop {
        name: String,
    },
    Rename {
        name: String,
        to: String,
    },
    Widen {
        name: String,
        kind: Kind,
    },
}

/// What one statement, or a few like it, does to one table.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Rows at slots, each with the columns after key and slot. One whose key is there is left out.
    Insert(Vec<(i64, Vec<Value>)>),
    /// As [`Action::Insert`], but what is there goes.
    Replace(Vec<(i64, Vec<Value>)>),
    /// Sets columns, by their place, of the rows at these slots.
    Update(Range<i64>, Vec<(usize, Value)>),
    /// Moves the row at the first slot to the second, key and all, unless one is there.
    Rekey(i64, i64),
    Delete(Range<i64>),
    /// Alone in its transaction.
    Truncate,
}

#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) table: Table,
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) steps: Vec<Step>,
    pub(crate) commit: bool,
}

/// Slots of a table: few enough that writers meet each other's rows.
const SLOTS: i64 = 1_200;

/// Makes values, transactions and alterations from a seed.
pub(crate) struct Generator {
    pub(crate) random: StdRng,
    kinds: Vec<Kind>,
}

impl Generator {
    pub(crate) fn new(random: StdRng, kinds: &[Kind]) -> Self {
        Self { random, kinds: kinds.to_vec() }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())]
    }

    /// Tables of all sorts of keys, which have all kinds of columns between them.
    pub(crate) fn tables(&mut self, keys: &[Key]) -> Vec<Table> {
        let share = self.kinds.len().div_ceil(keys.len());
        let kinds = self.kinds.clone();
        let mut shares = kinds.chunks(share).map(<[Kind]>::to_vec).collect::<Vec<_>>();
        shares.resize(keys.len(), vec![]);
        keys.iter()
            .zip(shares)
            .map(|(key, mut payload)| {
                for _ in 0..3 {
                    payload.push(self.pick(&kinds));
                }
                let name = match key {
                    Key::Int => "crash_int",
                    Key::Text => "crash_text",
                    Key::Composite => "crash_two",
                    Key::Uuid => "crash_uuid",
                    Key::None => "crash_none",
                };
                Table::new(name, *key, &payload)
            })
            .collect()
    }

    /// A transaction over some of `tables`.
    pub(crate) fn transaction(&mut self, tables: &[Table], truncates: bool) -> Transaction {
        if truncates && self.one_in(150) {
            let table = tables[self.random.random_range(0..tables.len())].clone();
            return Transaction {
                steps: vec![Step { table, action: Action::Truncate }],
                commit: true,
            };
        }
        let large = self.one_in(60);
        let count = if large { 1 } else { self.random.random_range(1..=6) };
        let steps = (0..count)
            .map(|_| {
                let table = tables[self.random.random_range(0..tables.len())].clone();
                let action = if large { self.bulk(&table) } else { self.action(&table) };
                Step { table, action }
            })
            .collect();
        Transaction { steps, commit: !self.one_in(12) }
    }

    fn slot(&mut self) -> i64 {
        self.random.random_range(0..SLOTS)
    }

    fn action(&mut self, table: &Table) -> Action {
        let slot = self.slot();
        match self.random.random_range(0..10) {
            0..=3 => {
                let count = self.random.random_range(1..=5);
                let rows = (0..count).map(|_| (self.slot(), self.payload(table))).collect();
                if self.one_in(6) { Action::Replace(rows) } else { Action::Insert(rows) }
            }
            4..=6 => {
                let wide = self.random.random_range(1..20);
                Action::Update(slot..slot + wide, self.sets(table))
            }
            7 => Action::Rekey(slot, self.slot()),
            _ => Action::Delete(slot..slot + self.random.random_range(1..6)),
        }
    }

    /// More rows than fit a cut.
    fn bulk(&mut self, table: &Table) -> Action {
        match self.random.random_range(0..4) {
            0 | 1 => {
                let from = self.random.random_range(0..SLOTS / 2);
                let rows = (from..from + SLOTS / 2).map(|slot| (slot, self.payload(table)));
                Action::Insert(rows.collect())
            }
            2 => Action::Update(0..SLOTS, self.sets(table)),
            _ => {
                let from = self.random.random_range(0..SLOTS / 2);
                Action::Delete(from..from + SLOTS / 2)
            }
        }
    }

    pub(crate) fn payload(&mut self, table: &Table) -> Vec<Value> {
        let columns = &table.columns[table.payload()..];
        columns.iter().map(|c| self.value(c.kind, c.nullable)).collect()
    }

    fn sets(&mut self, table: &Table) -> Vec<(usize, Value)> {
        let all: Vec<usize> = (table.payload()..table.columns.len()).collect();
        if all.is_empty() {
            return vec![];
        }
        let mut chosen: Vec<usize> =
            (0..self.random.random_range(1..=3)).map(|_| self.pick(&all)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        let kinds =
            chosen.into_iter().map(|i| (i, table.columns[i].kind, table.columns[i].nullable));
        kinds.map(|(i, kind, nullable)| (i, self.value(kind, nullable))).collect()
    }

    /// How a table may change; none if this one cannot in the way that was drawn.
    pub(crate) fn alteration(&mut self, table: &Table) -> Option<Alter> {
        let payload = table.payload()..table.columns.len();
        let some =
            |g: &mut Self| (!payload.is_empty()).then(|| g.random.random_range(payload.clone()));
        match self.random.random_range(0..5) {
            0 | 1 => {
                let kinds = self.kinds.clone();
                let mut column = table.next_column(self.pick(&kinds));
                // Those whose default is a value like any other.
                if matches!(column.kind, Kind::Int | Kind::BigInt | Kind::Varchar(_) | Kind::Uuid) {
                    column.nullable = self.random.random();
                }
                let at = self.random.random_range(payload.start..=payload.end);
                Some(Alter::Add { column, at })
            }
            2 if payload.len() > 2 => {
                let at = some(self)?;
                Some(Alter::Drop { name: table.columns[at].name.clone() })
            }
            3 => {
                let at = some(self)?;
                let name = table.columns[at].name.clone();
                Some(Alter::Rename { name, to: format!("c{}", table.added) })
            }
            _ => payload.clone().find_map(|at| {
                let column = &table.columns[at];
                let kind = match column.kind {
                    Kind::TinyInt | Kind::SmallInt => Kind::Int,
                    Kind::Int => Kind::BigInt,
                    Kind::Decimal(10, 2) => Kind::Decimal(20, 2),
                    Kind::Varchar(40) => Kind::Varchar(400),
                    Kind::Float => Kind::Double,
                    _ => return None,
                };
                Some(Alter::Widen { name: column.name.clone(), kind })
            }),
        }
    }

    /// A new last column.
    pub(crate) fn addition(&mut self, table: &Table) -> Alter {
        let kinds = self.kinds.clone();
        Alter::Add { column: table.next_column(self.pick(&kinds)), at: table.columns.len() }
    }

    fn value(&mut self, kind: Kind, nullable: bool) -> Value {
        if nullable && self.one_in(8) {
            return Value::Null;
        }
        let edge = self.one_in(6);
        let mut int = |low: i128, high: i128| {
            let edges = [low, high, 0, 1];
            Value::Int(if edge { self.pick(&edges) } else { self.random.random_range(low..=high) })
        };
        match kind {
            Kind::Bool => Value::Bool(self.random.random()),
            Kind::TinyInt => int(-128, 127),
            Kind::SmallInt => int(-32_768, 32_767),
            Kind::Int => int(i32::MIN.into(), i32::MAX.into()),
            Kind::IntUnsigned => int(0, u32::MAX.into()),
            Kind::BigInt => int(i64::MIN.into(), i64::MAX.into()),
            Kind::BigIntUnsigned => int(0, u64::MAX.into()),
            Kind::Bits => int(0, 255),
            Kind::Year => Value::Int(self.random.random_range(1901..=2155)),
            Kind::Decimal(digits, scale) => self.decimal(digits, scale, edge),
            // Few enough digits that every printed form is exact.
            Kind::Float => Value::Double(f64::from(self.random.random_range(-7_999..8_000)) / 8.0),
            Kind::Double => {
                let exponent = self.random.random_range(-30..30);
                let digits: f64 = self.random.random_range(-1.0..1.0);
                Value::Double(if edge { 0.0 } else { digits * 10f64.powi(exponent) })
            }
            Kind::Varchar(length) => self.text(usize::from(length).min(40)),
            Kind::Text => {
                let most = if self.one_in(20) { 3_000 } else { 60 };
                self.text(most)
            }
            Kind::Blob => {
                let most = if self.one_in(20) { 3_000 } else { 40 };
                let length = self.random.random_range(0..most);
                Value::Bytes((0..length).map(|_| self.random.random()).collect())
            }
            // From the year 1000 to 9999.
            Kind::Date => Value::Days(self.random.random_range(-354_285..2_932_896)),
            Kind::DateTime => Value::Micros(self.micros(-30_610_224_000, 253_402_300_799)),
            Kind::Timestamp => Value::Micros(self.micros(1, 2_147_483_646)),
            Kind::Time => {
                let most = if edge { 3_020_399_000_000 } else { 86_399_999_999 };
                Value::Clock(self.random.random_range(if edge { -most } else { 0 }..=most))
            }
            Kind::Enum => Value::Text(self.pick(&WORDS).to_owned()),
            Kind::Set => {
                let chosen: Vec<&str> =
                    WORDS.into_iter().filter(|_| self.random.random()).collect();
                Value::Text(chosen.join(","))
            }
            Kind::Uuid => {
                let mut bytes: [u8; 16] = self.random.random();
                // Zeros at the end are not written.
                bytes[if edge { 9 } else { 16 }..].fill(0);
                // The variant of all versions that are in use; a server does not take all above the seventh.
                bytes[8] = bytes[8] & 0x3f | 0x80;
                bytes[6] &= 0x7f;
                Value::Text(Uuid::from_bytes(bytes).to_string())
            }
            Kind::Inet6 => {
                let mut groups: [u16; 8] = self.random.random();
                let zeros = self.random.random_range(0..8)..self.random.random_range(0..8);
                if let Some(groups) = groups.get_mut(zeros) {
                    groups.fill(0);
                }
                Value::Text(groups.map(|group| format!("{group:x}")).join(":"))
            }
            Kind::Json => {
                let n: i32 = self.random.random();
                Value::Text(format!(r#"{{"n": {n}, "名": [true, null, "a\"b"], "x": {{}}}}"#))
            }
        }
    }

    fn micros(&mut self, from_seconds: i64, to_seconds: i64) -> i64 {
        let micros = if self.one_in(3) { 0 } else { self.random.random_range(0..1_000_000) };
        self.random.random_range(from_seconds..to_seconds) * 1_000_000 + micros
    }

    fn decimal(&mut self, digits: u8, scale: u8, edge: bool) -> Value {
        let (before, after) = (usize::from(digits - scale), usize::from(scale));
        let mut run =
            |length: usize| -> String {
                (0..length)
                    .map(|_| {
                        if edge {
                            '9'
                        } else {
                            char::from(b'0' + self.random.random_range(0..10u8))
                        }
                    })
                    .collect()
            };
        let text = format!("{}.{}", run(before), run(after));
        Value::Decimal(if self.random.random() { format!("-{text}") } else { text })
    }

    fn text(&mut self, most: usize) -> Value {
        const PARTS: [&str; 12] =
            ["a", "Z", " ", "'", "\"", "\\", "%", "药", "é", "😀", "\n", "null"];
        let length = self.random.random_range(0..=most / 4);
        Value::Text((0..length).map(|_| self.pick(&PARTS)).collect())
    }
}
