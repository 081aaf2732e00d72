//! What must not keep a copy from coming to its end.

use futures::FutureExt;

use super::*;

/// Reads until all tables are copied; a call has so much patience.
async fn copied(ingest: &mut Ingest, replica: &mut Replica, patience: usize) {
    let limits = CutLimits { max_rows: 10, max_bytes: usize::MAX };
    for _ in 0..2_000 {
        let cut = tokio::select! {
            biased;
            cut = ingest.next(limits) => cut.unwrap(),
            () = yields(patience) => continue,
        };
        replica.apply(&cut);
        if replica.states.len() == 3 && replica.is_streaming() {
            return;
        }
    }
    panic!("not copied: {:?}", replica.states);
}

#[tokio::test]
async fn where_the_log_ends_takes_longer_to_know_than_anybody_waits_for_a_page() {
    let model = filled();
    model.state().end_yields = 50;
    let mut replica = Replica::default();
    let source = source(&model, 2, false, 20);
    let mut ingest = open(&model, &mut replica, source).await;
    copied(&mut ingest, &mut replica, 5).await;
    replica.assert_is(&model, "in the end");
}

#[tokio::test]
async fn rows_are_copied_however_much_memory_logs_and_other_copies_hold() {
    let model = filled();
    let settings = settings(20);
    let copies = settings.budget.try_hold_copy(usize::MAX).unwrap();
    let log = settings.budget.hold(usize::MAX).now_or_never().unwrap();
    let rows = (0..3).map(|_| model.rows(true, 1)).collect();
    let database = Database::new(model.log(), rows, settings.clone());
    let mut replica = Replica::default();
    let mut ingest = open(&model, &mut replica, AnySource(Box::new(database))).await;
    copied(&mut ingest, &mut replica, 1_000).await;
    replica.assert_is(&model, "in the end");
    drop((copies, log));
    assert_eq!(settings.budget.held_bytes(), 0, "nothing is kept");
}

/// The log is far behind where the rows are read, and is read with memory of the same budget.
#[tokio::test]
async fn rows_that_wait_for_the_log_leave_it_memory_to_come_to_them() {
    let model = filled();
    let settings = settings(20);
    let mut replica = Replica::default();
    let rows = (0..3).map(|_| model.rows(true, 1)).collect();
    let database = Database::new(model.log(), rows, settings.clone());
    let mut ingest = open(&model, &mut replica, AnySource(Box::new(database))).await;
    let one = CutLimits { max_rows: 1, max_bytes: usize::MAX };
    replica.apply(&ingest.next(one).await.unwrap());
    let mut random = StdRng::seed_from_u64(3);
    (0..300).for_each(|_| write(&model, &mut random));
    for _ in 0..50 {
        replica.apply(&ingest.next(one).await.unwrap());
        let copies = || settings.budget.try_hold_copy(16 << 10);
        let _of_other_sources: Vec<_> = std::iter::from_fn(copies).collect();
        let page = settings.budget.hold(usize::MAX).now_or_never();
        assert!(page.is_some(), "the log's next page has room");
    }
    assert!(!replica.is_streaming(), "they still wait");
    copied(&mut ingest, &mut replica, 1_000).await;
}

/// Rows without a key, as a reader gathers them who compares them with what he has.
#[tokio::test]
async fn tables_without_a_key_are_compared_as_they_are_where_the_log_is() {
    for (exact, size) in [(true, 500), (false, 500), (true, 10)] {
        let model = filled();
        let bag: TableName = "m.bag".parse().unwrap();
        let text = |n: i64| Some((n % 9).to_string());
        let rows = (0..size).map(|n| vec![text(n), text(n / 3), None]);
        model.state().tables.get_mut(&bag).unwrap().rows = rows.collect();
        let mut replica = Replica::default();
        let source = source(&model, 2, exact, 60);
        let mut ingest = open(&model, &mut replica, source).await;
        copied(&mut ingest, &mut replica, 1_000).await;
        let mut random = StdRng::seed_from_u64(5);
        ingest.compare(&bag).unwrap();
        let mut rows: BTreeMap<Row, usize> = BTreeMap::new();
        let mut parts = 0;
        while ingest.is_comparing(&bag).unwrap() {
            if parts == 0 {
                write(&model, &mut random);
            }
            let limits = CutLimits { max_rows: 10, max_bytes: usize::MAX };
            let cut = ingest.next(limits).await.unwrap();
            replica.apply(&cut);
            for copy in &cut.compared {
                assert!(
                    matches!(copy.scope, CopyScope::Part { first } if first == (parts == 0))
                        || matches!(copy.scope, CopyScope::Range { .. }) && size == 10
                );
                parts += 1;
                let new = (0..copy.rows.num_rows()).map(|row| values(&copy.rows, row));
                new.for_each(|row| *rows.entry(row).or_default() += 1);
            }
        }
        assert!(parts > 0 && (parts > 5) == (size > 100), "{parts} parts");
        assert_eq!(rows, replica.bags[&bag]);
        assert!(replica.is_streaming());

        ingest.compare(&bag).unwrap();
        ingest.stop(&bag, "a person wants so".to_owned(), String::new());
        let reason = ingest.is_comparing(&bag).unwrap_err();
        assert_eq!(reason, "it is stopped: a person wants so");
    }
}

#[tokio::test]
async fn a_table_without_a_key_is_replaced_as_a_whole_or_not_at_all() {
    let model = filled();
    let bag: TableName = "m.bag".parse().unwrap();
    let rows = (0..500).map(|n: i64| vec![Some((n % 9).to_string()), Some(n.to_string()), None]);
    model.state().tables.get_mut(&bag).unwrap().rows = rows.collect();
    let mut replica = Replica::default();
    // The first few rows are in memory, all others in a file.
    let settings = DatabaseSettings { chunk_bytes: 2_000, ..settings(20) };
    let database = Database::new(model.log(), vec![model.rows(true, 1)], settings);
    let mut ingest = open(&model, &mut replica, AnySource(Box::new(database))).await;
    copied(&mut ingest, &mut replica, 1_000_000).await;
    let mut copies = 0;
    for passes in [0, 1, 3, 24, 25] {
        ingest.resync(&bag).unwrap();
        (model.state().passes, model.state().failures) = (passes, 2);
        loop {
            let limits = CutLimits { max_rows: 10, max_bytes: usize::MAX };
            let cut = ingest.next(limits).await.unwrap();
            replica.apply(&cut);
            if cut.open {
                copies += 1;
                // A person who wants it again has it.
                ingest.resync(&bag).unwrap();
                continue;
            }
            let held: usize = replica.bags[&bag].values().sum();
            assert_eq!(held, 500, "after {passes} answers");
            if replica.is_streaming() {
                break;
            }
        }
        assert_eq!(model.state().failures, 0);
    }
    assert_eq!(copies, 5 * 25, "each copy was handed out once");
    replica.assert_is(&model, "in the end");
}

/// Rows have the columns of now, and the log is far before the change that makes them known.
#[tokio::test]
async fn a_table_without_a_key_waits_for_the_log_to_tell_its_columns() {
    let model = filled();
    let bag: TableName = "m.bag".parse().unwrap();
    model.commit(vec![Event::Columns(table("m.bag", &[], 2))]);
    let mut replica = Replica::default();
    // However soon they are asked for again.
    let settings = DatabaseSettings { first_pause: Duration::ZERO, ..settings(20) };
    let database = Database::new(model.log(), vec![model.rows(true, 1)], settings);
    let mut ingest = open(&model, &mut replica, AnySource(Box::new(database))).await;
    copied(&mut ingest, &mut replica, 1_000).await;
    let mut random = StdRng::seed_from_u64(5);
    let one = CutLimits { max_rows: 1, max_bytes: usize::MAX };
    ingest.resync(&bag).unwrap();
    // They go and come back, again and again, more often than rows may fail to be read.
    let mut extra = [0, 2, 0, 2, 0, 2, 0].into_iter();
    loop {
        let end = model.state().log.len();
        let is_told = *replica.schemas[&bag] == *model.state().tables[&bag].schema;
        if is_told && let Some(extra) = extra.next() {
            (0..30).for_each(|_| write(&model, &mut random));
            model.commit(vec![Event::Columns(table("m.bag", &[], extra))]);
        } else if replica.is_streaming() && stored_at(&replica) == Some(end) {
            break;
        }
        replica.apply(&ingest.next(one).await.unwrap());
        let phase = replica.states[&bag].phase;
        assert_ne!(phase, Phase::Stopped, "{:?}", replica.states[&bag]);
    }
    replica.assert_is(&model, "in the end");
}

/// The tables are asked for, then where the log ends: in between, the log may tell of newer columns.
#[tokio::test]
async fn columns_that_were_asked_for_are_older_than_those_the_log_tells_of() {
    for meanwhile in 0..40_i64 {
        let model = filled();
        let mut replica = Replica::default();
        let source = source(&model, 2, true, 20);
        let mut ingest = open(&model, &mut replica, source).await;
        copied(&mut ingest, &mut replica, 1_000).await;
        model.state().rewrites = true;
        model.state().end_yields = 20;
        model.commit(vec![Event::Columns(table("m.keyed", &["id"], 1))]);
        for call in 0..2_000 {
            if call == meanwhile {
                model.commit(vec![Event::Columns(table("m.keyed", &["id"], 2))]);
            }
            if call > meanwhile && call % 4 == 0 && call < 300 {
                let mut row = vec![Some((1_000 + call).to_string()), None, None, None];
                row.resize(5, Some("new".to_owned()));
                let none = vec![None; 5];
                let name = "m.keyed".parse().unwrap();
                model.commit(vec![Event::Change(name, Op::Insert, none, row)]);
            }
            let limits = CutLimits { max_rows: 1, max_bytes: usize::MAX };
            tokio::select! {
                biased;
                cut = ingest.next(limits) => replica.apply(&cut.unwrap()),
                () = yields(3) => {}
            }
            let end = model.state().log.len();
            if call > 300 && replica.is_streaming() && stored_at(&replica) == Some(end) {
                break;
            }
        }
        replica.assert_is(&model, &format!("told after {meanwhile} calls"));
    }
}
