//! Rows by keys of all types.

use arrow::row::{RowConverter, SortField};

use super::*;
use crate::log::Order;

/// Types, with five values in the order of their bytes or numbers.
const TYPES: [(&str, [&str; 5]); 25] = [
    ("tinyint", ["-128", "-1", "0", "1", "127"]),
    ("int unsigned", ["0", "1", "2147483648", "4294967294", "4294967295"]),
    ("bigint", ["-9223372036854775808", "-1", "0", "1", "9223372036854775807"]),
    ("bigint unsigned", ["0", "1", "2", "9223372036854775808", "18446744073709551615"]),
    ("double", ["-1e100", "-0.1", "0.1", "0.2", "1e100"]),
    ("float", ["-1e10", "-0.1", "0.1", "0.2", "1e10"]),
    ("decimal(10, 2)", ["-9.99", "-0.01", "0.01", "1.5", "10"]),
    ("decimal(65, 1)", ["-9.9", "-0.1", "0", "9", "1e50"]),
    ("date", ["'1000-01-01'", "'1969-12-31'", "'1970-01-01'", "'2024-02-29'", "'9999-12-31'"]),
    ("time(3)", ["'-838:59:59'", "'-00:00:00.001'", "'00:00:00.001'", "'10:00:00'", "'838:59:59'"]),
    (
        "datetime(6)",
        [
            "'1000-01-01'",
            "'1969-12-31 23:59:59.999999'",
            "'1970-01-01'",
            "'2024-02-29 12:00:00.000001'",
            "'9999-12-31'",
        ],
    ),
    (
        "timestamp(3)",
        [
            "'1971-01-01'",
            "'1999-12-31 23:59:59.999'",
            "'2000-01-01'",
            "'2024-02-29 12:00:00.001'",
            "'2038-01-01'",
        ],
    ),
    ("year", ["1901", "1970", "2000", "2024", "2155"]),
    ("bit(9)", ["0", "1", "2", "256", "511"]),
    ("bit(64)", ["0", "1", "2", "9223372036854775808", "18446744073709551615"]),
    ("char(5)", ["''", "'B'", "'a'", "'ö'", "'€'"]),
    ("varchar(5) character set latin1", ["''", "'B'", "'a'", "'é'", "'ö'"]),
    ("varchar(5) character set utf8mb3", ["''", "'B'", "'a'", "'ö'", "'€'"]),
    ("varchar(5) character set utf16", ["''", "'B'", "'a'", "'ö'", "'€'"]),
    ("varbinary(5)", ["''", "x'00'", "x'0000'", "x'7f'", "x'ff'"]),
    ("binary(3)", ["x'00'", "x'0001'", "x'61'", "x'7f0000'", "x'ff'"]),
    // The server has those of version 1 in the order of their ends.
    (
        "uuid",
        [
            "'00000000-0000-0000-0000-000000000000'",
            "'11111111-1111-1111-8111-22222222ff00'",
            "'22222222-1111-1111-8111-111111111111'",
            "'22222222-1111-7111-8111-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        ],
    ),
    ("inet6", ["'::'", "'::1.2.3.4'", "'::ffff:1.2.3.4'", "'2001:db8::'", "'fe80::1'"]),
    ("inet4", ["'0.0.0.0'", "'1.0.0.0'", "'10.0.0.0'", "'2.0.0.0'", "'255.255.255.255'"]),
    ("enum('c', 'B', 'a', 'ö', 'd')", ["'c'", "'B'", "'a'", "'ö'", "'d'"]),
];

#[tokio::test]
async fn rows_by_keys_of_all_types_are_all_there_in_any_chunks() {
    let server = Server::start(&[]).await;
    let config = server.config();
    for (i, (ty, values)) in TYPES.iter().enumerate() {
        let values = values.map(|value| format!("({value}, 1), ({value}, 2)")).join(", ");
        server
            .run(&[
                &format!("create table t{i} (k {ty}, n int, primary key (k, n))"),
                &format!("insert into t{i} values {values}"),
            ])
            .await;
    }
    let mut rows = MysqlRows::new(id(), config.clone());
    let end = log_of(&config).end().await.unwrap();
    let found = rows.tables(&end).await.unwrap();
    assert!(found.refused.is_empty(), "{:?}", found.refused);
    let mut wrong = Vec::new();
    for schema in &found.tables {
        let i: usize = schema.name().table()[1..].parse().unwrap();
        let ty = TYPES[i].0;
        let all = rows.chunk(schema, None, None, 100, Order::Any).await.unwrap();
        let mut all_lines = lines(&all.rows);
        all_lines.sort();
        if all_lines.len() != 10 || !all.bad.is_empty() {
            wrong.push(format!("{ty}: {all_lines:?} {:?}", all.bad));
            continue;
        }
        for order in [Order::Keys, Order::Any] {
            let (mut read, mut after) = (Vec::new(), None);
            loop {
                let chunk = match rows.chunk(schema, after.as_ref(), None, 3, order).await {
                    Ok(chunk) => chunk,
                    Err(error) => {
                        wrong.push(format!(
                            "{ty} {order:?}: {}",
                            medlake_contract::with_causes(&error)
                        ));
                        break;
                    }
                };
                read.push(chunk.rows.clone());
                if chunk.rows.num_rows() < 3 || read.len() > 10 {
                    break;
                }
                after = Some(chunk.rows.slice(2, 1).project(schema.key_indices()).unwrap());
            }
            let read = arrow::compute::concat_batches(schema.arrow_nullable(), &read).unwrap();
            let mut read_lines = lines(&read);
            read_lines.sort();
            if read_lines != all_lines {
                wrong.push(format!("{ty} {order:?}: {read_lines:?} of {all_lines:?}"));
            }
            // As the lake orders them.
            let keys = read.project(schema.key_indices()).unwrap();
            let schema = keys.schema();
            let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone()));
            let sorted = RowConverter::new(fields.collect()).unwrap();
            let sorted = sorted.convert_columns(keys.columns()).unwrap();
            if order == Order::Keys && !sorted.iter().is_sorted() {
                wrong.push(format!("{ty}: in another order than the lake's: {:?}", lines(&read)));
            }
        }
        let keys = all.rows.project(schema.key_indices()).unwrap();
        let mut found = match rows.with_keys(schema, &keys).await {
            Ok(chunk) => lines(&chunk.rows),
            Err(error) => vec![medlake_contract::with_causes(&error)],
        };
        found.sort();
        if found != all_lines {
            wrong.push(format!("{ty} by keys: {found:?} of {all_lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
