//! Three small services in memory: seeded random histories of rows, as change batches.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    },
    record_batch::RecordBatch,
};
use medlake_contract::{ChangeBatch, ColumnType, Op, TableSchema};

pub(crate) const MICROS: i64 = 1_000_000;
pub(crate) const HOUR: i64 = 3600 * MICROS;
/// 2026-11-20T12:00:00Z.
pub(crate) const START: i64 = 1_795_176_000 * MICROS;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Whole(i64),
    Text(String),
    Flag(bool),
}

impl Cell {
    pub(crate) fn whole(&self) -> i64 {
        match self {
            Self::Whole(value) => *value,
            other => panic!("{other:?} is not a number"),
        }
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Whole(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

pub(crate) type Row = Vec<Cell>;

/// A linear congruential generator: the same histories on every machine.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: i64) -> i64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % n
    }

    pub(crate) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(i64::try_from(of.len()).unwrap())).unwrap()]
    }
}

/// One table: rows by key, and the changes not yet taken.
pub(crate) struct Table {
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) rows: BTreeMap<i64, Row>,
    log: Vec<(Op, Option<Row>, Option<Row>)>,
}

pub(crate) struct World {
    pub(crate) tables: BTreeMap<String, Table>,
    next_id: i64,
}

impl World {
    pub(crate) fn new(schemas: &[Arc<TableSchema>]) -> Self {
        let tables = schemas.iter().map(|schema| {
            let table =
                Table { schema: Arc::clone(schema), rows: BTreeMap::new(), log: Vec::new() };
            (schema.name().table().to_owned(), table)
        });
        Self { tables: tables.collect(), next_id: 1 }
    }

    pub(crate) fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn at(&self, table: &str, id: i64, column: &str) -> &Cell {
        let table = &self.tables[table];
        &table.rows[&id][table.schema.arrow().index_of(column).unwrap()]
    }

    pub(crate) fn insert(&mut self, table: &str, row: Row) {
        let table = self.tables.get_mut(table).unwrap();
        assert_eq!(row.len(), table.schema.columns().len(), "{}", table.schema.name());
        table.log.push((Op::Insert, None, Some(row.clone())));
        assert!(table.rows.insert(row[0].whole(), row).is_none());
    }

    pub(crate) fn set(&mut self, table: &str, id: i64, values: &[(&str, Cell)]) {
        let table = self.tables.get_mut(table).unwrap();
        let row = table.rows.get_mut(&id).unwrap();
        let before = row.clone();
        for (column, value) in values {
            row[table.schema.arrow().index_of(column).unwrap()] = value.clone();
        }
        table.log.push((Op::Update, Some(before), Some(row.clone())));
    }

    pub(crate) fn remove(&mut self, table: &str, id: i64) {
        let table = self.tables.get_mut(table).unwrap();
        let row = table.rows.remove(&id).unwrap();
        table.log.push((Op::Delete, Some(row), None));
    }

    pub(crate) fn truncate(&mut self, table: &str) {
        let table = self.tables.get_mut(table).unwrap();
        assert!(!table.rows.is_empty());
        table.rows.clear();
        table.log.push((Op::Truncate, None, None));
    }

    /// A key that is there, if any is.
    pub(crate) fn any(&self, table: &str, dice: &mut Dice) -> Option<i64> {
        let rows = &self.tables[table].rows;
        let count = i64::try_from(rows.len()).unwrap();
        if count == 0 {
            return None;
        }
        rows.keys().nth(usize::try_from(dice.below(count)).unwrap()).copied()
    }

    /// The changes since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<ChangeBatch> {
        let mut batches = Vec::new();
        for table in self.tables.values_mut().filter(|table| !table.log.is_empty()) {
            let log = std::mem::take(&mut table.log);
            let ops = log.iter().map(|(op, _, _)| *op).collect();
            let before = rows(&table.schema, log.iter().map(|(_, row, _)| row.as_ref()));
            let after = rows(&table.schema, log.iter().map(|(_, _, row)| row.as_ref()));
            let batch = ChangeBatch::new(Arc::clone(&table.schema), ops, before, after).unwrap();
            batches.push(batch);
        }
        batches
    }

    /// All rows there are now, as inserts.
    pub(crate) fn everything(&self) -> Vec<ChangeBatch> {
        let filled = self.tables.values().filter(|table| !table.rows.is_empty());
        filled
            .map(|table| {
                let rows = rows(&table.schema, table.rows.values().map(Some));
                ChangeBatch::inserts(Arc::clone(&table.schema), &rows).unwrap()
            })
            .collect()
    }

    pub(crate) fn order(&mut self, dice: &mut Dice, created_at: i64, channel: &str) -> i64 {
        while self.tables["pharmacy"].rows.len() < 3 {
            let id = self.id();
            let name = format!("药房 {id}");
            let region = dice.one(&["浙江", "江苏"]);
            self.insert(
                "pharmacy",
                vec![id.into(), 1.into(), name.as_str().into(), region.into(), 0.into()],
            );
        }
        while self.tables["product"].rows.len() < 6 {
            let id = self.id();
            self.product(id, dice);
        }
        let order = self.id();
        let (mut list, mut goods, mut discount) = (0, 0, 0);
        for number in 1..=1 + dice.below(4) {
            let product = self.any("product", dice).unwrap();
            let (quantity, price) = (1 + dice.below(3), 100 + dice.below(9_900));
            let amount = quantity * price;
            let cut = amount / (5 + dice.below(10));
            let (reduction, platform) = ((amount - cut) / 10, (amount - cut) / 20);
            let line = self.id();
            self.insert(
                "order_line",
                vec![
                    line.into(),
                    1.into(),
                    order.into(),
                    number.into(),
                    product.into(),
                    quantity.into(),
                    price.into(),
                    amount.into(),
                    cut.into(),
                    (amount - cut).into(),
                    reduction.into(),
                    0.into(),
                    platform.into(),
                    1.into(),
                    (amount - cut - reduction - platform - 1).into(),
                    0.into(),
                    0.into(),
                ],
            );
            list += amount;
            goods += amount - cut;
            discount += reduction + platform + 1;
        }
        let pharmacy = self.any("pharmacy", dice).unwrap();
        let shipping = dice.below(2) * 600;
        let person = 1 + dice.below(50);
        self.insert(
            "orders",
            vec![
                order.into(),
                1.into(),
                person.into(),
                pharmacy.into(),
                channel.into(),
                Cell::Null,
                Cell::Null,
                "created".into(),
                list.into(),
                goods.into(),
                discount.into(),
                shipping.into(),
                (goods - discount + shipping).into(),
                0.into(),
                created_at.into(),
                Cell::Null,
                Cell::Null,
            ],
        );
        order
    }

    fn product(&mut self, id: i64, dice: &mut Dice) {
        let category = dice.one(&["感冒", "慢病", "器械"]);
        self.insert(
            "product",
            vec![
                id.into(),
                1.into(),
                "药品".into(),
                "otc".into(),
                category.into(),
                Cell::Null,
                Cell::Null,
                Cell::Null,
                Cell::Null,
                100.into(),
                "quality_only".into(),
                0.into(),
                0.into(),
            ],
        );
    }

    pub(crate) fn pay(&mut self, dice: &mut Dice, order: i64, paid_at: i64) {
        if *self.at("orders", order, "paid_at") != Cell::Null {
            return;
        }
        self.set("orders", order, &[("status", "paid".into()), ("paid_at", paid_at.into())]);
        while self.tables["distributor"].rows.len() < 3 {
            let id = self.id();
            self.insert(
                "distributor",
                vec![
                    id.into(),
                    1.into(),
                    id.into(),
                    Cell::Null,
                    "person".into(),
                    "分销员".into(),
                    Cell::Flag(true),
                    0.into(),
                ],
            );
        }
        let lines: Vec<(i64, i64)> = self.lines_of(order);
        for (line, cash) in lines.into_iter().filter(|(_, cash)| cash / 10 > 0) {
            for level in 1..=dice.below(3) {
                let beneficiary = self.any("distributor", dice).unwrap();
                let (commission, entry) = (self.id(), self.id());
                let booked = cash / 10;
                self.insert(
                    "commission",
                    vec![
                        commission.into(),
                        1.into(),
                        order.into(),
                        line.into(),
                        beneficiary.into(),
                        level.into(),
                        cash.into(),
                        1000.into(),
                        Cell::Null,
                        booked.into(),
                        0.into(),
                        "frozen".into(),
                        paid_at.into(),
                        paid_at.into(),
                    ],
                );
                let event = format!("order_paid:{order}");
                self.insert(
                    "commission_entry",
                    vec![
                        entry.into(),
                        1.into(),
                        commission.into(),
                        line.into(),
                        beneficiary.into(),
                        level.into(),
                        "accrue".into(),
                        booked.into(),
                        event.as_str().into(),
                        paid_at.into(),
                    ],
                );
            }
        }
    }

    fn lines_of(&self, order: i64) -> Vec<(i64, i64)> {
        let table = &self.tables["order_line"];
        let cash = table.schema.arrow().index_of("cash_fen").unwrap();
        let lines = table.rows.values().filter(|row| row[2].whole() == order);
        lines.map(|row| (row[0].whole(), row[cash].whole())).collect()
    }

    pub(crate) fn refund(&mut self, dice: &mut Dice, order: i64, at: i64) {
        if *self.at("orders", order, "paid_at") == Cell::Null {
            return;
        }
        let amount = 1 + dice.below(500);
        let refund = self.id();
        self.insert(
            "refund",
            vec![
                refund.into(),
                1.into(),
                order.into(),
                amount.into(),
                "不想要".into(),
                "succeeded".into(),
                at.into(),
                at.into(),
            ],
        );
        let refunded = self.at("orders", order, "refunded_fen").whole() + amount;
        self.set("orders", order, &[("refunded_fen", refunded.into())]);
        let commissions: Vec<Row> = self.tables["commission"]
            .rows
            .values()
            .filter(|row| row[2].whole() == order && row[10].whole() == 0)
            .cloned()
            .collect();
        for row in commissions {
            let back = row[9].whole() / 2;
            if back == 0 {
                continue;
            }
            let entry = self.id();
            let id = row[0].whole();
            self.set("commission", id, &[("reversed_fen", back.into()), ("updated_at", at.into())]);
            let event = format!("refund:{refund}");
            self.insert(
                "commission_entry",
                vec![
                    entry.into(),
                    1.into(),
                    id.into(),
                    row[3].clone(),
                    row[4].clone(),
                    row[5].clone(),
                    "reverse".into(),
                    (-back).into(),
                    event.as_str().into(),
                    at.into(),
                ],
            );
        }
    }

    fn patient(&mut self, dice: &mut Dice, at: i64) {
        let id = self.id();
        let condition = dice.one(&["hypertension", "diabetes", "other"]);
        self.insert(
            "patient",
            vec![
                id.into(),
                1.into(),
                (id + 1000).into(),
                "female".into(),
                Cell::Null,
                condition.into(),
                at.into(),
                "active".into(),
            ],
        );
    }

    fn care(&mut self, dice: &mut Dice, at: i64) {
        let day = (at + 8 * HOUR).div_euclid(24 * HOUR);
        let Some(patient) = self.any("patient", dice) else { return self.patient(dice, at) };
        match dice.below(11) {
            0 => self.patient(dice, at),
            1 | 2 => {
                let id = self.id();
                let (drug, class) = (dice.one(&["a", "b"]), dice.one(&["rasa", "statin"]));
                let on = day - dice.below(500);
                let days = 10 + dice.below(60);
                self.insert(
                    "dispensing",
                    vec![
                        id.into(),
                        1.into(),
                        patient.into(),
                        drug.into(),
                        class.into(),
                        on.into(),
                        days.into(),
                        "hospital".into(),
                        at.into(),
                    ],
                );
            }
            3 => {
                let id = self.id();
                let class = dice.one(&["rasa", "statin"]);
                self.insert(
                    "medication_plan",
                    vec![
                        id.into(),
                        1.into(),
                        patient.into(),
                        "a".into(),
                        class.into(),
                        2.into(),
                        day.into(),
                        Cell::Null,
                        "active".into(),
                        at.into(),
                        at.into(),
                    ],
                );
            }
            4 | 5 => {
                let Some(plan) = self.any("medication_plan", dice) else { return };
                let patient = self.at("medication_plan", plan, "patient_id").clone();
                let id = self.id();
                let status = dice.one(&["taken", "late", "missed"]);
                let scheduled = at - dice.below(400) * 24 * HOUR;
                self.insert(
                    "dose_event",
                    vec![
                        id.into(),
                        1.into(),
                        plan.into(),
                        patient,
                        scheduled.into(),
                        status.into(),
                        Cell::Null,
                        at.into(),
                    ],
                );
            }
            6 => {
                let id = self.id();
                let quality = dice.one(&["ok", "suspect"]);
                let measured = at - dice.below(40) * 24 * HOUR;
                self.insert(
                    "reading",
                    vec![
                        id.into(),
                        1.into(),
                        patient.into(),
                        "blood_pressure".into(),
                        130.into(),
                        80.into(),
                        Cell::Null,
                        Cell::Null,
                        quality.into(),
                        measured.into(),
                        at.into(),
                    ],
                );
            }
            7 => {
                let id = self.id();
                let on_target = match dice.below(3) {
                    0 => Cell::Null,
                    n => Cell::Flag(n == 1),
                };
                self.insert(
                    "follow_up",
                    vec![
                        id.into(),
                        1.into(),
                        patient.into(),
                        (at - dice.below(9) * HOUR).into(),
                        "visit".into(),
                        Cell::Null,
                        Cell::Null,
                        Cell::Null,
                        on_target,
                        Cell::Null,
                    ],
                );
            }
            8 => {
                let status = dice.one(&["active", "left", "restricted"]);
                self.set("patient", patient, &[("status", status.into())]);
            }
            9 => {
                let Some(plan) = self.any("medication_plan", dice) else { return };
                let class = dice.one(&["rasa", "statin"]);
                self.set("medication_plan", plan, &[("drug_class", class.into())]);
            }
            _ => {
                if let Some(id) = self.any("dispensing", dice) {
                    self.remove("dispensing", id);
                }
                if let Some(id) = self.any("dose_event", dice) {
                    self.set("dose_event", id, &[("status", "late".into())]);
                }
            }
        }
    }

    /// One thing that happens, around `at`, on either side of midnight in Shanghai.
    pub(crate) fn happen(&mut self, dice: &mut Dice, at: i64) {
        let at = at + dice.below(4 * 3600) * MICROS;
        let channel = dice.one(&["app", "mini_program", "h5", "pharmacy"]);
        match dice.below(20) {
            0..=4 => {
                let order = self.order(dice, at, channel);
                if dice.below(2) == 0 {
                    let paid_at = at + dice.below(6) * HOUR;
                    self.pay(dice, order, paid_at);
                }
            }
            5..=7 => {
                if let Some(order) = self.any("orders", dice) {
                    self.pay(dice, order, at);
                }
            }
            8 | 9 => {
                if let Some(order) = self.any("orders", dice) {
                    self.refund(dice, order, at);
                }
            }
            10 => {
                if let Some(id) = self.any("pharmacy", dice) {
                    let name = format!("药房 {id} {}", dice.below(9));
                    self.set("pharmacy", id, &[("name", name.as_str().into())]);
                }
            }
            11 => {
                if let Some(id) = self.any("product", dice) {
                    let category = dice.one(&["感冒", "慢病", "器械"]);
                    self.set("product", id, &[("category", category.into())]);
                }
            }
            12 => {
                if let Some(id) = self.any("distributor", dice) {
                    let name = format!("分销员 {}", dice.below(9));
                    self.set("distributor", id, &[("name", name.as_str().into())]);
                }
            }
            13 => {
                // An order that moves: other pharmacy, other channel.
                if let Some(order) = self.any("orders", dice) {
                    let pharmacy = self.any("pharmacy", dice).unwrap();
                    let moved = [("pharmacy_id", pharmacy.into()), ("channel", channel.into())];
                    self.set("orders", order, &moved);
                }
            }
            14 => {
                // An order that goes, with everything below it.
                let Some(order) = self.any("orders", dice) else { return };
                for table in ["refund", "order_line"] {
                    let below: Vec<i64> = self.tables[table]
                        .rows
                        .iter()
                        .filter(|(_, row)| row[2].whole() == order)
                        .map(|(id, _)| *id)
                        .collect();
                    for id in below {
                        self.remove(table, id);
                    }
                }
                self.remove("orders", order);
            }
            _ => self.care(dice, at),
        }
    }
}

fn rows<'a>(schema: &TableSchema, rows: impl Iterator<Item = Option<&'a Row>>) -> RecordBatch {
    let rows: Vec<Option<&Row>> = rows.collect();
    let columns = schema.columns().iter().enumerate().map(|(at, column)| {
        let wholes = || {
            rows.iter().map(move |row| match row.map(|row| &row[at]) {
                None | Some(Cell::Null) => None,
                Some(Cell::Whole(value)) => Some(*value),
                Some(other) => panic!("{other:?} in {}", column.name),
            })
        };
        let array: ArrayRef = match column.ty {
            ColumnType::Int64 => Arc::new(wholes().collect::<Int64Array>()),
            ColumnType::Date => Arc::new(
                wholes().map(|d| d.map(|d| i32::try_from(d).unwrap())).collect::<Date32Array>(),
            ),
            ColumnType::TimestampMicros => {
                let micros: TimestampMicrosecondArray = wholes().collect();
                Arc::new(micros.with_timezone("UTC"))
            }
            ColumnType::Boolean => Arc::new(
                rows.iter()
                    .map(|row| match row.map(|row| &row[at]) {
                        Some(Cell::Flag(value)) => Some(*value),
                        _ => None,
                    })
                    .collect::<BooleanArray>(),
            ),
            _ => Arc::new(
                rows.iter()
                    .map(|row| match row.map(|row| &row[at]) {
                        Some(Cell::Text(value)) => Some(value.as_str()),
                        _ => None,
                    })
                    .collect::<StringArray>(),
            ),
        };
        array
    });
    RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns.collect()).unwrap()
}
