use std::sync::Arc;

use medlake_operational::Storage;

use super::*;
use crate::input::recording::shared_data;

const FILE: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,\"LAMP, BLUE\",6,12/1/10 8:26,2.55,17850,United Kingdom
536365,71053,,4,12/1/10 8:26,3.39,17850,United Kingdom
536366,85123A,LAMP,5,12/1/10 8:28,2.55,17850,France
536367,21777,,-10,12/1/10 8:30,0,,United Kingdom
536368,71053,LANTERN,3,12/1/10 8:31,3.39,,United Kingdom
C536379,85123A,LAMP,-7,12/1/10 9:41,2.55,17850,United Kingdom
C536379,D,Discount,-1,12/1/10 9:41,27.50,17850,United Kingdom
C536383,71053,LANTERN,-1,12/1/10 9:49,3.39,15311,United Kingdom
";

async fn services(folder: &Path) -> Services {
    Services::open(&Storage::files(folder), Arc::new(|| 1_795_000_000_000_000), Arc::new(|| ()))
        .await
        .unwrap()
}

async fn texts(services: &Services, sql: &'static str) -> Vec<String> {
    let mut connection = services.mall().read().await.unwrap();
    sqlx::query_scalar(sql).fetch_all(connection.sqlite().unwrap()).await.unwrap()
}

#[tokio::test]
async fn credit_notes_refund_the_invoices_they_belong_to_and_a_stopped_replay_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(&folder.path().join("operational")).await;
    let data = folder.path().join("uci");
    std::fs::create_dir(&data).unwrap();
    let cut: String = FILE.lines().take(4).map(|line| format!("{line}\n")).collect();
    // As its copy with the ends of lines of old, cut in the middle of one.
    std::fs::write(data.join("retail_CR.csv"), format!("{cut}5363").replace('\n', "\r")).unwrap();
    let first = run(&services, &data, None).await.unwrap();
    assert_eq!((first.written, first.skipped, first.detail_rows), (2, 0, 3));
    assert!(first.notes.contains(&"the file is cut in line 5, which is left out".to_owned()));

    std::fs::write(data.join("retail_CR.csv"), FILE).unwrap();
    let second = run(&services, &data, None).await.unwrap();
    assert_eq!((second.written, second.skipped), (4, 2));
    assert_eq!(
        second.notes,
        [
            "8 rows: 4 invoices of 51.78, 2 credit notes of -48.74",
            "refunded -17.85; no invoice here for the other -30.89",
            "1 rows only take units out of stock",
        ]
    );
    let third = run(&services, &data, None).await.unwrap();
    assert_eq!((third.written, third.skipped), (0, 6));

    let orders = "
        select json_array(order_id - 21000000000, person_id - 30000000, pharmacy_id - 30000000,
            payable_fen, refunded_fen, datetime(paid_at / 1000000, 'unixepoch', '8 hours'))
        from orders order by order_id";
    assert_eq!(
        texts(&services, orders).await,
        [
            "[536365,17850,1,2886,510,\"2010-12-01 08:26:00\"]",
            "[536366,17850,2,1275,1275,\"2010-12-01 08:28:00\"]",
            "[536368,1536368,1,1017,0,\"2010-12-01 08:31:00\"]",
        ]
    );
    let refunds = "
        select json_array(order_id - 21000000000, amount_fen, reason) from refund order by order_id";
    assert_eq!(
        texts(&services, refunds).await,
        ["[536365,510,\"credit note C536379\"]", "[536366,1275,\"credit note C536379\"]"]
    );
    let names = "select name from product order by product_id";
    assert_eq!(texts(&services, names).await[..2], ["LAMP, BLUE", "stock code 71053"]);

    // Another file is not taken for the same one.
    let other = FILE.replace("C536383", "C536384");
    std::fs::write(data.join("retail_CR.csv"), other).unwrap();
    let error = run(&services, &data, None).await.unwrap_err().to_string();
    assert!(error.contains("up to document 536383"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_broken_in_the_middle_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(&folder.path().join("operational")).await;
    let file = folder.path().join("retail.csv");
    for (text, expected) in [
        (FILE.replace(",17850,France", ""), "line 4 has 6 fields, not 8"),
        (FILE.replace("12/1/10 8:28", "1/13/2010"), "line 4: InvoiceDate cannot be"),
        (FILE.replace("12/1/10 8:28", "11/30/10 8:28"), "not in order of time"),
        (FILE.replace(",5,12/1", ",-5,12/1"), "line 4: an invoice takes back"),
        (FILE.replace(",3.39,", ",3.395,"), "line 3: UnitPrice cannot be \"3.395\""),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", run(&services, folder.path(), None).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    std::fs::write(folder.path().join("another.csv"), "").unwrap();
    let error = run(&services, folder.path(), None).await.unwrap_err().to_string();
    assert!(error.contains("2 CSV files"), "{error}");
}

/// The real data, against totals that others computed from the same file.
#[tokio::test]
async fn the_real_recording_has_its_totals() {
    let Some(data) = shared_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let services = services(folder.path()).await;
    let from = data.join("uci-online-retail");
    let report = run(&services, &from, None).await.unwrap();
    println!("{report}");
    let table = Delimited::read(&file_in(&from).await.unwrap(), &COLUMNS).await.unwrap();
    let account = Recording::of(&table).unwrap().account;
    let oracle = std::fs::read(data.join("oracles/dataset_totals.json")).unwrap();
    let oracle: serde_json::Value = serde_json::from_slice(&oracle).unwrap();
    let oracle = &oracle["uci_online_retail_sample"];
    let ours = serde_json::to_value(account).unwrap();
    for count in ["rows", "bad_rows", "invoices", "credit_notes", "credit_rows"] {
        assert_eq!(ours[count], oracle[count], "{count}");
    }
    let fen = |name: &str| oracle[name].as_str().and_then(hundredths).unwrap();
    assert_eq!(account.gross_fen, fen("gross"));
    assert_eq!(account.credits_fen, fen("credits"));
    assert_eq!(account.gross_fen + account.credits_fen, fen("net"));
    // And so it is in the mall, but for credit notes of goods that were bought before.
    let totals = "select json_array(sum(goods_amount_fen), sum(refunded_fen)) from orders";
    let expected = format!("[{},{}]", account.gross_fen, -account.refunded_fen);
    assert_eq!(texts(&services, totals).await, [expected]);
    assert!(account.refunded_fen < 0);
}
