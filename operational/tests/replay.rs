//! What a replay of recorded data does: the same functions, with recorded times, prices and ids.

use std::time::Instant;

use medlake_operational::{
    OperationalError, Scope, WriteTransaction,
    mall::{
        Pricing, RecordedLine,
        orders::{self, Channel, NewOrder},
        payments,
        pharmacies::{self, NewPharmacy},
        products::{self, NewProduct, ProductKind, ReturnPolicy},
        refunds::{self, NewRefund, NewRefundLine},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{App, On, SECOND, START};

on_both! {
    recorded_amounts_are_kept_as_they_are,
    a_replay_that_breaks_off_goes_on_where_it_was,
    many_recorded_orders_are_taken_in,
}

/// Ids of recorded orders begin here; those of new orders follow on.
const FIRST_ID: i64 = 26_984_851_472;

async fn stock(tx: &mut WriteTransaction) {
    let scope = Scope::at(START);
    let pharmacies: Vec<NewPharmacy> = (1..=20)
        .map(|id| NewPharmacy {
            pharmacy_id: Some(id * 300),
            ..NewPharmacy::new(format!("店 {id}"), "浙江")
        })
        .collect();
    assert_eq!(pharmacies::create_many(tx, scope, &pharmacies).await.unwrap().len(), 20);
    assert!(pharmacies::create_many(tx, scope, &pharmacies).await.unwrap().is_empty());
    let products: Vec<NewProduct> = (1..=2_000)
        .map(|id| NewProduct {
            product_id: Some(id + 800_000),
            brand: (id % 3 == 0).then(|| "自有".into()),
            ..NewProduct::new(
                format!("商品 {id}"),
                ProductKind::Other,
                "杂货",
                id,
                ReturnPolicy::SevenDay,
            )
        })
        .collect();
    let made = products::create_many(tx, scope, &products).await.unwrap();
    assert_eq!((made.len(), made[0].product_id, made[0].created_at.0), (2_000, 800_001, START));
    assert!(products::create_many(tx, scope, &products).await.unwrap().is_empty());
}

fn recorded(id: i64, at: i64, lines: Vec<RecordedLine>) -> (Scope, NewOrder) {
    let order = NewOrder {
        order_id: Some(id),
        ..NewOrder::new(1 + id % 2_500, 300, Channel::Pharmacy, Pricing::Recorded(lines))
    };
    (Scope::at(at), order)
}

async fn recorded_amounts_are_kept_as_they_are(on: On) {
    let app = App::start(on).await;
    let mut tx = app.services.mall().begin(START + 9).await.unwrap();
    stock(&mut tx).await;
    let line = RecordedLine { product_id: 800_001, ..RecordedLine::default() };
    let lines = vec![
        RecordedLine {
            quantity: 3,
            list_amount_fen: 1_000,
            disc_item_fen: 100,
            disc_coupon_merchant_fen: 55,
            disc_coupon_platform_fen: 45,
            ..line
        },
        // A coupon worth more than its line, and a line of no units, as tills record them.
        RecordedLine { quantity: 1, list_amount_fen: 79, disc_coupon_merchant_fen: 100, ..line },
        RecordedLine { quantity: 0, order_line_id: Some(77), ..line },
    ];
    let (scope, order) = recorded(FIRST_ID, START - 5, lines);
    let placed = orders::place(&mut tx, scope, order.clone()).await.unwrap();
    assert_eq!(placed.order.created_at, START - 5);
    assert_eq!((placed.order.list_amount_fen, placed.order.goods_amount_fen), (1_079, 979));
    assert_eq!((placed.order.discount_fen, placed.order.payable_fen), (200, 779));
    assert_eq!(placed.lines.iter().map(|l| l.cash_fen).collect::<Vec<_>>(), [800, -21, 0]);
    assert_eq!(placed.lines.iter().map(|l| l.unit_price_fen).collect::<Vec<_>>(), [333, 79, 0]);
    assert_eq!(placed.lines[2].order_line_id, 77);
    payments::pay(&mut tx, Scope::at(START - 4), FIRST_ID, "recorded").await.unwrap();
    // What is told of the order is what is stored.
    assert_eq!(orders::lines(&mut tx, FIRST_ID).await.unwrap(), placed.lines);

    let again = orders::place(&mut tx, scope, order).await.unwrap_err();
    assert!(matches!(again, OperationalError::Conflict { .. }), "{again}");
    // Nothing is given back for a line that cost nothing.
    let units = NewRefundLine::units(placed.lines[1].order_line_id, 1);
    let refund = NewRefund::new("r", vec![units]);
    let refund = refunds::refund(&mut tx, scope, FIRST_ID, &refund).await.unwrap();
    assert_eq!(refund.row.amount_fen, 0);
    tx.commit().await.unwrap();

    let mut reader = app.services.mall().read().await.unwrap();
    assert_eq!(orders::highest_id(&mut reader, 0..=i64::MAX).await.unwrap(), Some(FIRST_ID));
    assert_eq!(orders::highest_id(&mut reader, 0..=9).await.unwrap(), None);
}

async fn a_replay_that_breaks_off_goes_on_where_it_was(on: On) {
    let app = App::start(on).await;
    let mut tx = app.services.mall().begin(START).await.unwrap();
    stock(&mut tx).await;
    tx.commit().await.unwrap();
    let line = RecordedLine {
        product_id: 800_002,
        quantity: 1,
        list_amount_fen: 5,
        ..RecordedLine::default()
    };
    for commits in [3, 0, 5] {
        let from = {
            let mut reader = app.services.mall().read().await.unwrap();
            orders::highest_id(&mut reader, FIRST_ID..=i64::MAX)
                .await
                .unwrap()
                .map_or(FIRST_ID, |id| id + 1)
        };
        for batch in 0..=commits {
            let mut tx = app.services.mall().begin(START).await.unwrap();
            for id in from + batch * 10..from + batch * 10 + 10 {
                let (scope, order) = recorded(id, START + id, vec![line; 2]);
                orders::place(&mut tx, scope, order).await.unwrap();
                payments::pay(&mut tx, scope, id, "recorded").await.unwrap();
            }
            // The last one is broken off.
            if batch < commits {
                tx.commit().await.unwrap();
            }
        }
    }
    let mall = app.services.mall();
    assert_eq!(app.scalar(mall, "select count(*) from orders where status = 'paid'").await, 80);
    assert_eq!(app.scalar(mall, "select max(order_id) - min(order_id) from orders").await, 79);
    assert_eq!(app.scalar(mall, "select count(*) from outbox").await, 0);
    assert_eq!(app.scalar(mall, "select count(*) from order_line").await, 160);
}

/// Prints how fast recorded orders are taken in; a machine that is busy with other things only has
/// to show that it is not absurdly slow.
async fn many_recorded_orders_are_taken_in(on: On) {
    let app = App::start(on).await;
    let mut tx = app.services.mall().begin(START).await.unwrap();
    stock(&mut tx).await;
    tx.commit().await.unwrap();
    let mut rng = StdRng::seed_from_u64(5);
    let orders: Vec<(Scope, NewOrder)> = (0..3_000)
        .map(|n| {
            let lines = (0..rng.random_range(1..19))
                .map(|_| RecordedLine {
                    product_id: rng.random_range(800_001..=802_000),
                    quantity: rng.random_range(0..5),
                    list_amount_fen: rng.random_range(50..2_000),
                    disc_item_fen: rng.random_range(0..50),
                    ..RecordedLine::default()
                })
                .collect();
            recorded(FIRST_ID + n, START + n * SECOND, lines)
        })
        .collect();
    let start = Instant::now();
    let mut lines = 0;
    for batch in orders.chunks(200) {
        let mut tx = app.services.mall().begin(START).await.unwrap();
        for (scope, order) in batch {
            let placed = orders::place(&mut tx, *scope, order.clone()).await.unwrap();
            payments::pay(&mut tx, *scope, placed.order.order_id, "recorded").await.unwrap();
            lines += placed.lines.len();
        }
        tx.commit().await.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{lines} lines of 3000 orders on {on:?} in {seconds:.2} s");
    let expected = i64::try_from(lines).unwrap();
    assert_eq!(app.scalar(app.services.mall(), "select count(*) from order_line").await, expected);
    if on == On::Sqlite {
        let captured = "select count(*) from cdc_change where table_name = 'order_line'";
        assert_eq!(app.scalar(app.services.mall(), captured).await, expected);
    }
}
