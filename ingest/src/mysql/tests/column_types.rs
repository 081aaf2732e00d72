use super::*;
use crate::log::Order;

/// Every type, with the values at its ends; text in every character set that is known.
const TYPES: &[(&str, &[&str])] = &[
    ("tinyint", &["-128", "127"]),
    ("tinyint unsigned", &["0", "255"]),
    ("tinyint(1)", &["0", "2"]),
    ("smallint", &["-32768", "32767"]),
    ("smallint unsigned", &["0", "65535"]),
    ("mediumint", &["-8388608", "8388607"]),
    ("mediumint unsigned", &["0", "16777215"]),
    ("int", &["-2147483648", "2147483647"]),
    ("int unsigned", &["0", "4294967295"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("bigint unsigned", &["0", "18446744073709551615"]),
    ("float", &["-3.4028234e38", "0.1"]),
    ("float(7,3)", &["-1234.567", "0.125"]),
    ("float unsigned", &["1.1754944e-38", "3.25"]),
    ("double", &["-1.7976931348623157e308", "0.1"]),
    ("double unsigned", &["5e-300", "7"]),
    ("decimal(5,2)", &["-999.99", "0.01"]),
    ("decimal(38,10)", &["-9999999999999999999999999999.9999999999", "1"]),
    ("decimal(38,38)", &["-0.99999999999999999999999999999999999999", "0"]),
    ("decimal(10,0) unsigned", &["9999999999", "0"]),
    (
        "decimal(65,30)",
        &[
            "-99999999999999999999999999999999999.999999999999999999999999999999",
            "-0.000000000000000000000000000001",
        ],
    ),
    ("decimal(65,0)", &["99999999999999999999999999999999999999999999999999999999999999999", "0"]),
    ("bit(1)", &["b'1'", "b'0'"]),
    ("bit(5)", &["b'10101'", "b'0'"]),
    ("bit(63)", &["9223372036854775807", "1"]),
    ("bit(64)", &["18446744073709551615", "1"]),
    ("year", &["1901", "0"]),
    ("date", &["'1000-01-01'", "'9999-12-31'", "'0000-00-00'", "'2024-02-00'"]),
    ("time", &["'-838:59:59'", "'838:59:59'", "'00:00:00'"]),
    ("time(1)", &["'-00:00:00.1'", "'12:34:56.9'"]),
    ("time(3)", &["'-01:02:03.004'", "'100:00:00.999'"]),
    ("time(6)", &["'-838:59:59.000000'", "'-00:00:00.000001'", "'837:59:59.999999'"]),
    ("datetime", &["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'", "'0000-00-00 00:00:00'"]),
    ("datetime(2)", &["'2001-02-03 04:05:06.78'", "'1969-12-31 23:59:59.99'"]),
    ("datetime(4)", &["'2001-02-03 04:05:06.7891'"]),
    ("datetime(6)", &["'2001-02-03 04:05:06.789123'", "'0001-01-01 00:00:00.000001'"]),
    (
        "timestamp null",
        &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'0000-00-00 00:00:00'"],
    ),
    ("timestamp(3) null", &["'2001-02-03 04:05:06.789'"]),
    ("timestamp(6) null", &["'2038-01-19 03:14:07.999999'"]),
    ("char(10)", &["'a  '", "'你好🏥'", "''"]),
    ("char(255)", &["'你好'", "repeat('你', 255)"]),
    ("varchar(10)", &["'a  '", "'你好🏥'", "''"]),
    ("varchar(300)", &["repeat('x', 300)", "repeat('你', 300)"]),
    ("tinytext", &["'x'", "repeat('x', 255)"]),
    ("text", &["'x'", "repeat('你', 20000)"]),
    ("mediumtext", &["repeat('y', 70000)"]),
    ("longtext", &["repeat('z', 70000)"]),
    ("binary(4)", &["x'01020000'", "x'00'"]),
    ("binary(255)", &["x'ff'"]),
    ("varbinary(4)", &["x'01020000'", "x''"]),
    ("tinyblob", &["x'00ff'"]),
    ("blob", &["x'00ff'", "repeat(x'00', 3000)"]),
    ("mediumblob", &["x'00ff'"]),
    ("longblob", &["x'00ff'"]),
    ("enum('a','b','你')", &["'a'", "'你'"]),
    ("enum('é','z') character set latin1", &["'é'"]),
    ("set('a','b','c')", &["'a,c'", "''"]),
    ("set('é','z') character set latin1", &["'é,z'"]),
    (
        "uuid",
        &[
            "'01020304-0506-1708-890a-0b0c0d0e0f00'",
            "'01020304-0506-7708-890a-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "'00000000-0000-0000-0000-000000000000'",
        ],
    ),
    ("inet4", &["'1.2.3.4'", "'10.0.0.0'", "'0.0.0.0'", "'255.255.255.255'"]),
    ("inet6", &["'::'", "'::1'", "'::1.2.3.4'", "'::ffff:1.2.3.4'", "'::1:0:0'"]),
    ("inet6", &["'2001:db8::'", "'1:0:2:3:4:5:6:7'", "'0:1:0:0:2:0:0:3'", "'1:2:3:4:5:6:7:8'"]),
    ("inet6", &["'::ffff:0:0'", "'0:0:0:0:ffff:0:0:1'", "'1:2:3:4:5:6:7:0'", "'::fffe:1.2.3.4'"]),
    ("json", &["'{\"a\": [1, 2.5, null]}'"]),
    (
        "geometry",
        &["st_geomfromtext('point(1 2)')", "st_geomfromtext('linestring(0 0, 1 1)', 4326)"],
    ),
    ("point", &["point(-1.5, 3)"]),
    ("text compressed", &["repeat('你好', 500)", "'x'", "''"]),
    ("varchar(2000) compressed", &["repeat('你好', 500)", "'x'"]),
    ("blob compressed", &["repeat(x'00', 3000)", "x'01'"]),
];

const CHARSETS: &[(&str, &str)] = &[
    ("ascii", "abc"),
    ("latin1", "aé€ß"),
    ("latin2", "ąčž"),
    ("latin5", "ğşı"),
    ("latin7", "ąčž"),
    ("greek", "αβγ"),
    ("hebrew", "אבג"),
    ("cp1250", "čšž"),
    ("cp1251", "где"),
    ("cp1256", "سلا"),
    ("cp1257", "ąčž"),
    ("cp866", "где"),
    ("koi8r", "где"),
    ("koi8u", "їґє"),
    ("tis620", "กขค"),
    ("macroman", "éüß"),
    ("gbk", "医院，中文"),
    ("gb2312", "医院，中文"),
    ("big5", "醫院，中文"),
    ("sjis", "病院、カナｱ"),
    ("cp932", "病院、カナ①"),
    ("ujis", "病院、カナ"),
    ("eucjpms", "病院、カナ①"),
    ("euckr", "병원"),
    ("utf8mb3", "医院é"),
    ("utf8mb4", "医院🏥"),
    ("ucs2", "医院é"),
    ("utf16", "医院🏥"),
    ("utf16le", "医院🏥"),
    ("utf32", "医院🏥"),
];

/// A table of all types; its columns, and one insert for each row of values.
fn statements() -> (String, Vec<String>) {
    let mut columns = vec!["id int primary key".to_owned()];
    let mut names = Vec::new();
    let mut values: Vec<Vec<String>> = Vec::new();
    for (i, (ty, samples)) in TYPES.iter().enumerate() {
        columns.push(format!("c{i} {ty}"));
        names.push(format!("c{i}"));
        values.push(samples.iter().map(|s| (*s).to_owned()).collect());
    }
    for (charset, sample) in CHARSETS {
        for ty in ["char(20)", "varchar(20)", "text"] {
            let name = format!("t_{charset}_{}", &ty[..4]);
            columns.push(format!("{name} {ty} character set {charset}"));
            names.push(name);
            values.push(vec![format!("'{sample}'"), "''".to_owned()]);
        }
    }
    let rows = values.iter().map(Vec::len).max().unwrap_or(0);
    let insert = |row: usize| {
        let values: Vec<&str> =
            values.iter().map(|v| v.get(row).map_or("null", String::as_str)).collect();
        format!("insert into t (id, {}) values ({row}, {})", names.join(", "), values.join(", "))
    };
    let create = format!("create table t ({})", columns.join(", "));
    (create, (0..=rows).map(insert).collect())
}

#[tokio::test]
async fn values_of_all_types_are_those_of_a_select() {
    for options in [&[][..], &["--log-bin-compress=ON", "--log-bin-compress-min-len=10"]] {
        let server = Server::start(options).await;
        let config = server.config();
        let mut log = started(&config).await;
        let (create, inserts) = statements();
        let mut all =
            vec!["set sql_mode=''", "set time_zone='+00:00'", "set names utf8mb4", &create];
        all.extend(inserts.iter().map(String::as_str));
        server.run(&all).await;

        let pages = caught_up(&mut log, &config).await;
        let quarantined: Vec<_> = pages.iter().flat_map(|p| &p.quarantined).collect();
        assert!(quarantined.is_empty(), "{quarantined:?}");
        let stops: Vec<_> = pages.iter().flat_map(|p| &p.states).collect();
        assert!(stops.is_empty(), "{stops:?}");
        let schema = schema_of(&pages, "t");
        let mut rows = MysqlRows::new(id(), config.clone());
        let found = rows.tables(log.at()).await.unwrap();
        assert_eq!(found.refused, []);
        assert_eq!(found.tables[0].columns(), schema.columns());
        assert_eq!(found.tables[0], schema);
        let chunk = rows.chunk(&schema, None, None, 1000, Order::Keys).await.unwrap();
        assert_eq!(chunk.bad, []);

        let after: Vec<RecordBatch> =
            pages.iter().flat_map(|p| &p.batches).map(|b| b.after().clone()).collect();
        let streamed = arrow::compute::concat_batches(schema.arrow_nullable(), &after).unwrap();
        assert_eq!(streamed.num_rows(), inserts.len());
        for (i, field) in streamed.schema().fields().iter().enumerate() {
            let (ours, theirs) = (streamed.column(i), chunk.rows.column(i));
            assert!(ours == theirs, "{}: {ours:?} is not {theirs:?}", field.name());
        }
        // Both could be wrong together: texts are those that were written.
        for (charset, sample) in CHARSETS {
            for ty in ["char", "varc", "text"] {
                let column = streamed.column_by_name(&format!("t_{charset}_{ty}")).unwrap();
                let text = arrow::array::AsArray::as_string::<i32>(column.as_ref());
                assert_eq!((text.value(0), text.value(1)), (*sample, ""), "{charset} {ty}");
            }
        }
    }
}
