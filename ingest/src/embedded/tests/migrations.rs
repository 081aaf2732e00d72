//! Tables that become other ones, while changes from before are still to be read.

use super::*;
use crate::states_table;

type Shapes = BTreeMap<String, String>;

impl Service {
    async fn shapes(&mut self) -> Shapes {
        let mut shapes = Shapes::new();
        for name in schema::names(&mut self.connection).await.unwrap() {
            let shape: String = sqlx::query_scalar(
                "select json_group_array(json_array(name, type, json(iif(\"notnull\", 'true', 'false')), pk)
                     order by cid) from pragma_table_xinfo(?)",
            )
            .bind(&name)
            .fetch_one(&mut self.connection)
            .await
            .unwrap();
            shapes.insert(name, shape);
        }
        shapes
    }

    /// As the services do it: without triggers, and what became of tables stands among the changes.
    async fn migrate(&mut self, sql: &str, reread: &[&str]) {
        let before = self.shapes().await;
        let triggers: Vec<String> =
            sqlx::query_scalar("select name from sqlite_schema where type = 'trigger'")
                .fetch_all(&mut self.connection)
                .await
                .unwrap();
        self.sql("begin immediate").await;
        for trigger in triggers {
            self.sql(&format!("drop trigger {trigger}")).await;
        }
        self.sql(sql).await;
        let after = self.shapes().await;
        self.sql("insert into cdc_transaction (committed_at) values (0)").await;
        let names: std::collections::BTreeSet<&String> =
            before.keys().chain(after.keys()).collect();
        for name in names {
            let again = reread.contains(&name.as_str());
            if before.get(name) == after.get(name) && !again {
                continue;
            }
            sqlx::query(
                "insert into cdc_change (tx_id, table_name, op, after)
                 values ((select max(tx_id) from cdc_transaction), 'cdc_schema', 'c',
                     json_array(?1, json(?2), json(?3), ?4))",
            )
            .bind(name)
            .bind(before.get(name))
            .bind(after.get(name))
            .bind(again)
            .execute(&mut self.connection)
            .await
            .unwrap();
            sqlx::query(
                "insert into cdc_schema (change_id, table_name, before, after, reread)
                 values ((select max(change_id) from cdc_change), ?1, ?2, ?3, ?4)",
            )
            .bind(name)
            .bind(before.get(name))
            .bind(after.get(name))
            .bind(again)
            .execute(&mut self.connection)
            .await
            .unwrap();
        }
        self.capture().await;
        self.sql("commit").await;
    }
}

/// A reader who keeps rows by the columns' names, follows what becomes of columns, and can be opened
/// again where it is.
#[derive(Debug, Default, Clone)]
struct Lake {
    resume: Resume,
    rows: BTreeMap<String, BTreeMap<Vec<String>, BTreeMap<String, String>>>,
}

impl Lake {
    fn apply(&mut self, cut: &ChangeSet) {
        for change in &cut.schemas {
            let name = change.table.name();
            let rows = self.rows.entry(name.to_string()).or_default();
            for row in rows.values_mut() {
                for (before, now) in &change.renamed {
                    if let Some(value) = row.remove(before) {
                        row.insert(now.clone(), value);
                    }
                }
                row.retain(|column, _| change.table.columns().iter().any(|c| c.name == *column));
            }
            self.resume.tables.retain(|t| t.name() != name);
            self.resume.tables.push(Arc::clone(&change.table));
        }
        for batch in &cut.batches {
            let table = batch.table();
            if table.name() == states_table().name() {
                for state in states_in(batch.after()) {
                    self.resume.states.retain(|s| s.table != state.table);
                    self.resume.states.push(state);
                }
                continue;
            }
            assert_ne!(table.name().namespace(), "system", "{batch:?}");
            let known = self.resume.tables.iter().find(|t| t.name() == table.name());
            assert_eq!(known, Some(table), "the columns are those told");
            let rows = self.rows.entry(table.name().to_string()).or_default();
            for (at, op) in batch.ops().iter().enumerate() {
                if *op != Op::Insert {
                    rows.remove(&key(table, batch.before(), at));
                }
                if *op != Op::Delete {
                    rows.insert(key(table, batch.after(), at), row(batch.after(), at));
                }
            }
        }
        for copy in &cut.copies {
            let rows = self.rows.entry(copy.table.name().to_string()).or_default();
            // All of these tables fit into one chunk.
            match &copy.scope {
                CopyScope::Rows => {}
                CopyScope::Range { after: None, to: None, except } => {
                    let keys = except.iter().flat_map(|keys| {
                        let texts = |at| keys.columns().iter().map(move |c| exact(c.as_ref(), at));
                        (0..keys.num_rows()).map(move |at| texts(at).collect::<Vec<_>>())
                    });
                    let keys: Vec<_> = keys.collect();
                    rows.retain(|key, _| keys.contains(key));
                }
                other => panic!("{other:?}"),
            }
            for at in 0..copy.rows.num_rows() {
                rows.insert(key(&copy.table, &copy.rows, at), row(&copy.rows, at));
            }
        }
        self.resume.positions.extend(cut.positions.clone());
    }

    async fn open(&mut self, service: &Service) -> Ingest {
        let source = service.source().await;
        let ingest = Ingest::open(vec![source.into()], &self.resume).await.unwrap();
        for table in ingest.tables() {
            if !self.resume.tables.iter().any(|t| t.name() == table.name()) {
                self.resume.tables.push(table);
            }
        }
        ingest
    }

    async fn read(&mut self, service: &Service) {
        let mut ingest = self.open(service).await;
        for cut in settle(&mut ingest, limits(1)).await {
            self.apply(&cut);
        }
    }

    /// `table` as the database has it.
    async fn check(&self, service: &mut Service, table: &str) {
        let columns: Vec<String> = sqlx::query_scalar("select name from pragma_table_info(?)")
            .bind(table)
            .fetch_all(&mut service.connection)
            .await
            .unwrap();
        let pairs: Vec<String> =
            columns.iter().map(|c| format!("'{c}', cast({c} as text)")).collect();
        let sql = format!("select json_object({}) from {table}", pairs.join(", "));
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut service.connection)
            .await
            .unwrap();
        let read = |row: &String| -> BTreeMap<String, String> {
            let row: BTreeMap<String, Option<String>> = serde_json::from_str(row).unwrap();
            row.into_iter().filter_map(|(column, value)| Some((column, value?))).collect()
        };
        let mut expected: Vec<_> = rows.iter().map(read).collect();
        expected.sort();
        let found = self.rows.get(&format!("shop.{table}")).into_iter().flat_map(BTreeMap::values);
        let mut found: Vec<_> = found.cloned().collect();
        found.sort();
        assert_eq!(found, expected, "{table}");
    }
}

fn row(rows: &arrow::array::RecordBatch, at: usize) -> BTreeMap<String, String> {
    let fields = rows.schema_ref().fields().iter().zip(rows.columns());
    let there = fields.filter(|(_, column)| column.is_valid(at));
    there.map(|(field, column)| (field.name().clone(), exact(column.as_ref(), at))).collect()
}

fn key(table: &TableSchema, rows: &arrow::array::RecordBatch, at: usize) -> Vec<String> {
    table.key_indices().iter().map(|&c| exact(rows.column(c).as_ref(), at)).collect()
}

/// Columns go and come while nobody reads; the same cuts also come out of reading all from the
/// beginning, of going on in between, and of going on after each cut.
#[tokio::test]
async fn changes_are_read_by_the_columns_they_were_written_with() {
    let mut service = Service::new().await;
    service.sql("create table note (note_id INTEGER primary key, a TEXT, b TEXT, c INTEGER)").await;
    service.capture().await;
    service.write("insert into note values (1, 'a1', 'b1', 1), (2, 'a2', 'b2', 2)").await;
    let mut in_between = Lake::default();
    in_between.read(&service).await;
    service.write("update note set b = 'b3' where note_id = 1").await;
    // `c` now stands where `b` stood, and text where the number did.
    service
        .migrate("alter table note drop column b; alter table note add column d TEXT", &["note"])
        .await;
    service.write("insert into note values (3, 'a3', 3, 'd3')").await;
    service.write("update note set d = 'd1', c = 11 where note_id = 1").await;
    service.migrate("alter table note drop column a", &[]).await;
    service.write("delete from note where note_id = 2; insert into note values (4, 4, 'd4')").await;
    service.migrate("create table late (late_id INTEGER primary key, x TEXT)", &[]).await;
    service.write("insert into late values (1, 'x')").await;
    service.migrate("alter table late rename column x to y", &["late"]).await;
    service.write("insert into late values (2, 'y')").await;
    service.migrate("drop table pair", &[]).await;
    service.write("insert into late values (3, 'z')").await;

    in_between.read(&service).await;
    let mut whole = Lake::default();
    whole.read(&service).await;
    let mut each = Lake::default();
    for _ in 0..200 {
        let mut ingest = each.open(&service).await;
        let cut = tokio::time::timeout(Duration::from_millis(200), ingest.next(limits(1))).await;
        match cut {
            Ok(cut) => each.apply(&cut.unwrap()),
            Err(_) => break,
        }
    }
    each.read(&service).await;
    for lake in [&in_between, &whole, &each] {
        lake.check(&mut service, "note").await;
        lake.check(&mut service, "late").await;
        let state = |table: &str| lake.resume.states.iter().find(|s| s.table.table() == table);
        assert_eq!(state("note").unwrap().phase, Phase::Streaming);
        let dropped = state("pair").unwrap();
        assert_eq!(dropped.phase, Phase::Stopped);
        assert!(dropped.reason.as_ref().unwrap().contains("dropped"), "{dropped:?}");
    }
}

#[tokio::test]
async fn each_change_of_columns_is_told_right_before_the_first_change_that_has_them() {
    let mut service = Service::new().await;
    service.write("insert into pair values (1, 'old', 5)").await;
    let mut ingest = service.ingest(&Positions::new()).await;
    drain(&mut ingest, CutLimits::default()).await;
    service.write("insert into pair values (2, 'old', 5)").await;
    service.migrate("alter table pair add column note TEXT", &[]).await;
    service.write("insert into pair values (3, 'new', 6, 'kept')").await;
    let cuts = drain(&mut ingest, CutLimits::default()).await;
    let [old, new] = cuts.as_slice() else { panic!("{cuts:?}") };
    assert_eq!((old.schemas.len(), old.batches[0].after().num_columns()), (0, 3));
    assert_eq!((new.schemas.len(), new.batches[0].after().num_columns()), (1, 4));
    assert_eq!((&old.positions, &new.positions), (&at(2), &at(4)), "it has a place of its own");
    assert_eq!(&new.schemas[0].table, new.batches[0].table());
    service.migrate("alter table pair rename column note to remark", &[]).await;
    let cuts = drain(&mut ingest, CutLimits::default()).await;
    assert_eq!(cuts[0].schemas[0].renamed, [("note".to_owned(), "remark".to_owned())]);
    // An empty table is told as soon as it is there.
    service.migrate("create table late (late_id INTEGER primary key)", &[]).await;
    let cut = ingest.next(CutLimits::default()).await.unwrap();
    assert_eq!(cut.schemas[0].table.name().to_string(), "shop.late");
    assert_eq!(row_count(&cut), 0);
}

#[tokio::test]
async fn rows_that_a_migration_wrote_are_read_again() {
    let mut service = Service::new().await;
    service.write("insert into pair values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)").await;
    let mut lake = Lake::default();
    lake.read(&service).await;
    service
        .migrate(
            "delete from pair where left_id = 1; update pair set n = 20 where left_id = 2;
             alter table pair add column kind TEXT not null default 'plain'",
            &["pair"],
        )
        .await;
    service.write("update pair set n = 30 where left_id = 3").await;
    lake.read(&service).await;
    lake.check(&mut service, "pair").await;
    assert_eq!(lake.rows["shop.pair"].len(), 2);
    // Once is enough.
    let mut ingest = lake.open(&service).await;
    assert!(ingest.try_next(limits(1)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_table_that_was_trimmed_too_far_heals_by_copying() {
    let mut service = Service::new().await;
    service.write("insert into pair values (1, 'a', 1), (2, 'b', 2)").await;
    let mut lake = Lake::default();
    lake.read(&service).await;
    service
        .write("update pair set n = 20 where left_id = 2; delete from pair where left_id = 1")
        .await;
    service.migrate("alter table pair add column note TEXT; drop table item", &[]).await;
    service.write("insert into pair values (3, 'c', 3, 'note')").await;
    service.sql("delete from cdc_change; insert into cdc_trimmed values (1, 7)").await;
    lake.read(&service).await;
    lake.check(&mut service, "pair").await;
    service.write("insert into pair values (4, 'd', 4, null)").await;
    lake.read(&service).await;
    lake.check(&mut service, "pair").await;
    assert_eq!(lake.resume.positions, at(8));
}
