//! What fuzzing drives: any bytes as the changes of an embedded database.

use std::sync::Arc;

use medlake_contract::{Column, ColumnType, SourceId, TableSchema};

use super::{decode::Decoder, frames::Frames, schema::CapturedTable};

fn table() -> Option<CapturedTable> {
    let column = |name: &str, ty| Column { name: name.to_owned(), ty, nullable: name != "id" };
    let columns = vec![
        column("id", ColumnType::Int64),
        column("name", ColumnType::Utf8),
        column("open", ColumnType::Boolean),
        column("rate", ColumnType::Float64),
        column("photo", ColumnType::Binary),
        column("born", ColumnType::Date),
        column("at", ColumnType::TimestampMicros),
    ];
    let schema = TableSchema::new("mall.person".parse().ok()?, columns, &["id"]).ok()?;
    Some(CapturedTable { name: "person".to_owned(), schema: Arc::new(schema) })
}

/// One answer to the question for changes.
pub(crate) fn changes(bytes: &[u8]) {
    let Some(table) = table() else { return };
    let tables = Arc::new(vec![table]);
    let new = || Decoder::new(SourceId::new("mall"), Arc::clone(&tables));
    let mut decoder = new();
    let mut rows = 0;
    for change in Frames::new(bytes) {
        let Ok(change) = change else { break };
        // What cannot be read by itself is put aside, and what can be read so can be added.
        if decoder.check(&change).is_none() && decoder.push(&change).is_ok() {
            rows += 1;
        } else {
            (decoder, rows) = (new(), 0);
        }
    }
    if let Ok(batches) = decoder.finish() {
        assert_eq!(batches.iter().map(|b| b.ops().len()).sum::<usize>(), rows);
    }
}

/// Inputs for [`changes`].
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let row = r#"[1,"a\u0001b",1,"1.5","00ff","1999-12-31",1700000000000000]"#;
    let frame = |op: &str, before: Option<&str>, after: Option<&str>| {
        let length = |image: Option<&str>| image.map_or("-1".to_owned(), |i| i.len().to_string());
        let (b, a) = (length(before), length(after));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        format!("7 3 {} 6 {b} {a} {op}person{before}{after}", op.len())
    };
    let all = [
        frame("c", None, Some(row)),
        frame("u", Some(row), Some("[1,null,null,null,null,null,null]")),
        frame("d", Some("[1]"), None),
    ];
    vec![all.concat().into_bytes(), all[1].clone().into_bytes()]
}
