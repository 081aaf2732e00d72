//! What changed, and all tables as they were.

use std::sync::Arc;

use arrow::{array::new_null_array, datatypes::Field, record_batch::RecordBatch};
use axum::http::StatusCode;
use medlake_contract::{ChangeBatch, Op};
use medlake_query_server::QueryServerConfig;
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

/// Rows that went are held in memory while those that came are read, and are counted.
#[tokio::test(flavor = "multi_thread")]
async fn changes_have_no_more_memory_than_other_statements() {
    let config = QueryServerConfig { memory_limit_bytes: 16 << 20, ..QueryServerConfig::default() };
    let house = House::open_with(config).await;
    let many = 10..150_010;
    let regions = texts(std::iter::repeat_n("海南", many.clone().count()));
    house.publish(vec![rows(&orders(), vec![ints(many.clone()), regions, ints(many)])]);
    house.lake.flush().await.unwrap();
    let table = orders();
    let none = |f: &Arc<Field>| new_null_array(f.data_type(), 1);
    let none = table.arrow_nullable().fields().iter().map(none).collect();
    let none = RecordBatch::try_new(Arc::clone(table.arrow_nullable()), none).unwrap();
    let truncate = ChangeBatch::new(table, vec![Op::Truncate], none.clone(), none).unwrap();
    house.publish(vec![truncate, upsert(1, "浙江", 100)]);
    let sql = "select count(*) from changes('mall.orders', 'main')";
    assert_eq!(error(&house, sql).await[0], "53200");
    let sql = "select count(*) from changes('mall.orders', '2000-01-01', 'main')";
    assert_eq!(answer(&house, sql).await, json!([[150_003]]), "rows that come are not held");
}

/// Whatever way a session asks for the past, all its tables are of one cut, until it asks for the
/// present again.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_the_past() {
    let (house, [first, second]) = with_a_past().await;
    let both = "select (select count(*) from mall.orders), \
                (select sum(gmv_paid_fen) from marts.gmv_daily where region = '广东')";
    let mut client = Client::connect(&house, &[]).await;
    let mut other = Client::connect(&house, &[]).await;
    assert_eq!(client.query(both).await.rows, [["4", "70"]]);
    client.query(&format!("set medlake.as_of = '{first}'")).await;
    assert_eq!(client.query(both).await.rows, [["3", "70"]]);
    assert_eq!(client.query("show medlake.as_of").await.rows, [[first.as_str()]]);
    client.parse("", "select region from mall.orders where order_id = $1", &[]).await;
    client.bind("", &[Some(b"2")], (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.rows, [["浙江"]]);
    client.query(&format!("set medlake.as_of to {second}")).await;
    let since = format!("select count(*) from changes('mall.orders', {first})");
    assert_eq!(client.query(&since).await.rows, [["4"]], "up to the cut it reads");
    client.query("set medlake.as_of = '2000-01-01'").await;
    assert_eq!(client.query(both).await.rows, [["0", "<null>"]]);
    assert_eq!(other.query(both).await.rows, [["4", "70"]], "others are where they were");
    for back in ["reset medlake.as_of", "set medlake.as_of = ''", "discard all"] {
        client.query(&format!("set medlake.as_of = '{first}'")).await;
        assert_eq!(client.query(back).await.code(), "", "{back}");
        assert_eq!(client.query(both).await.rows, [["4", "70"]], "{back}");
    }
    assert_eq!(client.query("set medlake.as_of = 'soon'").await.code(), "22023");
    client.query("set medlake.as_of = 7").await;
    assert_eq!(client.query(both).await.code(), "42704");

    let options = format!("-c medlake.as_of={first}");
    let mut past = Client::connect(&house, &[("options", &options)]).await;
    assert_eq!(past.query(both).await.rows, [["3", "70"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reads_the_past() {
    let (house, [first, _]) = with_a_past().await;
    let ask = async |as_of: &str| {
        let sql = "select sum(payable_fen) from mall.orders";
        house.post("/api/v1/sql", json!({ "sql": sql, "as_of": as_of })).await
    };
    let (status, answer) = ask(&first).await;
    assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!([[420]])), "{answer}");
    assert_eq!(answer["view"]["positions"], json!({"mall": "change:1"}), "the view it was read of");
    let (_, answer) = ask("2200-01-01T00:00:00Z").await;
    assert_eq!(answer["rows"], json!([[220]]), "the newest commit, without what is in memory only");
    let (status, answer) = ask("soon").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("as_of"), "{answer}");
    let (_, answer) = ask("7").await;
    assert_eq!(answer["error"]["code"], "not_found", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_several_times_meet_in_a_query() {
    let (house, [first, second]) = with_a_past().await;
    let sql = format!(
        "select orders.order_id, old.payable_fen, orders.payable_fen \
         from mall.orders for system_version as of {second} \
         join mall.orders for system_version as of '{first}' as old using (order_id) \
         where old.payable_fen <> orders.payable_fen"
    );
    assert_eq!(answer(&house, &sql).await, json!([[1, 100, 110]]));
    let sql = "select count(*) from mall.orders for system_time as of timestamp '2000-01-01' \
               union all select count(*) from mall.orders";
    assert_eq!(answer(&house, &format!("{sql} order by 1")).await, json!([[0], [4]]));
    let sql = "select * from mall.nothing for system_time as of '2000-01-01'";
    assert_eq!(error(&house, sql).await[0], "42P01");
}
