//! Marts over a real lake, against a rebuild from nothing and an independent computation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

mod world;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::AsArray, util::pretty::pretty_format_batches};
use datafusion::prelude::{SessionConfig, SessionContext};
use medlake_contract::{ChangeBatch, ChangeSet};
use medlake_lake::{Lake, LakeConfig, ReadView};
use medlake_transforms::{Refresh, Status, Transforms};
use tempfile::TempDir;
use world::{Cell, Dice, HOUR, MICROS, START, World};

/// A lake with marts, brought up to each change set as the platform does it.
struct Line {
    lake: Lake,
    transforms: Transforms,
    folder: TempDir,
}

impl Line {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let transforms = Transforms::load().unwrap();
        let lake = open(&folder).await;
        lake.create_tables(transforms.input_tables()).await.unwrap();
        lake.create_tables(&transforms.mart_tables()).await.unwrap();
        Self { lake, transforms, folder }
    }

    async fn take(&mut self, batches: Vec<ChangeBatch>) -> Refresh {
        let committed_at_micros = Some(START);
        let raw = ChangeSet { batches, committed_at_micros, ..ChangeSet::default() };
        self.lake.stage(&raw).unwrap();
        let view = self.lake.staged_view();
        let mut refresh = self.transforms.refresh(&view, &raw.batches).await.unwrap();
        let batches = std::mem::take(&mut refresh.batches);
        self.lake.stage(&ChangeSet { batches, ..ChangeSet::default() }).unwrap();
        self.lake.publish();
        refresh
    }

    async fn marts(&self) -> BTreeMap<String, String> {
        marts(&self.lake.read_view()).await
    }
}

async fn open(folder: &TempDir) -> Lake {
    Lake::open(LakeConfig::new(folder.path(), Arc::new(|| START))).await.unwrap()
}

async fn query(view: &Arc<ReadView>, sql: &str) -> String {
    let config = SessionConfig::new().with_default_catalog_and_schema("medlake", "marts");
    let context = SessionContext::new_with_config(config);
    context.register_catalog("medlake", view.catalog());
    let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&rows).unwrap().to_string()
}

/// Every mart as text, in the order of its key.
async fn marts(view: &Arc<ReadView>) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for table in view.tables().iter().filter(|t| t.schema.name().namespace() == "marts") {
        let schema = &table.schema;
        let key: Vec<&str> =
            schema.key_indices().iter().map(|k| schema.columns()[*k].name.as_str()).collect();
        let sql = format!("select * from {} order by {}", schema.name(), key.join(", "));
        texts.insert(schema.name().to_string(), query(view, &sql).await);
    }
    texts
}

/// The marts a new lake gets from these rows.
async fn rebuilt(world: &World) -> BTreeMap<String, String> {
    let mut line = Line::new().await;
    let refresh = line.take(world.everything()).await;
    for outcome in &refresh.outcomes {
        assert_eq!(outcome.status, Status::Built, "{outcome:?}");
        assert_eq!(outcome.partitions, None);
    }
    line.marts().await
}

#[track_caller]
fn assert_same(
    seed: u64,
    step: i64,
    got: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
) {
    for (mart, text) in expected {
        assert_eq!(
            got[mart], *text,
            "seed {seed} step {step}: {mart}\ngot\n{}\nnot\n{text}",
            got[mart]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incremental_equals_a_rebuild_on_random_histories() {
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let mut line = Line::new().await;
        let mut world = World::new(line.transforms.input_tables());
        let mut partial = 0;
        for step in 0..24 {
            for _ in 0..=dice.below(9) {
                world.happen(&mut dice, START + step * 5 * HOUR);
            }
            let refresh = line.take(world.take_changes()).await;
            for outcome in &refresh.outcomes {
                assert_eq!(outcome.status, Status::Built, "seed {seed} step {step}: {outcome:?}");
                partial += usize::from(outcome.partitions.is_some());
            }
            if step == 11 {
                // A restart: states are read from the lake, and partial refreshes go on.
                line.transforms = Transforms::load().unwrap();
            }
            if step % 6 == 5 {
                assert_same(seed, step, &line.marts().await, &rebuilt(&world).await);
            }
            if step % 8 == 7 {
                line.lake.flush().await.unwrap();
            }
        }
        assert!(partial > 60, "seed {seed}: only {partial} partial refreshes");
        let view = line.lake.read_view();
        let found = numbers(&view, DAILY).await;
        assert_eq!(found, expected_totals(&world), "seed {seed}");
        assert_eq!(numbers(&view, CONTROL).await, expected_control(&world), "seed {seed}");
    }
}

/// By day: orders and GMV created, then paid orders, GMV and cash, refunds of the day and of the
/// orders paid that day. The minutes of a day and its categories must say the same as the day.
const DAILY: &str = "
    with minutes as (
        select cast(minute + interval '8 hours' as date) as business_day,
            sum(orders_paid) as orders_paid, sum(gmv_paid_fen) as gmv_paid_fen,
            sum(cash_paid_fen) as cash_paid_fen, sum(refund_amount_fen) as refund_amount_fen
        from gmv_minute group by 1
    ),
    categories as (
        select business_day, sum(cash_paid_fen) as cash_paid_fen from category_daily group by 1
    ),
    days as (
        select business_day, sum(orders_created) as orders_created,
            sum(gmv_ordered_fen) as gmv_ordered_fen,
            sum(refund_by_order_cohort_fen) as refund_by_order_cohort_fen,
            sum(net_sales_fen) as net_sales_fen
        from gmv_daily group by 1
    )
    select cast(cast(d.business_day as int) as bigint), d.orders_created, d.gmv_ordered_fen,
        coalesce(m.orders_paid, 0), coalesce(m.gmv_paid_fen, 0), coalesce(c.cash_paid_fen, 0),
        coalesce(m.cash_paid_fen, 0) - d.net_sales_fen, d.refund_by_order_cohort_fen
    from days d
    left join minutes m on m.business_day = d.business_day
    left join categories c on c.business_day = d.business_day";

const CONTROL: &str = "
    select patient_id, follow_ups, cast(on_target as bigint), 0 as c, 0 as d, 0 as e, 0 as f, 0 as g
    from control_patient";

/// A query of eight whole numbers, by the first.
async fn numbers(view: &Arc<ReadView>, sql: &str) -> BTreeMap<i64, [i64; 7]> {
    let config = SessionConfig::new().with_default_catalog_and_schema("medlake", "marts");
    let context = SessionContext::new_with_config(config);
    context.register_catalog("medlake", view.catalog());
    let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut totals = BTreeMap::new();
    for batch in rows {
        let at = |column: usize, row: usize| {
            batch.column(column).as_primitive::<arrow::datatypes::Int64Type>().value(row)
        };
        for row in 0..batch.num_rows() {
            totals.insert(at(0, row), std::array::from_fn(|i| at(i + 1, row)));
        }
    }
    totals
}

/// Follow-ups and control of each patient, computed from the rows without SQL.
fn expected_control(world: &World) -> BTreeMap<i64, [i64; 7]> {
    let status = |patient: i64| world.at("patient", patient, "status").clone();
    let patients = world.tables["patient"].rows.keys();
    patients
        // What may only be kept is in no mart.
        .filter(|patient| status(**patient) != Cell::from("restricted"))
        .map(|patient| {
            let mut visits: Vec<(i64, i64, &Cell)> = world.tables["follow_up"]
                .rows
                .values()
                .filter(|row| row[2].whole() == *patient)
                .map(|row| (row[3].whole(), row[0].whole(), &row[8]))
                .collect();
            visits.sort_by_key(|visit| (visit.0, visit.1));
            let active = status(*patient) == Cell::from("active");
            let reached = visits.last().is_some_and(|visit| *visit.2 == Cell::Flag(true));
            let count = i64::try_from(visits.len()).unwrap();
            (*patient, [count, i64::from(active && reached), 0, 0, 0, 0, 0])
        })
        .collect()
}

/// What [`DAILY`] must give, computed from the rows without SQL.
fn expected_totals(world: &World) -> BTreeMap<i64, [i64; 7]> {
    let day = |micros: i64| (micros + 8 * HOUR).div_euclid(24 * HOUR);
    let mut totals: BTreeMap<i64, [i64; 7]> = BTreeMap::new();
    for id in world.tables["orders"].rows.keys() {
        let cell = |column: &str| world.at("orders", *id, column).clone();
        let created = totals.entry(day(cell("created_at").whole())).or_default();
        created[0] += 1;
        created[1] += cell("goods_amount_fen").whole();
        if cell("paid_at") == Cell::Null {
            continue;
        }
        let paid = totals.entry(day(cell("paid_at").whole())).or_default();
        paid[2] += 1;
        paid[3] += cell("goods_amount_fen").whole();
        paid[4] += cell("payable_fen").whole() - cell("shipping_fen").whole();
        paid[6] += cell("refunded_fen").whole();
    }
    for id in world.tables["refund"].rows.keys() {
        let at = world.at("refund", *id, "succeeded_at").whole();
        totals.entry(day(at)).or_default()[5] += world.at("refund", *id, "amount_fen").whole();
    }
    totals
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was_and_a_first_run_builds() {
    let mut line = Line::new().await;
    let mut world = World::new(line.transforms.input_tables());
    let mut dice = Dice(7);
    let first = world.order(&mut dice, START, "app");
    world.pay(&mut dice, first, START);
    let refresh = line.take(world.take_changes()).await;
    assert!(refresh.outcomes.iter().all(|o| o.partitions.is_none() && o.status == Status::Built));
    line.lake.flush().await.unwrap();

    line.transforms = Transforms::load().unwrap();
    let second = world.order(&mut dice, START + 30 * HOUR, "h5");
    world.pay(&mut dice, second, START + 30 * HOUR);
    let refresh = line.take(world.take_changes()).await;
    let gmv = refresh.outcomes.iter().find(|o| o.mart.table() == "gmv_daily").unwrap();
    assert_eq!((gmv.partitions, gmv.rows, gmv.changes), (Some(1), 1, 1), "{gmv:?}");
    // Nothing of chronic care changed, so its marts were not looked at.
    assert!(!refresh.outcomes.iter().any(|o| o.mart.table() == "control_patient"));
    assert_same(7, 0, &line.marts().await, &rebuilt(&world).await);

    let refresh = line.take(Vec::new()).await;
    assert!(refresh.outcomes.is_empty(), "{:?}", refresh.outcomes);
}

#[tokio::test]
async fn a_truncated_table_leaves_nothing_behind_in_the_marts() {
    let mut line = Line::new().await;
    let mut world = World::new(line.transforms.input_tables());
    let mut dice = Dice(5);
    for step in 0..12 {
        for _ in 0..9 {
            world.happen(&mut dice, START + step * 5 * HOUR);
        }
    }
    line.take(world.take_changes()).await;
    let before = line.marts().await;
    world.truncate("reading");
    line.take(world.take_changes()).await;
    let after = line.marts().await;
    assert_ne!(before, after, "readings count for no mart");
    assert_same(5, 0, &after, &rebuilt(&world).await);
}

#[tokio::test]
async fn a_failing_test_keeps_the_old_mart_and_catches_up() {
    let mut line = Line::new().await;
    let mut world = World::new(line.transforms.input_tables());
    let mut dice = Dice(11);
    let good = world.order(&mut dice, START, "app");
    world.pay(&mut dice, good, START);
    line.take(world.take_changes()).await;
    let before = line.marts().await;

    // A channel that is not known: on day one.
    let bad = world.order(&mut dice, START + 60 * MICROS, "fax");
    world.pay(&mut dice, bad, START + 60 * MICROS);
    let refresh = line.take(world.take_changes()).await;
    let outcome = |refresh: &Refresh, mart: &str| {
        refresh.outcomes.iter().find(|o| o.mart.table() == mart).unwrap().clone()
    };
    let failed = outcome(&refresh, "gmv_daily");
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.reason.as_ref().unwrap().contains("channel in"), "{failed:?}");
    assert_eq!(outcome(&refresh, "gmv_minute").status, Status::Built);
    let after = line.marts().await;
    assert_eq!(after["marts.gmv_daily"], before["marts.gmv_daily"]);
    assert_ne!(after["marts.gmv_minute"], before["marts.gmv_minute"]);
    let states = query(
        &line.lake.read_view(),
        "select model, status, reason from system.model_state where status <> 'built'",
    )
    .await;
    assert!(states.contains("marts.gmv_daily") && !states.contains("fax"), "{states}");

    // Another day goes wrong by itself no more, but the first day is still to do.
    let next = world.order(&mut dice, START + 40 * HOUR, "app");
    world.pay(&mut dice, next, START + 40 * HOUR);
    let refresh = line.take(world.take_changes()).await;
    assert_eq!(outcome(&refresh, "gmv_daily").status, Status::Failed);
    assert_eq!(outcome(&refresh, "gmv_daily").partitions, Some(2));

    // The order is mended, which touches the first day only; both days come out right.
    world.set("orders", bad, &[("channel", "app".into())]);
    let refresh = line.take(world.take_changes()).await;
    assert_eq!(outcome(&refresh, "gmv_daily").status, Status::Built, "{refresh:?}");
    assert_same(11, 0, &line.marts().await, &rebuilt(&world).await);
    let states = query(&line.lake.read_view(), "select status from system.model_state").await;
    assert!(!states.contains("failed"), "{states}");
}

#[tokio::test]
async fn a_changed_definition_rebuilds_that_mart_only() {
    let mut line = Line::new().await;
    let mut world = World::new(line.transforms.input_tables());
    let mut dice = Dice(13);
    let order = world.order(&mut dice, START, "app");
    world.pay(&mut dice, order, START);
    line.take(world.take_changes()).await;

    let folder = line.folder.path().join("models");
    copy(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models")), &folder);
    let file = folder.join("marts/gmv_minute.sql");
    let sql = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, sql.replace("sum(amount_fen)", "sum(amount_fen) + 0")).unwrap();
    line.transforms = Transforms::load_folder(&folder).unwrap();
    let refresh = line.take(Vec::new()).await;
    let built: Vec<_> = refresh.outcomes.iter().map(|o| o.mart.table()).collect();
    assert_eq!(built, ["gmv_minute"]);
    assert_eq!(refresh.outcomes[0].changes, 0, "the rows are the same, so none is written");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
