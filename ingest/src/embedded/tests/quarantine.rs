//! Changes that cannot be read, and how they leave the quarantine.

use super::*;
use crate::{TableState, quarantine_table, quarantined_in};

impl Service {
    /// A row whose change says what cannot be.
    async fn write_badly(&mut self, left: i64) {
        self.write(&format!("insert into pair values ({left}, 'x', 0)")).await;
        self.sql(&format!(
            "update cdc_change set after = '[{left},\"x\",\"zero\"]'
             where change_id = (select max(change_id) from cdc_change)"
        ))
        .await;
    }
}

fn state(ingest: &Ingest) -> TableState {
    let pair = "shop.pair".parse().unwrap();
    ingest.monitor().tables().into_iter().find(|t| t.table == pair).unwrap()
}

/// What goes into quarantine, and the ids of what leaves it.
fn quarantine(cuts: &[ChangeSet]) -> (Vec<crate::QuarantinedRow>, Vec<String>) {
    let own = cuts.iter().flat_map(|c| &c.batches);
    let own = own.filter(|b| b.table().name() == quarantine_table().name());
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for batch in own {
        came.extend(quarantined_in(batch.after()));
        let ids = batch.before().column_by_name("id").unwrap().as_string::<i32>();
        went.extend(ids.iter().flatten().map(str::to_owned));
    }
    (came, went)
}

#[tokio::test]
async fn a_quarantined_change_is_read_again_overtaken_or_one_too_many() {
    let mut service = Service::new().await;
    let pair = "shop.pair".parse().unwrap();
    let mut settings =
        DatabaseSettings::new(Budget::new(8 << 20), "spool", Arc::new(|| 1_700_000_000_000_000));
    settings.quarantine_limit = 2;
    let wake = Wake::Polled(Duration::from_millis(1));
    let source = EmbeddedSource::open_with("shop", &service.path, wake, settings).await.unwrap();
    let mut ingest = Ingest::open(vec![source.into()], &Resume::default()).await.unwrap();

    service.write_badly(1).await;
    service.write("insert into pair values (7, 'good', 0)").await;
    let cuts = settle(&mut ingest, limits(100)).await;
    assert_eq!(cuts.last().unwrap().positions, at(2), "the others go on");
    let (came, went) = quarantine(&cuts);
    assert_eq!((came.len(), went.len(), state(&ingest).quarantined), (1, 0, 1));
    assert_eq!(came[0].key.as_deref(), Some("[\"x\",\"1\"]"));
    assert!(went.is_empty());

    // By its key the row can be had from the table itself.
    assert_eq!(ingest.retry(&pair, &came).unwrap(), 1);
    let cut = loop {
        let cut = ingest.next(limits(100)).await.unwrap();
        if !cut.copies.is_empty() {
            break cut;
        }
    };
    assert!(matches!(cut.copies[0].scope, CopyScope::Keys(_)));
    assert_eq!(cut.copies[0].rows.num_rows(), 1);
    assert_eq!(quarantine(&[cut]).1, ["1"]);
    assert_eq!(state(&ingest).quarantined, 0);

    // A later change of the row says all there is to say of it.
    service.write_badly(2).await;
    settle(&mut ingest, limits(100)).await;
    assert_eq!(state(&ingest).quarantined, 1);
    service.write("update pair set n = 5 where left_id = 2").await;
    let (_, went) = quarantine(&settle(&mut ingest, limits(100)).await);
    assert_eq!((went.as_slice(), state(&ingest).quarantined), (&["3".to_owned()][..], 0));

    // One more than the limit stops the table, and only it.
    for left in 3..6 {
        service.write_badly(left).await;
    }
    service.write("insert into item (item_id, label) values (1, 'a')").await;
    let cuts = settle(&mut ingest, limits(100)).await;
    assert_eq!(cuts.last().unwrap().positions, at(8));
    let stopped = state(&ingest);
    assert_eq!((stopped.phase, stopped.quarantined), (Phase::Stopped, 3));
    assert!(stopped.remedy.unwrap().contains("medlake ingest resync shop.pair"));
    service.write("insert into pair values (8, 'left out', 0)").await;
    let cuts = settle(&mut ingest, limits(100)).await;
    assert_eq!(
        cuts.iter().flat_map(|c| &c.batches).filter(|b| b.table().name() == &pair).count(),
        0
    );

    // Copying all of it again makes good what was left out and what could not be read.
    ingest.resync(&pair).unwrap();
    let cuts = settle(&mut ingest, limits(100)).await;
    assert_eq!(cuts.iter().flat_map(|c| &c.copies).map(|c| c.rows.num_rows()).sum::<usize>(), 7);
    assert_eq!(quarantine(&cuts).1.len(), 3);
    let now = state(&ingest);
    assert_eq!((now.phase, now.quarantined, now.reason), (Phase::Streaming, 0, None));
}
