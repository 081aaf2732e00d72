//! The protocol itself, spoken by hand: prepared statements, binary values, cancel, time-outs.

use std::collections::BTreeMap;

use medlake_query_server::QueryServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::House;

/// What came back until the server was ready again.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) raw: Vec<Vec<Option<Vec<u8>>>>,
    pub(crate) columns: Vec<(String, u32)>,
    pub(crate) parameters: Vec<u32>,
    pub(crate) tags: Vec<String>,
    pub(crate) errors: Vec<BTreeMap<char, String>>,
    pub(crate) kinds: String,
    pub(crate) status: char,
}

impl Answers {
    pub(crate) fn code(&self) -> &str {
        self.errors.first().map_or("", |error| &error[&'C'])
    }
}

pub(crate) struct Client {
    socket: TcpStream,
    pub(crate) settings: BTreeMap<String, String>,
    key: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(house: &House, options: &[(&str, &str)]) -> Self {
        let mut socket = TcpStream::connect(house.postgres).await.unwrap();
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for (name, value) in [("user", "ana"), ("database", "medlake")].iter().chain(options) {
            body.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
        }
        body.push(0);
        socket.write_all(&i32::try_from(body.len() + 4).unwrap().to_be_bytes()).await.unwrap();
        socket.write_all(&body).await.unwrap();
        let mut client = Self { socket, settings: BTreeMap::new(), key: Vec::new() };
        client.answers().await;
        assert!(!client.key.is_empty());
        client
    }

    pub(crate) async fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend(i32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend(body);
        self.socket.write_all(&message).await.unwrap();
    }

    pub(crate) async fn query(&mut self, sql: &str) -> Answers {
        self.send(b'Q', &text(sql)).await;
        self.answers().await
    }

    pub(crate) async fn parse(&mut self, name: &str, sql: &str, types: &[u32]) {
        let mut body = [text(name), text(sql)].concat();
        body.extend(i16::try_from(types.len()).unwrap().to_be_bytes());
        types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
        self.send(b'P', &body).await;
    }

    /// Binds values; `binary` says in which form they are, and in which the rows are to come.
    pub(crate) async fn bind(
        &mut self,
        statement: &str,
        values: &[Option<&[u8]>],
        (values_binary, rows_binary): (bool, bool),
    ) {
        let mut body = [text(""), text(statement)].concat();
        body.extend(1_i16.to_be_bytes());
        body.extend(i16::from(values_binary).to_be_bytes());
        body.extend(i16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            match value {
                None => body.extend((-1_i32).to_be_bytes()),
                Some(bytes) => {
                    body.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                    body.extend(*bytes);
                }
            }
        }
        body.extend(1_i16.to_be_bytes());
        body.extend(i16::from(rows_binary).to_be_bytes());
        self.send(b'B', &body).await;
    }

    pub(crate) async fn execute(&mut self, max_rows: i32) {
        self.send(b'E', &[text(""), max_rows.to_be_bytes().to_vec()].concat()).await;
    }

    pub(crate) async fn sync(&mut self) -> Answers {
        self.send(b'S', &[]).await;
        self.answers().await
    }

    pub(crate) async fn answers(&mut self) -> Answers {
        let mut answers = Answers::default();
        loop {
            let kind = self.socket.read_u8().await.unwrap();
            let length = usize::try_from(self.socket.read_i32().await.unwrap()).unwrap() - 4;
            let mut body = vec![0; length];
            self.socket.read_exact(&mut body).await.unwrap();
            answers.kinds.push(char::from(kind));
            let mut at = Reader(&body);
            match kind {
                b'S' => {
                    let name = at.text();
                    self.settings.insert(name, at.text());
                }
                b'K' => self.key.clone_from(&body),
                b'T' => {
                    for _ in 0..at.i16() {
                        let name = at.text();
                        at.skip(6);
                        answers.columns.push((name, at.u32()));
                        at.skip(8);
                    }
                }
                b't' => {
                    for _ in 0..at.i16() {
                        answers.parameters.push(at.u32());
                    }
                }
                b'D' => {
                    let row: Vec<_> = (0..at.i16()).map(|_| at.value()).collect();
                    let shown = row.iter().map(|value| match value {
                        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        None => "<null>".into(),
                    });
                    answers.rows.push(shown.collect());
                    answers.raw.push(row);
                }
                b'C' => answers.tags.push(at.text()),
                b'E' => {
                    let mut fields = BTreeMap::new();
                    while at.0[0] != 0 {
                        let field = char::from(at.0[0]);
                        at.skip(1);
                        fields.insert(field, at.text());
                    }
                    let fatal = fields[&'S'] == "FATAL";
                    answers.errors.push(fields);
                    if fatal {
                        return answers;
                    }
                }
                b'Z' => {
                    answers.status = char::from(body[0]);
                    return answers;
                }
                _ => {}
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn skip(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }

    fn text(&mut self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap();
        let text = String::from_utf8(self.0[..end].to_vec()).unwrap();
        self.skip(end + 1);
        text
    }

    fn i16(&mut self) -> i16 {
        let value = i16::from_be_bytes([self.0[0], self.0[1]]);
        self.skip(2);
        value
    }

    fn u32(&mut self) -> u32 {
        let value = u32::from_be_bytes(self.0[..4].try_into().unwrap());
        self.skip(4);
        value
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.u32().cast_signed()).ok()?;
        let value = self.0[..length].to_vec();
        self.skip(length);
        Some(value)
    }
}

fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

const INT8: u32 = 20;
const TEXT: u32 = 25;

#[tokio::test(flavor = "multi_thread")]
async fn a_connecting_client_is_told_what_it_needs() {
    let house = House::open().await;
    let options = "-c statement_timeout=5s -c TimeZone=Mars/Base";
    let mut client =
        Client::connect(&house, &[("TimeZone", "Asia/Shanghai"), ("options", options)]).await;
    assert!(client.settings["server_version"].starts_with("16."));
    assert_eq!(client.settings["TimeZone"], "Asia/Shanghai");
    assert_eq!(client.settings["server_encoding"], "UTF8");
    assert_eq!(client.settings["standard_conforming_strings"], "on");
    assert_eq!(client.query("show statement_timeout").await.rows, [["5s"]]);
    client.query("set timezone to 'UTC'").await;
    assert_eq!(client.settings["TimeZone"], "UTC");
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_parameters_keep_their_order() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    let numbers: Vec<String> = (1..=12).map(|n| format!("${n}::bigint as c{n}")).collect();
    client.parse("s", &format!("select {}", numbers.join(", ")), &[]).await;
    client.send(b'D', b"Ss\0").await;
    let values: Vec<String> = (1..=12).map(|n| (n * 10).to_string()).collect();
    let bytes: Vec<Option<&[u8]>> = values.iter().map(|v| Some(v.as_bytes())).collect();
    client.bind("s", &bytes, (false, false)).await;
    client.execute(0).await;
    let answers = client.sync().await;
    assert!(answers.errors.is_empty(), "{answers:?}");
    assert_eq!(answers.rows, std::slice::from_ref(&values));
    assert_eq!(answers.parameters.len(), 12);
    assert_eq!(answers.columns[11], ("c12".into(), INT8));
    assert_eq!(answers.tags, ["SELECT 1"]);

    // Again with other values: the statement stays prepared.
    let bytes: Vec<Option<&[u8]>> = values.iter().rev().map(|v| Some(v.as_bytes())).collect();
    client.bind("s", &bytes, (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.rows[0][0], "120");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_take_the_type_of_what_they_meet() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    let sql =
        "select region from mall.orders where payable_fen > $1 and region = $2 order by 1 limit $3";
    client.parse("", sql, &[]).await;
    client.send(b'D', b"S\0").await;
    let values: [Option<&[u8]>; 3] = [Some(b"90"), Some("浙江".as_bytes()), Some(b"1")];
    client.bind("", &values, (false, false)).await;
    client.execute(0).await;
    let answers = client.sync().await;
    assert!(answers.errors.is_empty(), "{answers:?}");
    assert_eq!(answers.parameters, [INT8, TEXT, INT8]);
    assert_eq!(answers.rows, [["浙江"]]);

    // Binary values in the types the client named, nulls among them.
    client.parse("", "select $1 + 1, $2, $3 is null", &[INT8, 1082, 701]).await;
    client.send(b'D', b"S\0").await;
    let number = 41_i64.to_be_bytes();
    let day = 9_801_i32.to_be_bytes();
    client.bind("", &[Some(&number), Some(&day), None], (true, false)).await;
    client.execute(0).await;
    let answers = client.sync().await;
    assert!(answers.errors.is_empty(), "{answers:?}");
    assert_eq!(answers.rows, [["42", "2026-11-01", "t"]]);
    assert_eq!(answers.columns.iter().map(|c| c.1).collect::<Vec<_>>(), [INT8, 1082, 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn uuids_are_texts_to_some_and_bytes_to_others() {
    const UUID: u32 = 2950;
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    let text = "01020304-0506-1708-890a-0b0c0d0e0f00";
    let bytes = [1, 2, 3, 4, 5, 6, 0x17, 8, 0x89, 10, 11, 12, 13, 14, 15, 0];
    let sql =
        format!("select u from (select '{text}'::uuid as u) where u = $1 and u::text = '{text}'");
    // The form of the value, the type the client named, and the form it wants rows in.
    for (value, types, forms) in [
        (text.as_bytes(), &[][..], (false, false)),
        (&bytes, &[UUID], (true, true)),
        (&bytes, &[], (true, false)),
        (text.as_bytes(), &[UUID], (false, true)),
    ] {
        client.parse("", &sql, types).await;
        client.send(b'D', b"S\0").await;
        client.bind("", &[Some(value)], forms).await;
        client.execute(0).await;
        let answers = client.sync().await;
        assert!(answers.errors.is_empty(), "{answers:?}");
        assert_eq!((answers.parameters[0], answers.columns[0].1), (UUID, UUID));
        let wanted = if forms.1 { &bytes[..] } else { text.as_bytes() };
        assert_eq!(answers.raw[0][0].as_deref(), Some(wanted));
    }
    client.parse("", &sql, &[]).await;
    client.bind("", &[Some(b"abc")], (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.code(), "22P02");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_binary_when_asked() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    let sql = "select id, flag, small, ratio, name, day, at, raw, 1.25::numeric(10,2) as n, null as nothing
               from mall.everything where id = 1";
    client.parse("", sql, &[]).await;
    client.send(b'D', b"S\0").await;
    client.bind("", &[], (false, true)).await;
    client.execute(0).await;
    let answers = client.sync().await;
    assert!(answers.errors.is_empty(), "{answers:?}");
    let types: Vec<u32> = answers.columns.iter().map(|c| c.1).collect();
    assert_eq!(types, [20, 16, 23, 701, 25, 1082, 1184, 17, 1700, 25]);
    let row = &answers.raw[0];
    let at = crate::harness::NOW + 120_000 - 946_684_800_000_000;
    let expected: [Option<Vec<u8>>; 10] = [
        Some(1_i64.to_be_bytes().to_vec()),
        Some(vec![1]),
        Some((-7_i32).to_be_bytes().to_vec()),
        Some(0.1_f64.to_be_bytes().to_vec()),
        Some("布洛芬 'x'".into()),
        Some(9_801_i32.to_be_bytes().to_vec()),
        Some(at.to_be_bytes().to_vec()),
        Some(vec![0, 255]),
        Some([2_i16, 0, 0, 2, 1, 2500].iter().flat_map(|n| n.to_be_bytes()).collect()),
        None,
    ];
    assert_eq!(row[..], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_parts_when_asked() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    client.parse("", "select order_id from mall.orders order by 1", &[]).await;
    client.bind("", &[], (false, false)).await;
    client.execute(2).await;
    client.execute(2).await;
    let answers = client.sync().await;
    assert_eq!(answers.rows, [["1"], ["2"], ["3"]]);
    assert_eq!(answers.kinds, "12DDsDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_prepared_statement_leaves_the_connection_usable() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    client.parse("", "select * from nothing", &[]).await;
    client.bind("", &[], (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.code(), "42P01");
    client.parse("", "delete from mall.orders", &[]).await;
    assert_eq!(client.sync().await.code(), "25006");
    client.parse("", "select $1::bigint", &[]).await;
    client.bind("", &[Some(b"x")], (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.code(), "22P02");
    client.parse("", "", &[]).await;
    client.bind("", &[], (false, false)).await;
    client.execute(0).await;
    assert_eq!(client.sync().await.kinds, "12IZ");
    let answers = client.query("select 1 as one; select 2 as two").await;
    assert_eq!(
        (answers.rows, answers.tags),
        (vec![vec!["1".into()], vec!["2".into()]], vec!["SELECT 1".into(), "SELECT 1".into()])
    );
}

/// More rows than anybody waits for, a few at a time.
const ENDLESS: &str = "select a.value + b.value
    from generate_series(1, 1000) a, generate_series(1, 1000000000) b";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_runs_too_long_is_stopped_in_the_middle_of_its_rows() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    client.query("set statement_timeout to '300ms'").await;
    let answers = client.query(ENDLESS).await;
    assert_eq!(answers.code(), "57014");
    assert!(answers.errors[0][&'M'].contains("statement timeout"));
    assert!(!answers.rows.is_empty(), "rows come before the end");
    assert_eq!(client.query("select 1").await.rows, [["1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_what_runs() {
    let house = House::open().await;
    let mut client = Client::connect(&house, &[]).await;
    client.send(b'Q', &text(ENDLESS)).await;
    // The first byte of the answer: it runs.
    let mut first = [0];
    client.socket.peek(&mut first).await.unwrap();
    for (key, stops) in [(vec![0; 8], false), (client.key.clone(), true)] {
        let mut socket = TcpStream::connect(house.postgres).await.unwrap();
        let mut message = 16_i32.to_be_bytes().to_vec();
        message.extend(80_877_102_i32.to_be_bytes());
        message.extend(&key);
        socket.write_all(&message).await.unwrap();
        let mut end = Vec::new();
        socket.read_to_end(&mut end).await.unwrap();
        if stops {
            let answers = client.answers().await;
            assert_eq!(answers.code(), "57014");
            assert!(answers.errors[0][&'M'].contains("user request"));
        }
    }
    assert_eq!(client.query("select 1").await.rows, [["1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_a_limit_and_permits_run_out_politely() {
    let config = QueryServerConfig {
        memory_limit_bytes: 16 << 20,
        spill_limit_bytes: 1 << 20,
        permits: 1,
        queue_timeout: std::time::Duration::from_millis(50),
        ..QueryServerConfig::default()
    };
    let house = House::open_with(config).await;
    let mut client = Client::connect(&house, &[]).await;
    let hungry = "select count(*) from generate_series(1, 3000000) a
                  join generate_series(1, 3000000) b on a.value = b.value * 3";
    assert_eq!(client.query(hungry).await.code(), "53200");
    let mut busy = Client::connect(&house, &[]).await;
    busy.send(b'Q', &text(ENDLESS)).await;
    let mut first = [0];
    busy.socket.peek(&mut first).await.unwrap();
    assert_eq!(client.query("select 1").await.code(), "53000");
    drop(busy);
}
