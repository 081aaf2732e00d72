//! What changed, and all tables as they were.

use std::sync::Arc;

use arrow::{array::new_null_array, record_batch::RecordBatch};
use axum::http::StatusCode;
use medlake_contract::{ChangeBatch, Op};
use serde_json::{Value, json};

use crate::{
    harness::{House, ints, orders, rows, texts},
    wire::Client,
};

/// A change of the orders: an order that goes.
fn delete(order: i64, region: &str, payable: i64) -> ChangeBatch {
    let table = orders();
    let nullable = Arc::clone(table.arrow_nullable());
    let row = vec![ints([order]), texts([region]), ints([payable])];
    let nulls = nullable.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
    let before = RecordBatch::try_new(Arc::clone(&nullable), row).unwrap();
    let after = RecordBatch::try_new(nullable, nulls).unwrap();
    ChangeBatch::new(table, vec![Op::Delete], before, after).unwrap()
}

fn upsert(order: i64, region: &str, payable: i64) -> ChangeBatch {
    rows(&orders(), vec![ints([order]), texts([region]), ints([payable])])
}

/// A lake with two commits and rows that are in none yet, and the snapshots of the orders.
async fn with_a_past() -> (House, [String; 2]) {
    let house = House::open().await;
    let snapshot = async |position: &str| {
        let sql = format!(
            "select snapshot_id from mall.\"orders$positions\" where position = '{position}'"
        );
        let (_, answer) = house.sql(&sql).await;
        answer["rows"][0][0].to_string().trim_matches('"').to_owned()
    };
    house.lake.flush().await.unwrap();
    let first = snapshot("change:1").await;
    house.publish(vec![upsert(1, "浙江", 110), delete(2, "浙江", 250), upsert(4, "北京", 40)]);
    house.lake.flush().await.unwrap();
    let second = snapshot("change:2").await;
    house.publish(vec![upsert(4, "北京", 44), upsert(5, "上海", 50)]);
    (house, [first, second])
}

async fn answer(house: &House, sql: &str) -> Value {
    let (status, answer) = house.sql(sql).await;
    assert_eq!(status, StatusCode::OK, "{sql}: {answer}");
    answer["rows"].clone()
}

async fn error(house: &House, sql: &str) -> [String; 2] {
    let (_, answer) = house.sql(sql).await;
    ["sqlstate", "message"].map(|part| answer["error"][part].as_str().unwrap_or("none").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_a_table() {
    let (house, [first, second]) = with_a_past().await;
    let changes = |arguments: &str| {
        format!("select * from changes('mall.orders', {arguments}) order by order_id, 1 desc")
    };
    let of_the_second = json!([
        ["UPDATE_BEFORE", 1, "浙江", 100],
        ["UPDATE_AFTER", 1, "浙江", 110],
        ["DELETE", 2, "浙江", 250],
        ["INSERT", 4, "北京", 40],
    ]);
    let of_both = json!([
        ["UPDATE_BEFORE", 1, "浙江", 100],
        ["UPDATE_AFTER", 1, "浙江", 110],
        ["DELETE", 2, "浙江", 250],
        ["INSERT", 4, "北京", 44],
        ["INSERT", 5, "上海", 50],
    ]);
    assert_eq!(answer(&house, &changes(&format!("'{first}', {second}"))).await, of_the_second);
    assert_eq!(answer(&house, &changes(&first)).await, of_both, "up to what is in memory");
    let later = json!([
        ["UPDATE_BEFORE", 4, "北京", 40],
        ["UPDATE_AFTER", 4, "北京", 44],
        ["INSERT", 5, "上海", 50],
    ]);
    assert_eq!(answer(&house, &changes(&second)).await, later);
    assert_eq!(answer(&house, &changes("'main'")).await, later, "a branch");
    let back = json!([["UPDATE_BEFORE", 1, "浙江", 110], ["UPDATE_AFTER", 1, "浙江", 100]]);
    let sql = format!(
        "select * from changes('mall.orders', {second}, {first}) where order_id = 1 order by 1 desc"
    );
    assert_eq!(answer(&house, &sql).await, back);

    // Times, in any form they are written in; before the first commit there were no rows.
    for from in [
        "'2000-01-01'",
        "date '2000-01-01'",
        "timestamp '2000-01-01 00:00:00'",
        "now() - interval '40 years'",
    ] {
        let sql = format!(
            "select _change_type, count(*) from changes('mall.orders', {from}, '{first}') group by 1"
        );
        assert_eq!(answer(&house, &sql).await, json!([["INSERT", 3]]), "{from}");
    }
    let sql = format!("select count(*) from changes('mall.orders', {first})");
    assert_eq!(answer(&house, &sql).await, json!([[5]]));
    let sql = format!(
        "select c.order_id, o.payable_fen from changes('mall.orders', {first}) c \
         join mall.orders o on o.order_id = c.order_id and o.region = c.region \
         where c._change_type = 'INSERT' order by 1"
    );
    assert_eq!(answer(&house, &sql).await, json!([[4, 44], [5, 50]]));

    // The other door, simple and prepared; a table is looked up as in a query.
    let mut client = Client::connect(&house, &[]).await;
    client.query("set search_path to mall").await;
    let sql = format!("select _change_type, order_id from Changes('orders', {second}) order by 1");
    let expected = [["INSERT", "5"], ["UPDATE_AFTER", "4"], ["UPDATE_BEFORE", "4"]];
    assert_eq!(client.query(&sql).await.rows, expected);
    let sql = format!("{sql} limit $1");
    client.parse("", &sql, &[]).await;
    client.bind("", &[Some(b"2")], (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.rows, expected[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_of_changes_are_said() {
    let (house, [first, _]) = with_a_past().await;
    for (call, state, part) in [
        ("changes()", "22023", "it takes 2 or 3 arguments, not 0"),
        ("changes('mall.orders')", "22023", "it takes 2 or 3 arguments, not 1"),
        ("changes('mall.nothing', 1)", "42P01", "relation \"mall.nothing\" does not exist"),
        ("changes('Mall Orders', 1)", "42P01", "relation \"Mall Orders\" does not exist"),
        ("changes(mall.orders, 1)", "22023", "the table must be a text"),
        ("changes(7, 1)", "22023", "the table must be a text"),
        ("changes('mall.orders', null)", "22023", "the beginning must not be null"),
        ("changes('mall.orders', true)", "22023", "must be a time or a snapshot id"),
        ("changes('mall.orders', $1)", "22023", "the beginning must be a constant"),
        ("changes('mall.orders', 'soon')", "22023", "neither a snapshot id nor a time"),
        ("changes('mall.orders', 7)", "42704", "it is not a snapshot of this table, or no longer"),
        ("changes('mall.orders', 'main', random())", "22023", "the end must be a constant"),
    ] {
        let [found, message] = error(&house, &format!("select * from {call}")).await;
        assert_eq!(found, state, "{call}: {message}");
        assert!(message.contains(part), "{call}: {message}");
    }
    let write = format!("insert into mall.orders select * from changes('mall.orders', {first})");
    assert_eq!(error(&house, &write).await[0], "25006");
}
